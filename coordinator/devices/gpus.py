"""The GPUs that a run may use, found through the driver's own library (NVML) and without any framework.

An absent driver, library or GPU is an ordinary answer with its reason, never an error. What the user allows by
``CUDA_VISIBLE_DEVICES`` is read as CUDA reads it: by index (by PCI bus, as nvidia-smi counts), by UUID, by a UUID's
beginning; the first entry that means nothing ends the list, one named twice empties it, and an empty text allows none.
A GPU that is split (MIG) counts as its parts.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one part of a split GPU. ``index`` is the driver's, by PCI bus; ``uuid`` is what pins it."""

    uuid: str
    index: int
    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    driver: str


@dataclass(frozen=True)
class Inventory:
    """The GPUs that may be used, in the order in which a script would count them, and why there are no more, if so."""

    gpus: tuple[Gpu, ...]
    reason: str = ""
    driver: str = ""


def list_gpus() -> tuple[Gpu, ...]:
    """Give the GPUs that may be used; none if the driver cannot be asked."""
    return gpu_inventory().gpus


def gpu_inventory(visible: str | None = None) -> Inventory:
    """Ask the driver for its GPUs and keep those that ``visible`` allows (default: ``CUDA_VISIBLE_DEVICES``)."""
    allowed = os.environ.get(VISIBLE_VARIABLE) if visible is None else visible
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError as error:
        return Inventory((), f"the package nvidia-ml-py cannot be imported: {error}")
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError, OSError) as error:
        return Inventory((), f"NVML, the NVIDIA driver's library, says: {error}")
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        found: list[Gpu] = []
        unread: list[str] = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                found += _read_device(pynvml, index, driver)
            except pynvml.NVMLError as error:
                unread.append(f"GPU {index} cannot be read: {error}")
    except (pynvml.NVMLError, OSError) as error:
        return Inventory((), f"NVML, the NVIDIA driver's library, says: {error}")
    finally:
        with contextlib.suppress(pynvml.NVMLError, OSError):
            pynvml.nvmlShutdown()
    kept = visible_gpus(found, allowed)
    reasons = unread if found else [*unread, "the driver reports no GPU"]
    if len(kept) < len(found):
        reasons.append(f"{VISIBLE_VARIABLE}={allowed!r} allows {len(kept)} of {len(found)}")
    return Inventory(kept, "; ".join(reasons) if unread or len(kept) < len(found) or not kept else "", driver)


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """Give the GPUs that a value of ``CUDA_VISIBLE_DEVICES`` allows, in its order; None allows all.

    The rules are CUDA's, as its programming guide has them and as torch repeats them for a text with odd entries.
    """
    if visible is None:
        return tuple(gpus)
    kept: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        matches = _matching(gpus, entry)
        if len(matches) != 1:
            break
        if matches[0] in kept:
            return ()
        kept += matches
    return tuple(kept)


def _matching(gpus: Sequence[Gpu], entry: str) -> list[Gpu]:
    if entry.startswith(("GPU-", "MIG-")):
        return [gpu for gpu in gpus if gpu.uuid.startswith(entry)]
    digits = entry.removeprefix("+")
    length = next((place for place, character in enumerate(digits) if character not in "0123456789"), len(digits))
    if length == 0:
        return []
    # Of a split GPU, an index means its first part: that is the one that CUDA opens.
    return [gpu for gpu in gpus if gpu.index == int(digits[:length])][:1]


def _read_device(pynvml: Any, index: int, driver: str) -> list[Gpu]:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    parts = _read_parts(pynvml, handle)
    gpus = []
    for device in [handle] if parts is None else parts:
        memory = pynvml.nvmlDeviceGetMemoryInfo(device)
        gpus.append(
            Gpu(
                uuid=_text(pynvml.nvmlDeviceGetUUID(device)),
                index=index,
                name=_text(pynvml.nvmlDeviceGetName(device)),
                memory_total_bytes=int(memory.total),
                memory_free_bytes=int(memory.free),
                driver=driver,
            )
        )
    return gpus


def _read_parts(pynvml: Any, handle: Any) -> list[Any] | None:
    """Give the handles of a split GPU's parts; None for one that is whole, or of a kind that cannot be split."""
    try:
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
        if current != pynvml.NVML_DEVICE_MIG_ENABLE:
            return None
        count = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except pynvml.NVMLError:
        return None
    parts = []
    for place in range(count):
        try:
            parts.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))
        except pynvml.NVMLError:
            continue  # places without a part are answered by "not found"
    return parts


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
