"""One side's whole training state, taken between two steps and put back into a side that was built anew.

Taken are all tensors of the model, the optimizer's and the schedule's state, plain attributes of modules, and the state
of every random number generator: Python's, numpy's and the framework's. What cannot be put back exactly is told by name
instead (`Checkpoint.problem`), and after putting back all is read again and compared.
"""

from __future__ import annotations

import random
import time
from typing import Any, Dict, Iterator, Mapping, Tuple

import numpy as np

from stepalign.protocol import messages
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.tensors import digest
from stepalign.workers import plain_state
from stepalign.workers.capture import Room, own_room
from stepalign.workers.hidden_state import HiddenState
from stepalign.workers.training import Training

_ATTRIBUTES = ("optimizer", "scheduler")
"""Parts of a framework's state that are the plain attributes of an object."""


class Checkpoints:
    """Takes and puts back the state of one training. ``twin`` is the framework's adapter; what is taken is copied into what
    ``room`` gives.
    """

    def __init__(self, twin: Any, training: Training, room: Room = own_room) -> None:
        self._twin = twin
        self._room = room
        self._training = training
        self._common = frozenset(vars(twin.bare_module()))
        self._hidden = HiddenState(training, self._module_attributes, twin.as_array)

    def note_first_step(self) -> None:
        """Remember what the user's code holds after the first step."""
        self._hidden.note_first_step()

    def take(self) -> messages.Checkpoint:
        """Return the state as it is now, or why it cannot be carried over."""
        started = time.perf_counter()
        changing = self._hidden.changing()
        if changing:
            return messages.Checkpoint({}, "", f"{changing[0]} changes from step to step, and cannot be put back", 0.0)
        try:
            arrays, plain = self._read(self._room)
        except (StepalignError, plain_state.NotPlainError) as error:
            return messages.Checkpoint({}, "", str(error), 0.0)
        return messages.Checkpoint(arrays, plain_state.dump(plain), "", time.perf_counter() - started)

    def put_back(self, message: messages.LoadCheckpoint) -> messages.CheckpointLoaded:
        """Continue from a state that was taken before; say what is not as it was."""
        plain = plain_state.load(message.plain)
        try:
            self._twin.write_state(self._training, message.tensors, plain["framework"])
            for path, attributes in self._modules():
                plain_state.restore_attributes(attributes, plain["modules"].get(path, {}))
            _write_generators(plain["generators"])
            self._twin.write_random(plain["random"])
            arrays, now = self._read()
        except (StepalignError, plain_state.NotPlainError, KeyError, TypeError, ValueError) as error:
            return messages.CheckpointLoaded(f"{type(error).__name__}: {error}")
        return messages.CheckpointLoaded(_difference(message.tensors, arrays, plain, now))

    def _read(self, room: Room = own_room) -> Tuple[Dict[str, np.ndarray], Dict[str, Any]]:
        arrays, framework = self._twin.read_state(self._training, room)
        plain = {
            "framework": framework,
            "modules": self._hidden.plain_attributes(),
            "generators": _read_generators(),
            "random": self._twin.read_random(),
        }
        return arrays, plain

    def _modules(self) -> Iterator[Tuple[str, Dict[str, Any]]]:
        seen = set()
        for path, module in self._twin.walk(self._training.model):
            if id(module) not in seen:
                seen.add(id(module))
                yield path, vars(module)

    def _module_attributes(self) -> Iterator[Tuple[str, Mapping[str, Any]]]:
        for path, attributes in self._modules():
            yield path, {name: value for name, value in attributes.items() if name not in self._common}


def take_random(twin: Any) -> str:
    """Return the state of every random number generator, as text."""
    return plain_state.dump({"generators": _read_generators(), "random": twin.read_random()})


def put_back_random(twin: Any, text: str) -> messages.CheckpointLoaded:
    """Put back what `take_random` gave; say what is not as it was."""
    plain = plain_state.load(text)
    try:
        _write_generators(plain["generators"])
        twin.write_random(plain["random"])
    except (StepalignError, plain_state.NotPlainError, KeyError, TypeError, ValueError) as error:
        return messages.CheckpointLoaded(f"{type(error).__name__}: {error}")
    return messages.CheckpointLoaded("" if take_random(twin) == text else "the random state is not what was put back")


def _read_generators() -> Dict[str, Any]:
    return {"python": plain_state.encode(random.getstate()), "numpy": plain_state.encode(np.random.get_state())}


def _write_generators(written: Mapping[str, Any]) -> None:
    random.setstate(plain_state.decode(written["python"]))
    np.random.set_state(plain_state.decode(written["numpy"]))


def _difference(sent: Mapping[str, np.ndarray], held: Mapping[str, np.ndarray], plain: Any, now: Any) -> str:
    """Name the first thing that is not as it was."""
    for name in sorted({*sent, *held}):
        if name not in sent or name not in held or digest({name: sent[name]}) != digest({name: held[name]}):
            return f"{name} is not what was put back"
    for part, held_part in (*now["framework"].items(), ("generators", now["generators"]), ("random", now["random"])):
        sent_part = plain["framework"].get(part, plain.get(part))
        if part in _ATTRIBUTES:  # some are made by the first step only
            held_part = {name: held_part.get(name) for name in sent_part}
        if plain_state.dump(sent_part) != plain_state.dump(held_part):
            return f"the {part} state is not what was put back"
    return ""
