"""Collects what one step of a script's own loop shows, each value at the moment when it is right.

Raw gradients are copied when a backward pass ends; rates and the gradients that are used, when an optimizer begins its
update; its state, when the update ends, before a schedule moves the rate; weights and buffers, when the script reports
the step. So it does not matter whether the script zeroes gradients or steps its schedules before it reports.

Among what modules gave, ``@update:1`` marks where the second optimizer began its update: calls after it see other weights.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from stepalign.protocol.errors import CaseError
from stepalign.workers.capture import Arrays, Capture, Room, StepOutcome, own_room, same_bytes
from stepalign.workers.optimizers import OptimizerSet


class StepWatch:
    """Follows one model and its optimizers; `begin` and `finish` frame a step. ``enter`` is told each phase."""

    def __init__(self, twin: Any, model: Any, optimizers: OptimizerSet, enter: Callable[[str], None]) -> None:
        self._twin = twin
        self._model = model
        self._optimizers = optimizers
        self._enter = enter
        self._capture: Optional[Capture] = None
        self._rates: Dict[int, List[float]] = {}
        self._raw: Arrays = {}
        self._tensors: Dict[str, Arrays] = {}
        self._activations: Arrays = {}
        self._recording = ExitStack()
        self._clipping = ExitStack()
        self._watches = ExitStack()
        self._watches.callback(twin.watch_backward(self._backward_begins, self._backward_ends))
        for number, optimizer in enumerate(optimizers.each):
            self._watches.callback(
                twin.watch_updates(optimizer, partial(self._update_begins, number), partial(self._update_ends, number))
            )

    def begin(self, capture: Capture) -> None:
        """A step begins: its first batch is about to be handed out."""
        self._capture = capture
        self._rates, self._raw = {}, {}
        self._tensors = {kind: {} for kind in capture.kinds}
        patterns = capture.activations if "activation" in capture.kinds else ()
        self._activations = self._recording.enter_context(
            self._twin.record_activations(self._model, patterns, gradients=True, room=capture.room)
        )

    def finish(self, loss: np.ndarray) -> StepOutcome:
        """The script reports the step. Raises CaseError if no optimizer has updated since it began."""
        self._recording.close()
        if not self._rates:
            raise CaseError(
                "client.step() was called before any optimizer had updated: call it after optimizer.step(), once an "
                "update. Where one update takes several batches, run with --accumulate and the number of batches"
            )
        kinds, tensors = self._kinds, self._tensors
        if "activation" in kinds:
            tensors["activation"] = self._activations
        if "gradient" in kinds:
            tensors["gradient"] = {**self._raw, **tensors["gradient"]}
        if "parameter" in kinds:
            tensors["parameter"] = self._twin.read_parameters(self._model, self._room)
        if "buffer" in kinds:
            tensors["buffer"] = self._twin.read_buffers(self._model, self._room)
        if "used_gradient" in kinds and not tensors["used_gradient"]:
            del tensors["used_gradient"]
        rates = [
            rate
            for number, optimizer in enumerate(self._optimizers.each)
            for rate in self._rates.get(number) or self._twin.learning_rates(optimizer)
        ]
        self._capture = None
        return StepOutcome(lr=rates, loss=loss, tensors=tensors)

    def close(self) -> None:
        """Follow nothing any more."""
        self._capture = None
        for stack in (self._recording, self._clipping, self._watches):
            stack.close()

    @property
    def _kinds(self) -> Any:
        return self._capture.kinds if self._capture is not None else frozenset()

    @property
    def _room(self) -> Room:
        return self._capture.room if self._capture is not None else own_room

    def _backward_begins(self) -> None:
        if self._capture is not None:
            self._enter("backward")

    def _backward_ends(self) -> None:
        if self._kinds & {"gradient", "used_gradient"}:
            self._raw = self._twin.read_gradients(self._model, self._room)
        if self._capture is not None:
            self._enter("forward")

    def _update_begins(self, number: int) -> None:
        if self._capture is None:
            return
        self._enter("update")
        optimizer = self._optimizers.each[number]
        if number in self._rates:
            raise CaseError(
                "an optimizer updated twice within one step: call client.step() after each update, and take a batch for "
                "each. Several optimizers may each update once in a step"
            )
        self._rates[number] = self._twin.learning_rates(optimizer)
        if self._capture.activations and "activation" in self._kinds:
            self._activations[f"@update:{number}"] = np.array(number, np.int64)
        if not self._kinds & {"gradient", "used_gradient"}:
            return
        owned = self._optimizers.owned[number]
        with_clip = self._twin.clips_inside(optimizer)
        used = self._clipping.enter_context(self._twin.used_gradients(optimizer, self._model, self._room))
        now = self._twin.read_gradients(self._model, self._room) if with_clip else used
        raw = {name: self._raw.get(name, now[name]) for name in owned if name in now}
        self._tensors.setdefault("gradient", {}).update(raw)
        self._clipping.callback(self._note_used, used, raw)

    def _note_used(self, used: Arrays, raw: Arrays) -> None:
        """Keep what an update used where it is not, to the byte, what backward gave."""
        if "used_gradient" in self._kinds:
            self._tensors["used_gradient"].update(
                {name: array for name, array in used.items() if name not in raw or not same_bytes(array, raw[name])}
            )

    def _update_ends(self, number: int) -> None:
        self._clipping.close()
        if "optimizer_state" in self._kinds:
            self._tensors["optimizer_state"].update(
                self._twin.read_optimizer_state(self._optimizers.each[number], self._model, self._room)
            )
