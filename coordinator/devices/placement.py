"""Decide which device and which CPU cores each side gets, and the environment variables that pin them.

Pure: the same requests and the same machine give the same placement. Two GPUs are used where there are two; one is
shared with a warning; without one each side gets its own cores. The number of threads and every other setting that
changes numbers is the same on both sides, and takes effect before the interpreter starts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepalign.coordinator.devices.gpus import Gpu
from stepalign.protocol.errors import CaseError, EnvironmentFailure

SIDES = ("torch", "paddle")

MOST_THREADS = 16
"""More threads than this are used only on request: a large machine's verdict stays comparable with a smaller one's."""

NUMERIC_VARIABLES: Mapping[str, str] = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "NVIDIA_TF32_OVERRIDE": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FLAGS_cudnn_deterministic": "1",
    "FLAGS_embedding_deterministic": "1",
    "FLAGS_cudnn_exhaustive_search": "0",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
    "PYTHONHASHSEED": "0",
}
"""What both workers are told alike: no TF32, deterministic kernels, steady thread counts, the same order of sets."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_NUMBERED = re.compile(r"gpu:([0-9]{1,4})")


@dataclass(frozen=True)
class Device:
    """What one side runs on.

    ``kind`` is ``"cpu"`` or ``"gpu"``. ``gpu`` is the pinned GPU or None. ``cores`` are the logical cores to bind the
    worker to; ``threads`` is how many it computes with. ``env`` must be set before the interpreter starts.
    """

    kind: str
    gpu: Gpu | None
    cores: tuple[int, ...]
    threads: int
    env: Mapping[str, str]

    @property
    def gpu_uuid(self) -> str | None:
        """The pinned GPU's UUID, or None on the CPU."""
        return self.gpu.uuid if self.gpu is not None else None


@dataclass(frozen=True)
class Placement:
    """Both sides' devices. ``warnings`` can change numbers or speed; ``notes`` say what a choice was based on."""

    devices: Mapping[str, Device]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def place(
    devices: Mapping[str, str],
    supports_gpu: Mapping[str, bool],
    gpus: Sequence[Gpu],
    cpu_cores: Sequence[int],
    threads: int | None = None,
) -> Placement:
    """Decide both sides' devices.

    devices: for each side ``"auto"``, ``"cpu"``, ``"gpu"`` or ``"gpu:N"``, where N counts ``gpus`` from 0.
    supports_gpu: whether each side's build of its framework can use a GPU.
    gpus: those that may be used, as `gpus.list_gpus` gives them.
    cpu_cores: the logical cores that may be used, neighbours side by side, as `cores.available_cores` gives them.
    threads: for each side; otherwise the size of its share of the cores, at most `MOST_THREADS`.

    Raises CaseError for a request that cannot be read or met, EnvironmentFailure where only the build prevents it.
    """
    if not cpu_cores:
        raise CaseError("no CPU core may be used: the list of cores is empty.")
    if threads is not None and threads < 1:
        raise CaseError(f"threads: expected a number from 1, came {threads}.")
    notes: list[str] = []
    warnings: list[str] = []
    wanted = {side: _wanted(side, devices[side], supports_gpu[side], gpus, notes) for side in SIDES}
    chosen = _choose_gpus(wanted, gpus, warnings)
    shares = _split_cores(tuple(cpu_cores), warnings)
    size = min(len(share) for share in shares.values())
    count = min(size, MOST_THREADS) if threads is None else threads
    if count > size:
        warnings.append(f"{count} threads a side on {size} core(s) a side: they will wait for one another.")
    placed = {}
    for side in SIDES:
        gpu = chosen[side]
        pinned = {**NUMERIC_VARIABLES, **dict.fromkeys(_THREAD_VARIABLES, str(count))}
        pinned["CUDA_VISIBLE_DEVICES"] = gpu.uuid if gpu is not None else ""
        placed[side] = Device("gpu" if gpu is not None else "cpu", gpu, shares[side], count, pinned)
    if len({device.kind for device in placed.values()}) == 2:
        on_gpu = next(side for side in SIDES if placed[side].kind == "gpu")
        notes.append(
            f"{on_gpu} runs on a GPU and the other side on the CPU: rounding differs more than on equal devices. "
            'To compare on equal ones set device = "cpu" for both.'
        )
    return Placement(placed, tuple(warnings), tuple(notes))


def _wanted(side: str, request: str, supported: bool, gpus: Sequence[Gpu], notes: list[str]) -> int | str:
    """Read a request: a position in ``gpus``, ``"gpu"`` for any, or ``"cpu"``."""
    numbered = _NUMBERED.fullmatch(request)
    if request not in ("auto", "cpu", "gpu") and numbered is None:
        raise CaseError(f'[{side}] device: expected "auto", "cpu", "gpu" or "gpu:N", came {request!r}.')
    if request == "cpu":
        return "cpu"
    if request == "auto":
        if gpus and not supported:
            notes.append(f"{side} runs on the CPU although there is a GPU: its framework is a build for the CPU only.")
        return "gpu" if gpus and supported else "cpu"
    if not gpus:
        raise CaseError(
            f"[{side}] device = {request!r}: no GPU may be used here (stepalign doctor says why). "
            'Set device = "cpu" or "auto".'
        )
    position = int(numbered.group(1)) if numbered is not None else None
    if position is not None and position >= len(gpus):
        there = ", ".join(f"gpu:{number} ({gpu.name})" for number, gpu in enumerate(gpus))
        raise CaseError(f"[{side}] device = {request!r}: there are {len(gpus)} GPUs to use: {there}.")
    if not supported:
        raise EnvironmentFailure(
            f"[{side}] device = {request!r}: the framework in this side's environment is a build for the CPU only. "
            'Name an environment with a CUDA build, or set device = "cpu" or "auto".'
        )
    return "gpu" if position is None else position


def _choose_gpus(wanted: Mapping[str, int | str], gpus: Sequence[Gpu], warnings: list[str]) -> dict[str, Gpu | None]:
    """Give each side its GPU: the numbered first, then one not taken, of the other's kind, with most free memory."""
    positions: dict[str, int] = {side: choice for side, choice in wanted.items() if isinstance(choice, int)}
    for side in SIDES:
        if wanted[side] != "gpu":
            continue
        taken = list(positions.values())
        names = {gpus[position].name for position in taken}

        def rank(position: int, taken: list[int] = taken, names: set[str] = names) -> tuple[bool, bool, int, int]:
            gpu = gpus[position]
            return (position in taken, bool(names) and gpu.name not in names, -(gpu.memory_free_bytes >> 30), position)

        positions[side] = min(range(len(gpus)), key=rank)
    used = [gpus[position] for position in positions.values()]
    if len(used) == 2 and used[0] == used[1]:
        warnings.append(
            f"both sides share one GPU ({used[0].name}, {used[0].uuid}): they share its memory and slow each other."
        )
    elif len(used) == 2 and used[0].name != used[1].name:
        warnings.append(
            f"the sides' GPUs are of different kinds ({used[0].name}, {used[1].name}): their kernels round differently."
        )
    return {side: gpus[positions[side]] if side in positions else None for side in SIDES}


def _split_cores(cores: tuple[int, ...], warnings: list[str]) -> dict[str, tuple[int, ...]]:
    """Give each side one half; a core left over stays with the coordinator."""
    if len(cores) == 1:
        warnings.append("there is one CPU core: both sides share it.")
        return dict.fromkeys(SIDES, cores)
    half = len(cores) // 2
    return {"torch": cores[:half], "paddle": cores[half : 2 * half]}
