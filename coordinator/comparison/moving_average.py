"""The rule of a tensor that a script moves itself towards another one: an average of weights, a target network, a copy.

after = (1 - k) before + k source, the source being another tensor of the same shape as it is before or after the step's
update. Pure functions of arrays; what rounding may do is a few units in the last place of what is added up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable, List, NamedTuple, Optional

import numpy as np

_ROUNDINGS = 4.0
"""How many epsilons of the greater of both terms: two products, a sum, and a decay that was rounded to the dtype."""

MOST_SOURCES = 6
"""How many tensors of one shape are tried as the source, those first whose names are alike."""

_SLACK = 1e-4
"""How far outside of [0, 1] a share may lie by rounding."""


class Motion(NamedTuple):
    """One tensor around a step, and what it may follow: arrays of one shape, any dtype."""

    before: np.ndarray
    after: np.ndarray
    source: np.ndarray


@dataclass(frozen=True)
class Share:
    """What one side's numbers say of k. ``weight`` is |source - before|^2: zero where they say nothing, with k = 0.

    ``uncertain`` is how far rounding may have put k off, ``residual`` the greatest element that k leaves over.
    """

    value: float
    weight: float
    uncertain: float
    residual: float


def fit_share(motions: Iterable[Motion]) -> Optional[Share]:
    """Return the one k by which all these tensors of one side moved; None where no k explains them to rounding."""
    wide = [_Wide(motion) for motion in motions]
    weight = float(sum(np.dot(item.way, item.way) for item in wide))
    if not np.isfinite(weight):
        return None
    value = float(sum(np.dot(item.moved, item.way) for item in wide)) / weight if weight else 0.0
    noise = float(sum(np.dot(item.rounding * item.way, item.rounding * item.way) for item in wide))
    share = Share(value, weight, float(np.sqrt(noise)) / weight if weight else 0.0, 0.0)
    if not -share.uncertain - _SLACK <= value <= 1.0 + share.uncertain + _SLACK:
        return None
    left = [item.left_over(share) for item in wide]
    return None if None in left else replace(share, residual=max((rest for rest in left if rest is not None), default=0.0))


def follows(share: Share, motion: Motion) -> Optional[float]:
    """Return the greatest element that is left over of one tensor's move by a k that the other side's numbers gave; None
    where it is more than rounding.
    """
    return _Wide(motion).left_over(share)


def written(value: float, uncertain: float) -> str:
    """Return a share in the fewest decimals that it is known by: 0.0499912, known to 1e-5, as 0.05."""
    return next(
        (f"{round(value, digits):g}" for digits in range(1, 7) if abs(round(value, digits) - value) <= uncertain), f"{value:.6g}"
    )


def rule_text(share: Share, source: str) -> str:
    """Say what a tensor becomes by a share of its source."""
    kept = written(1.0 - share.value, share.uncertain)
    if kept == "0":
        return f"a copy of {source}"
    return f"{kept} before + {written(share.value, share.uncertain)} {source}"


def in_order_of_likeness(name: str, others: Iterable[str]) -> List[str]:
    """Return the names of which the longest end is the same as of ``name`` first, dots aside; `MOST_SOURCES` at most.

    ``E.net.0.weight`` is like ``G.net.0.weight``, and ``model_ema.net0weight`` like ``net.0.weight``.
    """
    own = _plain(name)
    return sorted(others, key=lambda other: -_common_end(own, _plain(other)))[:MOST_SOURCES]


def _plain(name: str) -> str:
    return name.replace(".", "").replace("_", "")


def _common_end(one: str, other: str) -> int:
    pairs = zip(reversed(one), reversed(other))
    return next((length for length, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(one), len(other)))


class _Wide:
    """A motion in float64: the move, the way to the source, and what rounding may do to each element."""

    def __init__(self, motion: Motion) -> None:
        before, after, source = (np.asarray(array, np.float64).reshape(-1) for array in motion)
        dtype = motion.after.dtype
        epsilon = float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0
        with np.errstate(all="ignore"):
            self.moved, self.way = after - before, source - before
            self.rounding = _ROUNDINGS * epsilon * np.maximum(np.abs(before), np.abs(source))

    def left_over(self, share: Share) -> Optional[float]:
        """Return the greatest element of moved - k way; None where it is more than rounding of it and of k."""
        with np.errstate(all="ignore"):
            left = np.abs(self.moved - share.value * self.way)
            if not np.all(left <= self.rounding + share.uncertain * np.abs(self.way)):
                return None
        return float(np.max(left, initial=0.0))
