"""Fits simple laws to a sequence of learning rates: ramps, steps, geometric decay, cosine, affine maps.

Each fit is exact or it is None: it predicts every rate that it claims, to a relative ``TOLERANCE``.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rates = npt.NDArray[np.float64]

TOLERANCE = 1e-6
_FLOOR_SHARE = 1e-3
_SHAPE = 1e-5
_EXACT = 1e-9


@dataclass(frozen=True)
class Line:
    """``start + slope * step`` for the steps 0 to ``last``."""

    start: float
    slope: float
    last: int


@dataclass(frozen=True)
class Cosine:
    """``floor + amplitude * (1 + cos(frequency * step)) / 2``; the half wave takes ``pi / frequency`` steps."""

    amplitude: float
    floor: float
    frequency: float


def residual(actual: Rates, fitted: Rates) -> float:
    """Return the greatest relative difference; rates below a thousandth of the greatest count as that much."""
    if not actual.size:
        return 0.0
    scale = np.abs(actual) + _FLOOR_SHARE * float(np.max(np.abs(actual)))
    difference = np.abs(actual - fitted)
    with np.errstate(over="ignore"):
        return float(np.max(np.divide(difference, scale, out=np.where(difference > 0, np.inf, 0.0), where=scale > 0)))


def fits(actual: Rates, fitted: Rates) -> bool:
    """Return whether ``fitted`` predicts ``actual`` to the tolerance."""
    return residual(actual, fitted) < TOLERANCE


def fits_shape(actual: Rates, fitted: Rates) -> bool:
    """Return whether ``fitted`` predicts ``actual`` so well that its variation is too, not its level alone."""
    largest = float(np.max(np.abs(actual), initial=0.0))
    allowed = _SHAPE * float(np.ptp(actual)) + 1e-13 * largest if actual.size else 0.0
    return fits(actual, fitted) and bool(np.all(np.abs(actual - fitted) <= allowed))


def same(first: float, second: float) -> bool:
    """Return whether two numbers agree to the tolerance."""
    return abs(first - second) <= TOLERANCE * max(abs(first), abs(second))


def varies(rates: Rates) -> bool:
    """Return whether a sequence is not one constant."""
    return bool(rates.size) and float(np.ptp(rates)) > TOLERANCE * float(np.max(np.abs(rates)))


def constant_factor(torch: Rates, paddle: Rates) -> float | None:
    """Return c where paddle = c * torch at every step."""
    used = torch != 0.0
    if not used.any():
        return None
    factor = float(np.median(paddle[used] / torch[used]))
    return factor if factor > 0.0 and fits_shape(paddle, factor * torch) else None


def affine(torch: Rates, paddle: Rates) -> tuple[float, float] | None:
    """Return (offset, factor) where paddle = offset + factor * torch, from at least four different rates."""
    if torch.size < 4 or not varies(torch):
        return None
    low, high = int(np.argmin(torch)), int(np.argmax(torch))
    factor = float((paddle[high] - paddle[low]) / (torch[high] - torch[low]))
    offset = float(paddle[high] - factor * torch[high])
    if len(np.unique(np.round(torch / np.max(np.abs(torch)), 9))) < 4 or not fits_shape(
        paddle, offset + factor * torch
    ):
        return None
    return offset, factor


def find_shift(torch: Rates, paddle: Rates) -> int | None:
    """Return the smallest k != 0 with paddle[i] = torch[i - k] wherever both exist; positive: paddle is late."""
    size = torch.size
    longest = max(1, size - max(3, size // 4))
    for steps in range(1, longest + 1 if size > 3 else 1):
        for late, early, sign in ((paddle, torch, 1), (torch, paddle, -1)):
            ours, theirs = early[: size - steps], late[steps:]
            ends_agree = fits(ours[[0, -1]], theirs[[0, -1]])
            if ends_agree and varies(ours) and fits_shape(ours, theirs):
                return sign * steps
    return None


def find_stride(slow: Rates, fast: Rates) -> int | None:
    """Return the smallest n > 1 with slow[i] = fast[i // n] at every step."""
    steps = np.arange(slow.size)
    for stride in range(2, slow.size // 2 + 1):
        if fits(slow[stride : stride + 1], fast[1:2]) and fits_shape(slow, fast[steps // stride]):
            return stride
    return None


def find_skips(fast: Rates, slow: Rates) -> int | None:
    """Return the smallest n in 2 to 8 with fast[i] = slow[i * n] where that exists, for four or more rates.

    Every second rate is told by three, if they agree to rounding and no constant factor explains them.
    """
    for stride in range(2, 9):
        known = slow[::stride]
        several = len(np.unique(known))
        if known.size >= 4 and several >= 4 and fits_shape(known, fast[: known.size]):
            return stride
        exact = bool(np.all(np.abs(known - fast[: known.size]) <= _EXACT * np.abs(known)))
        if stride == 2 and known.size == several == 3 and exact and constant_factor(slow, fast) is None:
            return stride
    return None


def geometric(rates: Rates) -> float | None:
    """Return q where each rate is q times the one before, q != 1, for three rates or more."""
    if rates.size < 3 or not np.all(rates > 0.0):
        return None
    factor = float((rates[-1] / rates[0]) ** (1.0 / (rates.size - 1)))
    if abs(factor - 1.0) < 1e-12 or not fits_shape(rates, rates[0] * factor ** np.arange(rates.size)):
        return None
    return factor


def steps_down(rates: Rates) -> list[tuple[int, float]] | None:
    """Return (step, factor) of each change of a sequence of constant pieces of two steps or more, else None."""
    larger = np.maximum(np.abs(rates[1:]), np.abs(rates[:-1]))
    counted = larger > 1e-100 * np.max(larger, initial=0.0)
    changes = [int(i) + 1 for i in np.flatnonzero(counted & (np.abs(np.diff(rates)) > TOLERANCE * larger))]
    bounds = [0, *changes]
    if not changes or any(later - earlier < 2 for earlier, later in itertools.pairwise(bounds)):
        return None
    if np.any(rates[[step - 1 for step in changes]] == 0.0):
        return None
    return [(step, float(rates[step] / rates[step - 1])) for step in changes]


def ramp(rates: Rates) -> Line | None:
    """Return the longest rising line at the beginning, of three steps or more."""
    if rates.size < 3 or not rates[1] > rates[0]:
        return None
    slope = float(rates[1] - rates[0])
    line = rates[0] + slope * np.arange(rates.size)
    off = np.flatnonzero(np.abs(rates - line) > TOLERANCE * np.abs(line) + 1e-12 * np.max(np.abs(rates)))
    last = int(off[0]) - 1 if off.size else rates.size - 1
    return Line(float(rates[0]), slope, last) if last >= 2 else None


def falling_line(rates: Rates) -> Line | None:
    """Return the line that a falling sequence of four steps or more follows until it stays at its last value."""
    if rates.size < 4 or not rates[1] < rates[0]:
        return None
    still = np.flatnonzero(np.abs(rates - rates[-1]) <= 1e-12 * np.max(np.abs(rates)))
    last = (
        int(still[0]) if still.size > 1 and np.array_equal(still, np.arange(still[0], rates.size)) else rates.size - 1
    )
    if last < 3:
        return None
    slope = float((rates[last] - rates[0]) / last)
    return (
        Line(float(rates[0]), slope, last)
        if fits_shape(rates[: last + 1], rates[0] + slope * np.arange(last + 1))
        else None
    )


def cosine(rates: Rates) -> Cosine | None:
    """Return the cosine that a sequence starting at its peak follows, of five steps or more.

    With d(m) = rates[0] - rates[m], d(2m) / d(m) = 2 (1 + cos(frequency m)); m is taken as long as the wave allows.
    """
    size = rates.size
    if size < 5 or not rates[1] < rates[0] or not varies(rates):
        return None
    middle = (size - 1) // 2
    while middle >= 1:
        once, twice = float(rates[0] - rates[middle]), float(rates[0] - rates[2 * middle])
        turned = twice / once / 2.0 - 1.0 if once > 0.0 else 2.0
        if -1.0 < turned < 1.0 - 1e-15:
            frequency = float(np.arccos(turned)) / middle
            amplitude = 2.0 * once / (1.0 - np.cos(frequency * middle))
            floor = float(rates[0]) - amplitude
            fitted = floor + amplitude * (1.0 + np.cos(frequency * np.arange(size))) / 2.0
            bottom = min(size, int(np.ceil(np.pi / frequency)) + 1)
            clamped = np.concatenate([fitted[:bottom], np.full(size - bottom, floor)])
            for candidate in (fitted, clamped):
                if float(np.max(np.abs(rates - candidate))) < TOLERANCE * once:
                    return Cosine(float(amplitude), floor, frequency)
        middle //= 2
    return None


def jumps_up(rates: Rates) -> list[int]:
    """Return the steps at which a falling sequence returns to its first rate."""
    back = np.isclose(rates, rates[0], rtol=TOLERANCE, atol=0.0)
    return [int(i) + 1 for i in np.flatnonzero(np.diff(rates) > 0.2 * np.ptp(rates)) if back[i + 1]]


def power(torch: Rates, paddle: Rates) -> float | None:
    """Return q where paddle / peak = (torch / peak) ** q, q != 1, for four rates or more below a common peak."""
    peak = float(torch[0])
    if not fits(torch[:1], paddle[:1]) or peak <= 0.0:
        return None
    used = (torch > 0.0) & (paddle > 0.0) & (torch < peak * (1.0 - 1e-9))
    if np.count_nonzero(used) < 4:
        return None
    exponents = np.log(paddle[used] / peak) / np.log(torch[used] / peak)
    exponent = float(np.median(exponents))
    if exponent <= 0.0 or abs(exponent - 1.0) < TOLERANCE or float(np.max(np.abs(exponents - exponent))) > 1e-5:
        return None
    return exponent
