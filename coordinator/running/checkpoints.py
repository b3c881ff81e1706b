"""What an interrupted run continues from: both sides' state, the judge's and the record's, kept now and then.

    RUN/checkpoints/<step>/state.json      everything but arrays, and which array is which, by digest
    RUN/checkpoints/<step>/state.sha256    the SHA-256 of state.json
    RUN/checkpoints/<step>/arrays.npz      each array once, by its digest

Guarantees: a folder that has its name is whole, and no step of it is missing in steps.jsonl, also after a power failure;
all that is read is checked against its digest; nothing is pickled. The two newest are kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from stepalign.coordinator.results.records import StepsLog, to_strict, write_bytes, write_json, write_text
from stepalign.coordinator.running.heap import give_back
from stepalign.protocol.errors import CaseError, StepalignError
from stepalign.protocol.messages import Checkpoint, Named
from stepalign.protocol.tensors import digest

FOLDER_NAME = "checkpoints"
VERSION = 6
"""Of what a checkpoint holds, and of how `kept_record` writes it."""

REFUSED_NAME = "refused.json"
KEPT = 2
_PIECE_SIZE_BYTES = 1 << 16
FIRST_STEP = 2
"""Before that no change from step to step can have been seen."""

MOST_OF_TIME = 0.05
"""The part of a run's time that keeping may take."""

KEPT_BYTES_PER_S = 256 << 20
"""Of state, in a second, before any was kept: 256 MiB took 0.64 s of CPU (2 cores, AMD EPYC) and the disk its own time."""

RESIDENT_SIZE_BYTES = 256 << 20
"""Of what is read of memory shared with the workers before its pages are given back."""

WORTH_S = 2.0
"""An interrupted run keeps its state if the steps since the last time took longer than this."""


_DAMAGE = (
    OSError, ValueError, LookupError, AttributeError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy, zipfile and json raise at bytes that are not what was written."""


@dataclass(frozen=True)
class Kept:
    """One checkpoint: arrays by owner (``torch``, ``paddle``, ``judge``, ``record``) and name, and all else as JSON."""

    step: int
    arrays: Mapping[str, Named]
    plain: Mapping[str, Any] = field(default_factory=dict)


class Keeper:
    """Decides when to keep, and keeps. ``describe`` gives the judge's and the record's part at that moment. How long keeping
    takes is known from the last time; before the first it is reckoned from ``size_bytes``, both sides' state together.

    ``due`` is called on the run's thread, ``keep`` on the comparing thread. ``give_pages_back`` takes what was read of the
    workers' memory out of this process.
    """

    def __init__(
        self,
        folder: Path,
        log: StepsLog,
        every_s: float,
        describe: Callable[[], Tuple[Dict[str, Named], Dict[str, Any]]],
        clock: Callable[[], float] = time.monotonic,
        give_pages_back: Callable[[], None] = lambda: None,
        size_bytes: int = 0,
    ) -> None:
        self._folder = folder / FOLDER_NAME
        self._log = log
        self._every_s = every_s
        self._describe = describe
        self._clock = clock
        self._give_pages_back = give_pages_back
        self._last = clock()
        self._cost_s = size_bytes / KEPT_BYTES_PER_S
        self._refused = not every_s

    def due(self, interrupted: bool) -> bool:
        """Say whether it is time; an interruption does not wait for it."""
        if self._refused:
            return False
        now = self._clock()
        wait_s = min(WORTH_S, self._every_s) if interrupted else max(self._every_s, self._cost_s / MOST_OF_TIME)
        if now - self._last < wait_s:
            return False
        self._last = now
        return True

    def keep(self, step: int, states: Dict[str, Checkpoint]) -> None:
        """Write a checkpoint; one that cannot be had or written is noted in the folder, and the run goes on.

        What a side keeps to itself is seen to change from its second step on: nothing is kept before, and what was kept
        until the change was seen goes.
        """
        started = self._clock()
        problem = next((f"the {role} side: {state.problem}" for role, state in states.items() if state.problem), "")
        try:
            if problem:
                self._refused = True
                self._folder.mkdir(exist_ok=True)
                _remove(self._folder, kept_steps(self._folder.parent))
                write_json(self._folder / REFUSED_NAME, {"step": step, "reason": problem})
                return
            if step < FIRST_STEP:
                return
            self._write(step, states)
        except (OSError, StepalignError) as error:
            self._refused = True  # a full disk: steps.jsonl and result.json need what is left more
            with contextlib.suppress(OSError, StepalignError):
                write_json(self._folder / REFUSED_NAME, {"step": step, "reason": str(error)})
        give_back()
        self._cost_s = self._clock() - started + max(state.seconds for state in states.values())
        self._last = self._clock()

    def _write(self, step: int, states: Dict[str, Checkpoint]) -> None:
        """Write a checkpoint; all that was made for it is gone when this returns."""
        arrays, plain = self._describe()
        arrays.update({role: dict(state.tensors) for role, state in states.items()})
        self._log.sync()
        kept = Kept(step, arrays, {**plain, "sides": {role: state.plain for role, state in states.items()}})
        write_checkpoint(self._folder, kept, self._give_pages_back)


def write_checkpoint(folder: Path, kept: Kept, give_pages_back: Callable[[], None] = lambda: None) -> None:
    """Write a checkpoint into ``folder``, whole or not at all, and remove all but the newest. One array after the other is
    read, and ``give_pages_back`` called after every `RESIDENT_SIZE_BYTES`.
    """
    reading = _Sparing(give_pages_back)
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder / f".{kept.step}.tmp"
    temporary.mkdir()
    try:
        by_digest: Dict[str, np.ndarray] = {}
        index: Dict[str, Dict[str, str]] = {}
        for owner, named in kept.arrays.items():
            index[owner] = {name: digest({"": array}) for name, array in reading.each(named)}
            by_digest.update({index[owner][name]: array for name, array in named.items()})
        with open(temporary / "arrays.npz", "xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, array in reading.each(by_digest):
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        _write_array(member, np.asarray(array, order="C"))
            file.flush()
            os.fsync(file.fileno())
        _write_state(temporary, {"version": VERSION, "step": kept.step, "arrays": index, **to_strict(kept.plain)})
        _sync_folder(temporary)
        target = folder / str(kept.step)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(temporary, target)
        _sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remove(folder, kept_steps(folder.parent)[KEPT:])


def _write_array(file: IO[bytes], array: np.ndarray) -> None:
    """Write what `np.lib.format.write_array` does, without a copy of the whole array."""
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    data = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
    for start in range(0, data.nbytes, _PIECE_SIZE_BYTES):
        file.write(data[start : start + _PIECE_SIZE_BYTES])


class _Sparing:
    """Reads arrays one after the other and gives pages back on the way."""

    def __init__(self, give_pages_back: Callable[[], None]) -> None:
        self._give_pages_back = give_pages_back
        self._size_bytes = 0

    def each(self, named: Mapping[str, np.ndarray]) -> Iterator[Tuple[str, np.ndarray]]:
        """Yield each name with its array."""
        for name, array in named.items():
            yield name, array
            self._size_bytes += array.nbytes
            if self._size_bytes >= RESIDENT_SIZE_BYTES:
                self._size_bytes = 0
                self._give_pages_back()


def _write_state(folder: Path, state: Mapping[str, Any]) -> None:
    content = json.dumps(state, allow_nan=False).encode() + b"\n"
    write_bytes(folder / "state.json", content)
    write_text(folder / "state.sha256", hashlib.sha256(content).hexdigest())


def _read_state(folder: Path) -> Dict[str, Any]:
    """Read all but the arrays. Raises CaseError, OSError or ValueError."""
    content = (folder / "state.json").read_bytes()
    if hashlib.sha256(content).hexdigest() != (folder / "state.sha256").read_text(encoding="ascii"):
        raise CaseError(f"{folder}: a damaged checkpoint: state.json is not what its digest says")
    state: Dict[str, Any] = json.loads(content)
    if state.pop("version", None) != VERSION:
        raise CaseError(f"{folder}: a checkpoint that another stepalign wrote")
    return state


def _remove(folder: Path, steps: List[int]) -> None:
    for step in steps:
        shutil.rmtree(folder / str(step), ignore_errors=True)


def kept_steps(run: Path) -> List[int]:
    """Return the steps of a run folder's checkpoints, the newest first."""
    return sorted((int(path.name) for path in (run / FOLDER_NAME).glob("[0-9]*") if path.name.isdigit()), reverse=True)


def read_checkpoint(run: Path, step: int) -> Kept:
    """Read a checkpoint. Raises CaseError if anything of it is not as it was written."""
    folder = run / FOLDER_NAME / str(step)
    try:
        plain = _read_state(folder)
        with open(folder / "arrays.npz", "rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: np.asarray(archive[name]) for name in archive.files}
        wrong = [name for name, array in found.items() if digest({"": array}) != name]
        if wrong or plain["step"] != step:
            raise CaseError(f"{folder}: a damaged checkpoint: an array is not what its digest says")
        arrays = {
            owner: {name: found[key] for name, key in named.items()} for owner, named in plain.pop("arrays").items()
        }
    except _DAMAGE as error:
        raise CaseError(f"{folder}: a damaged checkpoint: {type(error).__name__}: {error}") from None
    return Kept(step, arrays, plain)


def why_refused(run: Path) -> Optional[str]:
    """Return why a run kept no state, if a side said so."""
    try:
        return str(json.loads((run / FOLDER_NAME / REFUSED_NAME).read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def forget(run: Path) -> None:
    """Remove all checkpoints of a run that is complete."""
    shutil.rmtree(run / FOLDER_NAME, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
