"""One side's numbers around one parameter's update: whole arrays, and which of their elements are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.comparison.blocks import in_c_order, is_turned, take
from stepalign.coordinator.comparison.judged_elements import places_in_transpose
from stepalign.coordinator.comparison.rule_inputs import canonical_slots

Elements = npt.NDArray[np.intp]


@dataclass(frozen=True)
class UpdateNumbers:
    """A parameter before and after a step, its gradient and its state, of one shape (slots may be 0-d), in any order.

    ``dtype`` is the parameter's in its framework. ``chosen`` are flat indices in rising order, None for all elements.
    Raises ValueError when shapes differ.
    """

    before: np.ndarray
    gradient: np.ndarray
    state_before: Mapping[str, np.ndarray]
    after: np.ndarray
    state_after: Mapping[str, np.ndarray]
    lr: float
    step: int
    dtype: str
    chosen: Elements | None = None
    whole_state: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        for name, array in (("gradient", self.gradient), ("parameter after the step", self.after)):
            if array.shape != self.before.shape:
                raise ValueError(f"{name}: expected the parameter's shape {self.before.shape}, got {array.shape}")
        states = tuple(
            {slot: np.asarray(value) for slot, value in canonical_slots(state).items()}
            for state in (self.state_before, self.state_after)
        )
        object.__setattr__(self, "whole_state", states)

    def in_one_order(self, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], Elements | None]:
        """Return arrays of the parameter's shape as they lie side by side in one order, C order if they have none in common,
        and where the judged elements are found in them; None: all, in C order.
        """
        if self.chosen is None or not all(is_turned(array) for array in arrays):
            return [in_c_order(array) for array in arrays], self.chosen
        rows, columns = self.before.shape
        return [array.T for array in arrays], places_in_transpose(rows, columns, self.chosen)

    @property
    def count(self) -> int:
        """How many elements are judged."""
        return int(self.before.size) if self.chosen is None else int(self.chosen.size)

    @cached_property
    def flat(self) -> dict[str, np.ndarray]:
        """The judged elements of ``before``, ``gradient`` and ``after`` as vectors."""
        return {name: self._taken(getattr(self, name)) for name in ("before", "gradient", "after")}

    @cached_property
    def flat_states(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The judged elements of each slot before and after the step; what has another size is whole."""
        before, after = (
            {slot: self._taken(value) if value.size == self.before.size else value.reshape(-1) for slot, value in state.items()}
            for state in self.whole_state
        )
        return before, after

    def slot_shape(self, slot: str) -> tuple[int, ...]:
        """Return the shape of a slot after the step."""
        return tuple(self.whole_state[1][slot].shape)

    def chosen_of(self, slot: str) -> Elements | None:
        """Return where the judged elements of a slot after the step lie; None: it is judged whole."""
        return self.chosen if self.whole_state[1][slot].size == self.before.size else None

    def _taken(self, array: np.ndarray) -> np.ndarray:
        return in_c_order(array).reshape(-1) if self.chosen is None else take(array, self.chosen)
