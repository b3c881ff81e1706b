"""Reads initial weights from a .npz or .safetensors file, by torch's names and in torch's layout."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from pathlib import Path
from typing import Dict, Sequence, Set

import numpy as np

from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import TensorSpec


def read_weights_file(path: Path, expected: Sequence[TensorSpec]) -> Dict[str, np.ndarray]:
    """Return the file's tensors for all ``expected`` ones. A tied weight may be there under any of its names.

    Raises CaseError naming the tensors that are missing, left over, or of another shape.
    """
    found = _read(path)
    result: Dict[str, np.ndarray] = {}
    used: Set[str] = set()
    for spec in expected:
        name = next((name for name in (spec.name, *spec.aliases) if name in found), None)
        if name is None:
            if spec.role == "num_batches_tracked":
                continue
            near = difflib.get_close_matches(spec.name, list(found), n=2)
            raise CaseError(f"{path}: no {spec.name}" + (f"; nearest: {', '.join(near)}" if near else ""))
        used.update((spec.name, *spec.aliases))
        array = found[name]
        if array.dtype.kind != np.dtype(spec.dtype).kind:
            raise CaseError(f"{path}: {name} has dtype {array.dtype}, the model's has {spec.dtype}")
        if array.shape != spec.shape:
            raise CaseError(f"{path}: {name} has shape {list(array.shape)}, the model's has {list(spec.shape)}")
        result[spec.name] = np.array(array, dtype=spec.dtype, order="C")
    left_over = sorted(name for name in found if name not in used)
    if left_over:
        raise CaseError(f"{path}: the torch model has no {', '.join(left_over[:5])} ({len(left_over)} left over)")
    return result


def _read(path: Path) -> Dict[str, np.ndarray]:
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise CaseError(f"{path} is a single .npy array: save each tensor by its name with np.savez")
            return {name: np.asarray(archive[name]) for name in archive.files}
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError) as error:
        raise CaseError(f"{path} holds no plain arrays: {error}") from None


def _read_safetensors(path: Path) -> Dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(str(path)))
    except (SafetensorError, KeyError, TypeError) as error:
        raise CaseError(f"{path} holds no tensors that numpy has: {error}; save them as float32 or float64") from None
