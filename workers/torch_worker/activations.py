"""What each module of a torch model returned in one forward, and the gradients that came back to it.

Every value is copied when the module returns it, before anything can change it in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Iterator, List, Tuple

import torch

from stepalign.workers.capture import Arrays
from stepalign.workers.torch_worker.modules import module_type, walk
from stepalign.workers.torch_worker.tensors import to_numpy

_ROOT = "<model>"


@contextmanager
def record_activations(model: Any, patterns: Tuple[str, ...], gradients: bool = False) -> Iterator[Arrays]:
    """Yield a dict that fills with the outputs of the modules whose paths match a glob, as each call completes.

    ``path`` is a module's output, ``path#1`` that of its second call, ``path:0`` and ``path:key`` parts of an output
    that holds several tensors; the model itself is ``<model>``. Attention weights, which torch averages over the
    heads and paddle does not, are left out. With ``gradients`` the gradient of each follows as ``<key>@grad`` when
    backward reaches it, which must be inside the context.
    """
    recorded: Arrays = {}
    calls: Dict[str, int] = {}
    handles: List[Any] = []
    hooked: Dict[int, str] = {}
    for path, module in walk(model) if patterns else ():
        name = path or _ROOT
        if id(module) not in hooked and any(fnmatchcase(name, pattern) for pattern in patterns):
            hooked[id(module)] = name
            handles.append(module.register_forward_hook(_recorder(name, recorded, calls, gradients)))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _recorder(name: str, recorded: Arrays, calls: Dict[str, int], gradients: bool) -> Callable[..., None]:
    """Make the hook of one module."""

    def record(module: Any, inputs: Any, output: Any) -> None:
        call = calls[name] = calls.get(name, -1) + 1
        prefix = f"{name}#{call}" if call else name
        if module_type(module) == "MultiheadAttention" and isinstance(output, tuple):
            output = output[0]
        for key, tensor in _flatten(prefix, output):
            recorded[key] = to_numpy(tensor)
            if gradients and _carries_gradient(tensor):
                tensor.register_hook(_gradient_recorder(f"{key}@grad", recorded))

    return record


def _gradient_recorder(key: str, recorded: Arrays) -> Callable[[Any], None]:
    """Make the hook of one output tensor; of several arrivals the sum is kept."""

    def record(gradient: Any) -> None:
        array = to_numpy(gradient)
        recorded[key] = recorded[key] + array if key in recorded else array

    return record


def _flatten(prefix: str, output: Any) -> List[Tuple[str, Any]]:
    """Name the tensors of an output; one that is alone, whatever it is wrapped in, has the module's name."""
    found = list(_leaves(prefix, output))
    return [(prefix, found[0][1])] if len(found) == 1 else found


def _leaves(prefix: str, output: Any) -> Iterator[Tuple[str, Any]]:
    """Yield the tensors inside tuples, lists and mappings, with their places in the name."""
    if isinstance(output, torch.Tensor):
        yield prefix, output
    elif isinstance(output, Mapping):
        for key, part in output.items():
            yield from _leaves(f"{prefix}:{key}", part)
    elif isinstance(output, (tuple, list)):
        for number, part in enumerate(output):
            yield from _leaves(f"{prefix}:{number}", part)


def _carries_gradient(tensor: Any) -> bool:
    """Tell whether backward will pass through a tensor."""
    return bool(tensor.requires_grad)
