"""The border between torch's tensors and numpy's arrays.

An array that leaves is a C-ordered copy with the tensor's shape and dtype, made straight into the room that it is given;
a tensor that comes back has the array's bytes. A dtype that numpy cannot hold is refused by name: nothing is converted on
the way.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from stepalign.protocol.errors import CaseError, WorkerFailure
from stepalign.workers.capture import Room, own_room

_DTYPES = frozenset(
    ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128"]
)


def dtype_name(tensor: Any) -> str:
    """Name a tensor's dtype as numpy does, for example ``"float32"``."""
    return _named(tensor.dtype)


@functools.cache
def _named(dtype: Any) -> str:
    """Name a dtype as numpy does; it is asked of the loss at every step."""
    return str(dtype).rpartition(".")[2]


def to_numpy(tensor: Any, room: Room = own_room) -> np.ndarray:
    """Copy a tensor of any device into a C-ordered array of the same shape and dtype that ``room`` gives; a sparse one is
    made dense.

    Raises WorkerFailure for a dtype that numpy lacks, such as bfloat16.
    """
    dtype = _recordable(tensor)
    if _is_sparse(tensor):
        return _dense(tensor)
    array = room(tuple(tensor.shape), dtype)
    torch.from_numpy(array).copy_(tensor.detach())
    return array


def number_to_numpy(tensor: Any) -> np.ndarray:
    """Copy a tensor of one real number into a 0-d array, as `to_numpy` does but for its shape."""
    return np.array(tensor.item(), _recordable(tensor))


def _recordable(tensor: Any) -> str:
    """Return the name of a tensor's dtype; raises WorkerFailure for one that numpy lacks."""
    name = dtype_name(tensor)
    if name not in _DTYPES:
        raise WorkerFailure(
            f"a tensor of shape {tuple(tensor.shape)} has dtype {name}, which cannot be recorded; "
            f"run the case with dtype float32 or float64, or cast the tensor to one of {sorted(_DTYPES)}"
        )
    return name


def copy_tensor(tensor: Any) -> Any:
    """Copy a tensor on its device; what is done to the copy does not change it."""
    return tensor.clone()


def from_numpy(array: np.ndarray) -> Any:
    """Copy an array into a tensor of the same shape and dtype on this side's device.

    Raises CaseError for a dtype that not both frameworks have.
    """
    if array.dtype.name not in _DTYPES:
        raise CaseError(
            f"an array of shape {array.shape} has dtype {array.dtype}, which torch and paddle do not share; "
            f"convert it in the case's data to one of {sorted(_DTYPES)}"
        )
    own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(own).to(torch.empty(0).device)


def _is_sparse(tensor: Any) -> bool:
    """Tell whether a tensor stores only some of its rows or elements."""
    return bool(tensor.layout != torch.strided)


def _dense(tensor: Any) -> np.ndarray:
    """Copy a sparse tensor with all its zeros; entries of one place are added up."""
    return np.array(tensor.detach().to_dense().cpu().numpy(), order="C")
