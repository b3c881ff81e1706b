"""What a user's code keeps outside of weights, optimizer and schedule, and whether that changes from step to step.

Looked at are the attributes of the model's modules, and what the loss and ``after_backward`` reach: closures, globals
of their scripts, attributes of callable objects. A value that is as it was after the first step is made anew by a fresh
process; one that changes later would have to be carried over, and only a module's plain attribute can be.
"""

from __future__ import annotations

import functools
import hashlib
import random
from types import FunctionType, MethodType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

import numpy as np

from stepalign.workers import plain_state
from stepalign.workers.training import Training

Modules = Callable[[], Iterator[Tuple[str, Mapping[str, Any]]]]
"""Yields each module's path and its own attributes, without those that every module has."""


class HiddenState:
    """Remembers what was there after the first step."""

    def __init__(self, training: Training, modules: Modules, to_numpy: Callable[[Any], Optional[np.ndarray]]) -> None:
        self._functions = {"loss": training.loss, "after_backward": training.after_backward}
        self._modules = modules
        self._to_numpy = to_numpy
        self._first: Optional[Dict[str, str]] = None

    def note_first_step(self) -> None:
        """Remember what is there now; only the first call counts."""
        if self._first is None:
            self._first = self._described()

    def changing(self) -> List[str]:
        """Name what has changed since the first step and cannot be carried over."""
        now, first = self._described(), self._first or {}
        return sorted(name for name in now.keys() | first.keys() if now.get(name) != first.get(name))

    def plain_attributes(self) -> Dict[str, Any]:
        """Return the plain attributes of all modules, encoded, by module path."""
        return {path: plain_state.encode_attributes(attributes) for path, attributes in self._modules()}

    def _described(self) -> Dict[str, str]:
        found: Dict[str, str] = {}
        for path, attributes in self._modules():
            for name, value in attributes.items():
                self._describe(found, f"attribute {name} of module {path or 'the model'}", value, plain_counts=False)
        for role, function in self._functions.items():
            for name, value in _reached(function):
                self._describe(found, f"{name}, which {role} uses,", value, plain_counts=True)
        return found

    def _describe(self, found: Dict[str, str], name: str, value: Any, plain_counts: bool) -> None:
        try:
            plain = plain_state.encode(value)
            if plain_counts:
                found[name] = plain_state.dump(plain)
            return
        except plain_state.NotPlainError:
            pass
        state = _generator_state(value)
        array = value if isinstance(value, np.ndarray) else self._to_numpy(value)
        if state is None and array is not None and array.dtype.kind in "biufc":
            state = f"{array.dtype} {array.shape} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}"
        if state is not None:
            found[name] = state


def _generator_state(value: Any) -> Optional[str]:
    """Return the state of a random number generator that is not the framework's own; None for anything else."""
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return repr(value.get_state())
    if isinstance(value, random.Random):
        return repr(value.getstate())
    if type(value).__name__ == "Generator" and hasattr(value, "get_state"):
        state = value.get_state()
        return repr(state.tolist() if hasattr(state, "tolist") else str(state))
    return None


def _reached(function: Any) -> Iterator[Tuple[str, Any]]:
    """Yield what a callable reaches by name: cells of its closure, globals of its script, attributes of its object."""
    while isinstance(function, functools.partial):
        yield from ((f"argument {name}", value) for name, value in function.keywords.items())
        function = function.func
    if isinstance(function, MethodType):
        yield from ((f"attribute {name}", value) for name, value in getattr(function.__self__, "__dict__", {}).items())
        function = function.__func__
    if isinstance(function, FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            try:
                yield f"variable {name}", cell.cell_contents
            except ValueError:  # not bound yet
                continue
        for name, value in function.__globals__.items():
            if not name.startswith("__"):
                yield f"global {name}", value
    elif function is not None:
        yield from ((f"attribute {name}", value) for name, value in getattr(function, "__dict__", {}).items())
