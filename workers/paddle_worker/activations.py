"""What each module of a paddle model was given and returned in one forward, and the gradients that came back to it.

Every value is copied when the module is given it or returns it, before anything can change it in place. What one module
returns and the next is given is copied once.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import paddle

from stepalign.workers.capture import Arrays, Room, own_room
from stepalign.workers.paddle_worker.modules import module_type, walk
from stepalign.workers.paddle_worker.tensors import to_numpy

_ROOT = "<model>"
Copies = Dict[int, Tuple[Any, int, np.ndarray]]
"""Tensors that were copied, by identity: the tensor, how often it had been changed in place, and the copy."""


@contextmanager
def record_activations(
    model: Any, patterns: Tuple[str, ...], gradients: bool = False, room: Room = own_room
) -> Iterator[Arrays]:
    """Yield a dict that fills with inputs and outputs of the modules whose paths match a glob, as each call begins and
    ends.

    ``path`` is a module's output, ``path#1`` that of its second call, ``path:0`` and ``path:key`` parts of an output
    that holds several tensors; the model itself is ``<model>``. ``path@input`` and ``path#1@input`` are the first
    tensor that the module was given, recorded before it runs and so before what is inside it; ``path@input:mask`` is
    another, by the argument's name in ``forward`` or else its place, however it was passed. Attention weights, which
    torch averages over the heads and paddle does not, are left out. With ``gradients`` the gradient of each output
    follows as ``<key>@grad`` when backward reaches it, which must be inside the context.
    """
    recorded: Arrays = {}
    copies: Copies = {}
    handles: List[Any] = []
    hooked: Dict[int, str] = {}
    for path, module in walk(model) if patterns else ():
        name = path or _ROOT
        if id(module) not in hooked and any(fnmatchcase(name, pattern) for pattern in patterns):
            hooked[id(module)] = name
            calls: List[str] = []
            handles.append(_before(module, _input_recorder(name, _arguments(module), recorded, calls, copies, room)))
            handles.append(module.register_forward_post_hook(_recorder(recorded, calls, copies, gradients, room)))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _input_recorder(
    name: str, arguments: List[str], recorded: Arrays, calls: List[str], copies: Copies, room: Room
) -> Callable[..., None]:
    """Make the hook that runs before one module, whose forward takes ``arguments``; ``calls`` fills with the names of the
    calls that have not ended.
    """
    begun = 0

    def record(module: Any, inputs: Any, named: Any = None) -> None:
        nonlocal begun
        calls.append(f"{name}#{begun}" if begun else name)
        begun += 1
        first = f"{calls[-1]}@input"
        for part, tensor in _given(arguments, inputs, named):
            recorded[first if first not in recorded else f"{first}:{part}"] = _copied(tensor, copies, room)

    return record


def _arguments(module: Any) -> List[str]:
    """Name the positional arguments of a module's forward, in order; none where they cannot be known."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def _given(arguments: List[str], inputs: Any, named: Any) -> Iterator[Tuple[str, Any]]:
    """Yield the tensors that a module is given with the names of their arguments, in forward's order, those that are passed
    by name last.
    """
    places = {argument: number for number, argument in enumerate(arguments)}
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    for number, value in enumerate(inputs):
        yield from _leaves(arguments[number] if number < len(arguments) else str(number), value)
    for argument in sorted(named or {}, key=lambda argument: places.get(argument, len(places))):
        yield from _leaves(argument, named[argument])


def _recorder(
    recorded: Arrays, calls: List[str], copies: Copies, gradients: bool, room: Room
) -> Callable[..., None]:
    """Make the hook that runs after one module."""

    def record(module: Any, inputs: Any, output: Any) -> None:
        if module_type(module) == "MultiheadAttention" and isinstance(output, tuple):
            output = output[0]
        for key, tensor in _flatten(calls.pop(), output):
            recorded[key] = _copied(tensor, copies, room)
            if gradients and _carries_gradient(tensor):
                tensor.register_hook(_gradient_recorder(f"{key}@grad", recorded, room))

    return record


def _gradient_recorder(key: str, recorded: Arrays, room: Room) -> Callable[[Any], None]:
    """Make the hook of one output tensor; of several arrivals the sum is kept."""

    def record(gradient: Any) -> None:
        array = to_numpy(gradient, room)
        recorded[key] = recorded[key] + array if key in recorded else array

    return record


def _flatten(prefix: str, output: Any) -> List[Tuple[str, Any]]:
    """Name the tensors of an output; one that is alone, whatever it is wrapped in, has the module's name."""
    found = list(_leaves(prefix, output))
    return [(prefix, found[0][1])] if len(found) == 1 else found


def _leaves(prefix: str, output: Any) -> Iterator[Tuple[str, Any]]:
    """Yield the tensors inside tuples, lists and mappings, with their places in the name."""
    if isinstance(output, paddle.Tensor):
        yield prefix, output
    elif isinstance(output, Mapping):
        for key, part in output.items():
            yield from _leaves(f"{prefix}:{key}", part)
    elif isinstance(output, (tuple, list)):
        for number, part in enumerate(output):
            yield from _leaves(f"{prefix}:{number}", part)


def _carries_gradient(tensor: Any) -> bool:
    """Tell whether backward will pass through a tensor."""
    return not tensor.stop_gradient


def _before(module: Any, hook: Callable[..., None]) -> Any:
    """Have a hook run before a module, with positional and, where this version can, named inputs; return its handle."""
    try:
        return module.register_forward_pre_hook(hook, with_kwargs=True)
    except TypeError:
        return module.register_forward_pre_hook(hook)


def _copied(tensor: Any, copies: Copies, room: Room) -> np.ndarray:
    """Copy a tensor, or give the copy that was made of it as it stands."""
    known = copies.get(id(tensor))
    version = int(tensor.inplace_version)
    if known is None or known[1] != version:
        known = copies[id(tensor)] = (tensor, version, to_numpy(tensor, room))
    return known[2]
