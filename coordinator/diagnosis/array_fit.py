"""Fits one array to another: factor, offset, transposition, permutation, blocks, rows. What is left over is a number.

Every array is taken in float64. A left-over is a relative L2 norm; `rounding` says how much of it the dtype explains.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_ONE_NUMBER = 1e-3

EXPLAINED = 0.02
"""A fit explains a difference when it leaves less than this share of it, or nothing but rounding."""


def as_array(array: npt.ArrayLike) -> Array:
    """Return a float64 copy; bfloat16 and float16 widen exactly."""
    return np.asarray(array).astype(np.float64)


def rounding(*arrays: npt.NDArray[np.generic]) -> float:
    """Return the relative L2 difference that the coarsest dtype explains: float64 1e-9, float32 1e-5, less 2e-2."""
    sizes = [array.dtype.itemsize for array in arrays]
    return 2e-2 if min(sizes) < 4 else 1e-5 if min(sizes) < 8 else 1e-9


def left_over(actual: Array, fitted: Array) -> float:
    """Return ``|actual - fitted| / |actual|`` in L2; infinite for different shapes, zero for two empty arrays."""
    if actual.shape != fitted.shape:
        return float("inf")
    difference, norm = float(np.linalg.norm(actual - fitted)), float(np.linalg.norm(actual))
    if difference == 0.0:
        return 0.0
    return difference / norm if norm > 0.0 else float("inf")


def explains(before: float, after: float, noise: float) -> bool:
    """Return whether a fit that leaves ``after`` of a difference ``before`` explains it."""
    return after <= noise or after <= EXPLAINED * before


def certainty(before: float, after: float, noise: float, most: float) -> float:
    """Return a confidence up to ``most``: full where only rounding is left, less as more is left over."""
    if after <= noise:
        return most
    return round(most * max(0.0, 1.0 - 10.0 * after / before), 3) if before > 0.0 else 0.0


def factor(ours: Array, theirs: Array) -> tuple[float, float]:
    """Return (c, left over) of theirs = c * ours by least squares."""
    square = float(np.vdot(ours, ours))
    if square == 0.0:
        return 0.0, float("inf")
    value = float(np.vdot(ours, theirs)) / square
    return value, left_over(theirs, value * ours)


def offset(ours: Array, theirs: Array) -> tuple[float, float]:
    """Return (c, left over) of theirs = ours + c."""
    value = float(np.mean(theirs - ours)) if ours.size else 0.0
    return value, left_over(theirs, ours + value)


def per_slice_factor(ours: Array, theirs: Array, axis: int) -> tuple[Array, float]:
    """Return (a factor for each index along ``axis``, left over); indices without signal get the factor 1."""
    a, b = (
        np.moveaxis(ours, axis, 0).reshape(ours.shape[axis], -1),
        np.moveaxis(theirs, axis, 0).reshape(ours.shape[axis], -1),
    )
    square = np.sum(a * a, axis=1)
    factors = np.divide(np.sum(a * b, axis=1), square, out=np.ones_like(square), where=square > 0.0)
    return factors, left_over(b, factors[:, None] * a)


def slices_vary(array: Array, axis: int) -> bool:
    """Return whether a factor for each index along ``axis`` says anything of ``array``.

    It does not where slices hold one number and zeros each, as a mean leaves them, or are multiples of one slice.
    """
    flat = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    size = np.abs(flat)
    greatest = np.max(size, axis=1)
    least = np.min(size, axis=1, initial=np.inf, where=size > 0.0)
    used = greatest > 0.0
    if 2 * np.count_nonzero(greatest[used] > (1.0 + _ONE_NUMBER) * least[used]) <= np.count_nonzero(used):
        return False
    longest = flat[int(np.argmax(np.sum(flat * flat, axis=1)))]
    multiples = np.outer(flat @ longest / float(longest @ longest), longest)
    return left_over(flat, multiples) > _ONE_NUMBER


def transposed(ours: Array, theirs: Array) -> float:
    """Return what is left over of theirs as ours with its first two axes swapped; infinite for other shapes."""
    if ours.ndim < 2:
        return float("inf")
    return left_over(theirs, np.swapaxes(ours, 0, 1))


def swapped_axes(ours: Array, theirs: Array) -> tuple[int, int] | None:
    """Return two axes whose exchange turns ours into theirs, if a pair does."""
    for first in range(ours.ndim):
        for second in range(first + 1, ours.ndim):
            if left_over(theirs, np.swapaxes(ours, first, second)) < 1e-4:
                return first, second
    return None


def permutation(ours: Array, theirs: Array, axis: int) -> npt.NDArray[np.intp] | None:
    """Return the order, other than the identity, with theirs[i] = ours[order[i]] along ``axis``, if there is one.

    Slices are matched by one fixed projection and then checked in full.
    """
    if ours.shape != theirs.shape or ours.ndim == 0 or ours.shape[axis] < 2:
        return None
    a, b = (
        np.moveaxis(ours, axis, 0).reshape(ours.shape[axis], -1),
        np.moveaxis(theirs, axis, 0).reshape(ours.shape[axis], -1),
    )
    weights = np.cos(np.arange(a.shape[1], dtype=np.float64) * 0.7548776662 + 0.3)
    ours_order, theirs_order = np.argsort(a @ weights, kind="stable"), np.argsort(b @ weights, kind="stable")
    order = np.empty(a.shape[0], dtype=np.intp)
    order[theirs_order] = ours_order
    if np.array_equal(order, np.arange(order.size)) or left_over(b, a[order]) > 1e-4:
        return None
    return order


def block_order(order: npt.NDArray[np.intp]) -> tuple[int, ...] | None:
    """Return the order of equal blocks (a recurrent layer's gates, say) that a permutation amounts to, if it is one."""
    for blocks in (2, 3, 4):
        if order.size % blocks or order.size == blocks:
            continue
        size = order.size // blocks
        starts = order[::size]
        if np.array_equal(order, (starts[:, None] + np.arange(size)[None, :]).ravel()) and not np.any(starts % size):
            return tuple(int(start // size) for start in starts)
    return None


def differing_rows(ours: Array, theirs: Array, noise: float) -> npt.NDArray[np.intp]:
    """Return the indices along the first axis whose slices differ by more than ``noise`` of the greatest slice norm."""
    a, b = ours.reshape(ours.shape[0], -1), theirs.reshape(theirs.shape[0], -1)
    norms = np.linalg.norm(a - b, axis=1)
    return np.flatnonzero(norms > noise * float(np.max(np.linalg.norm(a, axis=1), initial=0.0)))


def rows_shown(rows: npt.NDArray[np.intp]) -> str:
    """Return up to five indices: ``0, 7, 9 ... (12 in all)``."""
    shown = ", ".join(str(int(row)) for row in rows[:5])
    return shown if rows.size <= 5 else f"{shown} ... ({rows.size} in all)"


def near_whole(value: float, tolerance: float = 1e-3) -> int | None:
    """Return the whole number of two or more that ``value`` is, to a relative ``tolerance``."""
    whole = round(value)
    return int(whole) if whole >= 2 and abs(value - whole) <= tolerance * whole else None
