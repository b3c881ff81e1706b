"""Shares of a machine for cases that run at once: two GPUs each, with a part of the cores; without GPUs one share.

Each GPU has a lock file of its own, so that processes which see different GPUs agree on those that both see. On a CPU
cases wait for each other: with fewer cores a case has other numbers of threads, and is slower than after a wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from stepalign.coordinator.devices.cores import available_cores
from stepalign.coordinator.devices.gpus import VISIBLE_VARIABLE, Gpu, list_gpus
from stepalign.protocol.errors import DeadlineExceeded, EnvironmentFailure

_GPUS_A_CASE = 2
_CORES_A_CASE = 2
_LOOK_S = 0.05


@dataclass(frozen=True)
class Slot:
    """One share: the names of its locks, and the UUIDs of its GPUs and its cores, both empty where it is the whole."""

    locks: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


def machine_slots() -> tuple[Slot, ...]:
    """Return the shares of this machine, as far as this process may use it."""
    return divide(list_gpus(), available_cores())


def divide(gpus: Sequence[Gpu], cores: Sequence[int]) -> tuple[Slot, ...]:
    """Return shares of two GPUs and as many cores each; what is left over goes to the last one."""
    count = max(1, min(len(gpus) // _GPUS_A_CASE, len(cores) // _CORES_A_CASE))
    names = tuple(f"gpu-{gpu.uuid}" for gpu in gpus)
    if count == 1:
        return (Slot(tuple(sorted(names)) or ("pytest",)),)
    slots = []
    for number in range(count):
        last = number == count - 1
        own = slice(number * _GPUS_A_CASE, None if last else (number + 1) * _GPUS_A_CASE)
        size = len(cores) // count
        share = tuple(cores[number * size : None if last else (number + 1) * size])
        slots.append(Slot(tuple(sorted(names[own])), tuple(gpu.uuid for gpu in gpus[own]), share))
    return tuple(slots)


@contextmanager
def take_slot(slots: Sequence[Slot], folder: Path, first: int, wait_s: float) -> Iterator[Slot]:
    """Hold the first free share, beginning with number ``first``; what runs inside sees its GPUs and cores only.

    Raises DeadlineExceeded where none was free for ``wait_s``, EnvironmentFailure where ``folder`` takes no lock.
    """
    deadline = time.monotonic() + wait_s
    order = [slots[(first + number) % len(slots)] for number in range(len(slots))]
    while True:
        for slot in order:
            with ExitStack() as locks:
                if _lock(slot, folder, locks):
                    with _confined(slot):
                        yield slot
                    return
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(
                f"waited {wait_s:.0f} s for the cases of other pytest processes, which hold the locks in {folder}; "
                "--stepalign-parallel does not wait"
            )
        time.sleep(_LOOK_S)


def _lock(slot: Slot, folder: Path, locks: ExitStack) -> bool:
    """Take all locks of a share, or none."""
    for name in slot.locks:
        path = folder / f"{name}.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            locks.enter_context(FileLock(path).acquire(timeout=0))
        except Timeout:
            locks.close()
            return False
        except OSError as error:
            raise EnvironmentFailure(
                f"{path}: cannot be locked: {error.strerror}; set STEPALIGN_HOME to a folder that you can write to, "
                "or give --stepalign-parallel"
            ) from None
    return True


@contextmanager
def _confined(slot: Slot) -> Iterator[None]:
    """Let this process see the share's GPUs and this thread use its cores only; whatever it starts inherits both."""
    visible, cores = os.environ.get(VISIBLE_VARIABLE), os.sched_getaffinity(0)
    try:
        if slot.gpus:
            os.environ[VISIBLE_VARIABLE] = ",".join(slot.gpus)
        if slot.cores:
            os.sched_setaffinity(0, slot.cores)
        yield
    finally:
        if slot.cores:
            os.sched_setaffinity(0, cores)
        if slot.gpus and visible is None:
            del os.environ[VISIBLE_VARIABLE]
        elif slot.gpus and visible is not None:
            os.environ[VISIBLE_VARIABLE] = visible
