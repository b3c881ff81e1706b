"""Says how one array of gradients, or outputs, follows from another: one factor, one for each index, or some elements.

A factor counts only if it predicts the numbers to rounding; what is left then is a sentence with its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.wording import number

LARGEST = 1 << 24
"""Elements. Larger arrays are not looked at."""

_LOOSE = 10.0
_SAME_RATIO = 1e-3
_SIGNAL = 1e-3
_FEW_VALUES = 16
_LEAST_VALUES = 3

Named = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Proportion:
    """``text`` follows "is". ``kind`` is ``equal``; ``whole``, ``rows``, ``channels`` or ``some`` (elements) for what a
    factor predicts; ``zero`` where one side is zero; ``part`` where some elements agree; else ``other``.
    """

    kind: str
    text: str


def proportion(torch: npt.NDArray[np.generic], paddle: npt.NDArray[np.generic], known: Named) -> Proportion:
    """Return how paddle's array follows from torch's. ``known`` are arrays that may tell where: the step's batch, say."""
    ours, theirs = fit.as_array(torch), fit.as_array(paddle)
    noise = _LOOSE * fit.rounding(torch, paddle)
    before = fit.left_over(ours, theirs)
    if before <= noise:
        return Proportion("equal", "equal")
    other = Proportion("other", f"different (relative {before:.2g})")
    if ours.shape != theirs.shape or not ours.size or not np.all(np.isfinite(ours)) or not np.all(np.isfinite(theirs)):
        return other
    if not np.any(theirs) or not np.any(ours):
        return Proportion("zero", f"zero in {'torch' if np.any(theirs) else 'paddle'}")
    value, after = fit.factor(ours, theirs)
    if after <= noise:
        return Proportion("whole", f"{_short(value)} x torch's")
    some = _two_values(ours, theirs, noise)
    place = "" if some is None else _where(some[0], ours, known)
    if some is not None and place:
        return Proportion("some", _some_text(some, place))
    for kind, what, factors in row_factors(ours, theirs, noise):
        return Proportion(kind, f"torch's times a factor for each {what} ({factors_shown(factors)}{_as(factors, known)})")
    if some is not None:
        return Proportion("some", _some_text(some, f"at {int(some[0].sum())} of {ours.size} elements"))
    apart = np.abs(ours - theirs) > noise * float(np.max(np.abs(ours)))
    place = _where(apart, ours, known)
    if place or 2 * np.count_nonzero(apart) <= apart.size:
        return Proportion(
            "part", f"different {place or f'at {np.count_nonzero(apart)} of {ours.size} elements'}, equal elsewhere"
        )
    return other


def row_factors(ours: Array, theirs: Array, noise: float) -> Iterator[tuple[str, str, Array]]:
    """Yield (``rows`` or ``channels``, of what, factors) where a factor for each index of an axis, or row, predicts."""
    views = [(axis, f"index of axis {axis}", ours, theirs) for axis in range(ours.ndim if ours.ndim > 1 else 0)]
    if ours.ndim > 2:
        flat = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, ours.shape[-1])
        views.append((0, "vector of the last axis", *flat))
    for axis, what, a, b in views:
        if a.shape[axis] < 2 or a.size < 2 * a.shape[axis]:
            continue
        factors, after = fit.per_slice_factor(a, b, axis)
        used = np.any(np.moveaxis(a, axis, 0).reshape(factors.size, -1), axis=1)
        apart = used.any() and float(np.ptp(factors[used])) > noise * float(np.max(np.abs(factors)))
        if after <= noise and apart and fit.slices_vary(a, axis):
            yield "rows" if axis == 0 else "channels", what, factors[used]


def factors_shown(factors: Array) -> str:
    """Return the range of factors, and the whole numbers that they are one over, if they are."""
    text = f"{number(float(f'{np.min(factors):.4g}'))} to {number(float(f'{np.max(factors):.4g}'))}"
    if np.all(factors > 0.0) and all(fit.near_whole(1.0 / factor) or abs(factor - 1.0) < 1e-3 for factor in factors):
        wholes = sorted({round(1.0 / factor) for factor in factors.tolist()})
        shown = ", ".join(map(str, wholes[:5])) + (", ..." if len(wholes) > 5 else "")
        text += f", one over {shown}: a length, a count"
    return text


def _as(factors: Array, known: Named) -> str:
    """Return which of the known arrays, of three values or more, the factors go as, or as one over; empty where none."""
    for name, array in known.items():
        if array.size != factors.size or array.dtype.kind not in "iuf" or np.any(array == 0):
            continue
        values = fit.as_array(array).reshape(-1)
        if np.unique(values).size < _LEAST_VALUES:
            continue
        for text, ratio in ((f", as {name}", factors / values), (f", as 1 / {name}", factors * values)):
            if float(np.ptp(ratio)) <= _SAME_RATIO * abs(float(ratio[0])):
                return text
    return ""


_Some = tuple[npt.NDArray[np.bool_], float, float]


def _two_values(ours: Array, theirs: Array, noise: float) -> _Some | None:
    """Return (where, factor there, factor elsewhere) if two factors predict all, each at several elements."""
    scale = float(np.max(np.abs(ours)))
    signal = np.abs(ours) > _SIGNAL * scale
    ratios = np.divide(theirs, ours, out=np.zeros_like(ours), where=signal)
    most = float(np.median(ratios[signal]))
    rest = signal & (np.abs(ratios - most) > _SAME_RATIO * max(abs(most), _SAME_RATIO))
    if np.count_nonzero(rest) < 2 or np.count_nonzero(signal & ~rest) < 2:
        return None
    least = float(np.median(ratios[rest]))
    if abs(most - 1.0) > _SAME_RATIO and abs(least - 1.0) <= _SAME_RATIO:
        rest, most, least = signal & ~rest, least, most
    fitted = np.where(signal, np.where(rest, least, most) * ours, theirs)
    faint = np.abs(theirs[~signal]) <= (abs(least) + abs(most) + 1.0) * _SIGNAL * scale
    return (rest, least, most) if fit.left_over(theirs, fitted) <= noise and np.all(faint) else None


def _some_text(some: _Some, place: str) -> str:
    _, there, elsewhere = some
    rest = "equal elsewhere" if abs(elsewhere - 1.0) <= _SAME_RATIO else f"{_short(elsewhere)} x elsewhere"
    return f"{_short(there)} x torch's {place}, {rest}"


def _short(factor: float) -> str:
    """Return a factor with four digits, one below a half as one over a whole number if it is."""
    whole = fit.near_whole(1.0 / factor, 1e-4) if factor > 0.0 else None
    return f"1 / {whole}" if whole is not None else number(float(f"{factor:.4g}"))


def _where(mask: npt.NDArray[np.bool_], ours: Array, known: Named) -> str:
    """Return in words which elements a mask holds, by an array of few values; empty where none tells."""
    signal = np.abs(ours) > _SIGNAL * float(np.max(np.abs(ours)))
    for name, array in known.items():
        squeezed = array.reshape(array.shape[:-1]) if array.ndim > 1 and array.shape[-1] == 1 else array
        shape = (*squeezed.shape, *(1,) * (ours.ndim - squeezed.ndim))
        if not 0 < squeezed.ndim <= ours.ndim or squeezed.shape != ours.shape[: squeezed.ndim]:
            continue
        values = np.unique(squeezed)
        if not 2 <= values.size <= _FEW_VALUES:
            continue
        holds = [np.broadcast_to((squeezed == value).reshape(shape), ours.shape) for value in values]
        for value, held in zip(values.tolist(), holds, strict=True):
            if np.array_equal(mask & signal, held & signal):
                return f"where {name} is {number(value)}"
        for value, held in zip(values.tolist(), holds, strict=True):
            if np.array_equal(mask & signal, ~held & signal):
                return f"where {name} is not {number(value)}"
    return ""
