"""Which sides draw random numbers, told from a step that was repeated from the same weights.

The loss of a training that stepalign steps itself depends on weights, batch and random numbers alone. A script that owns
its loop carries more into the next step: an optimizer's state, a rate, a counter. There a difference counts only as far as
the step comes out the same once the random numbers are put back too.
"""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import numpy as np

from stepalign.coordinator.running.replay import Repetitions
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import StepResult

_LOSS_RTOL = 1e-6
_ARRAY_SHARE = 1e-5
"""Of an array's greatest element, or of the greatest gradient: what a repetition may differ by."""


def random_sides(pair: StepPair, repetitions: Optional[Repetitions], owning: Sequence[str]) -> Tuple[str, ...]:
    """Return the sides that come out otherwise when the first step is repeated; scripts of ``owning`` own their loop."""
    if repetitions is None:
        return ()
    free, exact = repetitions.free, repetitions.exact
    found = []
    for side in ("torch", "paddle"):
        once, again = _of(pair, side), _of(free, side)
        if side not in owning:
            random = not _same_loss(once, again)
        else:
            random = exact is not None and _differs_by_chance(once, _of(exact, side), again)
        found += [side] if random else []
    return tuple(found)


def _of(pair: StepPair, side: str) -> StepResult:
    return pair.reference if side == "torch" else pair.candidate


def _differs_by_chance(once: StepResult, exact: StepResult, free: StepResult) -> bool:
    """Say whether a step differs where its random numbers run on, before anything differs where they are put back."""
    first, same, other = (result.tensors.get("activation", {}) for result in (once, exact, free))
    names = [list(named) for named in (same, other)]
    gradients = max((_largest(array) for key, array in first.items() if key.endswith("@grad")), default=0.0)
    for position, (key, array) in enumerate(first.items()):
        scale = gradients if key.endswith("@grad") else _largest(array)
        at = [order[position] if position < len(order) else "" for order in names]
        if at[0] != key or not _same_array(array, same[key], scale):
            return False
        if at[1] != key or not _same_array(array, other[key], scale):
            return True
    return _same_loss(once, exact) and not _same_loss(once, free)


def _same_loss(once: StepResult, again: StepResult) -> bool:
    return bool(np.allclose(once.loss, again.loss, rtol=_LOSS_RTOL, atol=0.0, equal_nan=True))


def _same_array(once: np.ndarray, again: np.ndarray, scale: float) -> bool:
    if once.shape != again.shape or once.dtype != again.dtype:
        return False
    return bool(np.allclose(once, again, rtol=0.0, atol=_ARRAY_SHARE * scale, equal_nan=True))


def _largest(array: np.ndarray) -> float:
    if array.dtype.kind != "f":
        return 0.0
    return float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array)))
