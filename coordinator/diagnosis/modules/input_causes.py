"""Explains an input of the model that differs before anything of the model ran: what a side did to the batch otherwise.

Channels are matched by their correlation, so that another order and another normalisation are told apart, and together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.wording import count, number

_MOST_CHANNELS = 16
"""More are positions or features, each of which some number would fit."""

_MOST_COLOURS = 4
"""More than so many, or of fewer than three axes, stand for places if their order is another: `_moved_places` tells."""

_FEWEST_VALUES = 8
"""Of a channel: fewer are fitted by chance."""

_SAME = 1e-3
"""How far apart two factors or offsets may be and count as one; of factors, and of the channel's greatest magnitude."""


@dataclass(frozen=True)
class _Channels:
    """paddle's channel i is ``factors[i]`` times torch's channel ``order[i]`` plus ``offsets[i]``, along ``axis``."""

    axis: int
    order: tuple[int, ...]
    factors: Array
    offsets: Array
    size: float

    @property
    def in_order(self) -> bool:
        return self.order == tuple(range(len(self.order)))

    @property
    def scaled(self) -> bool:
        return bool(np.any(np.abs(self.factors - 1.0) > _SAME))

    @property
    def shifted(self) -> bool:
        return bool(np.any(np.abs(self.offsets) > _SAME * self.size))

    @property
    def one_rule(self) -> bool:
        """Whether the same factor and the same offset hold for every channel."""
        even = bool(np.ptp(self.factors) <= _SAME * float(np.max(np.abs(self.factors))))
        return even and bool(np.ptp(self.offsets) <= _SAME * self.size)


def explain_input(where: str, torch_input: np.ndarray, paddle_input: np.ndarray) -> list[Cause]:
    """Return what paddle's script did otherwise to what goes into its model; none where no rule explains all of it.

    ``where`` names the code that did it. Both are compared as they are, in paddle's own shape.
    """
    ours, theirs = fit.as_array(torch_input), fit.as_array(paddle_input)
    if not ours.size or not np.all(np.isfinite(ours)) or not np.all(np.isfinite(theirs)):
        return []
    noise = fit.rounding(torch_input, paddle_input)
    if ours.shape != theirs.shape:
        return list(_exchanged_axes(where, ours, theirs, noise))
    if fit.left_over(ours, theirs) <= noise:
        return []
    for explain in (_one_factor, _by_channels, _exchanged_axes, _moved_places):
        found = list(explain(where, ours, theirs, noise))
        if found:
            return found
    return []


def _one_factor(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    value, after = fit.factor(ours, theirs)
    if value and after <= noise:
        yield _scaled(where, f"paddle's is {number(value)} times torch's", _undo(value))


def _by_channels(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    channels = next((found for axis in _channel_axes(ours) if (found := _match(ours, theirs, axis, noise)) is not None), None)
    if channels is None:
        return
    if not channels.in_order and (len(channels.order) > _MOST_COLOURS or ours.ndim < 3):
        return
    rule = _rule_text(channels) if channels.scaled or channels.shifted else ""
    if not channels.in_order:
        also = f", and {rule}" if rule else ""
        order = ", ".join(map(str, channels.order))
        back = ", ".join(str(channels.order.index(place)) for place in range(len(channels.order)))
        yield Cause(
            Category.DATA,
            "channel_order",
            0.96,
            f"{where}: along axis {channels.axis} paddle's channels are torch's in the order {order}{also}",
            f"take the channels of axis {channels.axis} in torch's order before paddle's model: [{back}] of what it has now "
            "(RGB or BGR, as the image reader gives them)" + ("; then normalise as torch does" if rule else ""),
        )
    elif channels.one_rule:
        yield _scaled(where, rule, "normalise paddle's batch as torch's: the same division, mean and standard deviation")
    elif rule:
        yield Cause(
            Category.DATA,
            "normalisation",
            0.96,
            f"{where}: {rule}",
            "normalise paddle's batch with torch's mean and standard deviation of each channel, in the same order and on the "
            "same scale (0 to 1, or 0 to 255)",
        )


def _exchanged_axes(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    for first in range(ours.ndim):
        for second in range(first + 1, ours.ndim):
            if fit.left_over(theirs, np.swapaxes(ours, first, second)) <= noise:
                yield _layout(
                    where,
                    f"paddle's is torch's with axes {first} and {second} exchanged",
                    f"exchange axes {first} and {second} before paddle's model: sequence or batch first, rows or columns first",
                )
                return
    if ours.ndim > 2:
        for axes, words in ((_to_last(ours.ndim), "channels last"), (_to_first(ours.ndim), "channels first")):
            if fit.left_over(theirs, np.transpose(ours, axes)) <= noise:
                yield _layout(
                    where,
                    f"paddle's is torch's with its axes in the order {', '.join(map(str, axes))} ({words})",
                    f"transpose what goes into paddle's model back, by {[axes.index(axis) for axis in range(ours.ndim)]}",
                )
                return
    if ours.size == theirs.size and ours.shape != theirs.shape and fit.left_over(ours.ravel(), theirs.ravel()) <= noise:
        yield _layout(
            where,
            f"the same numbers in the shape {ours.shape} in torch and {theirs.shape} in paddle",
            f"reshape what goes into paddle's model to {ours.shape}",
        )


def _moved_places(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    for axis in range(ours.ndim):
        order = fit.permutation(ours, theirs, axis)
        if order is None:
            continue
        if np.array_equal(order, np.arange(order.size)[::-1]):
            yield Cause(
                Category.DATA, "reversed", 0.96,
                f"{where}: paddle's is torch's in reverse along axis {axis}",
                f"do not reverse axis {axis} in paddle: a flip, [::-1], or the padding on the other side",
            )  # fmt: skip
        else:
            yield Cause(
                Category.DATA, "input_order", 0.94,
                f"{where}: paddle's is torch's in another order along axis {axis} ({fit.rows_shown(order)})",
                f"keep the order of axis {axis} in paddle as torch has it: sorting, shuffling, concatenation",
            )  # fmt: skip
        return
    yield from _shifted_places(where, ours, theirs, noise)


def _shifted_places(where: str, ours: Array, theirs: Array, noise: float) -> Iterator[Cause]:
    """Find a batch of which paddle takes the positions of one axis a few places earlier or later."""
    for axis in range(1, ours.ndim):
        length = ours.shape[axis]
        a, b = np.moveaxis(ours, axis, 0), np.moveaxis(theirs, axis, 0)
        for places in range(1, min(3, length // 2) + 1):
            for early, late in ((a, b), (b, a)):
                if fit.left_over(late[places:], early[:-places]) > noise or np.ptp(early[:-places]) == 0.0:
                    continue
                words = f"{count(places, 'place')} later" if late is b else f"{count(places, 'place')} earlier"
                yield Cause(
                    Category.DATA, "shifted", 0.94,
                    f"{where}: along axis {axis} paddle's stands {words} than torch's",
                    f"shift axis {axis} in paddle as torch does: the start token, labels against inputs, padding on one side",
                )  # fmt: skip
                return


def _channel_axes(array: Array) -> Iterator[int]:
    """Yield the axes that may be channels': the second one, the last one."""
    for axis in dict.fromkeys((1, array.ndim - 1)):
        if 0 < axis < array.ndim and 1 < array.shape[axis] <= _MOST_CHANNELS and array.size >= _FEWEST_VALUES * array.shape[axis]:
            yield axis


def _match(ours: Array, theirs: Array, axis: int, noise: float) -> _Channels | None:
    """Return how each channel of paddle's follows from one of torch's; None unless all do, each from another one."""
    a, b = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (ours, theirs))
    means = np.mean(a, axis=1, keepdims=True), np.mean(b, axis=1, keepdims=True)
    spread = a - means[0], b - means[1]
    norms = tuple(np.linalg.norm(each, axis=1) for each in spread)
    if min(float(np.min(norm)) for norm in norms) <= 0.0:
        return None
    alike = (spread[1] @ spread[0].T) / np.outer(norms[1], norms[0])
    order = tuple(int(place) for place in np.argmax(alike, axis=1))
    if len(set(order)) != len(order):
        return None
    chosen = list(order)
    factors = np.sum(spread[1] * spread[0][chosen], axis=1) / norms[0][chosen] ** 2
    offsets = means[1][:, 0] - factors * means[0][chosen, 0]
    if fit.left_over(b, factors[:, None] * a[chosen] + offsets[:, None]) > noise:
        return None
    return _Channels(axis, order, factors, offsets, float(np.max(np.abs(b))))


def _rule_text(channels: _Channels) -> str:
    if channels.one_rule:
        return f"paddle's is {_affine(channels.factors[0], channels.offsets[0])}"
    each = "; ".join(_affine(factor, offset) for factor, offset in zip(channels.factors[:4], channels.offsets[:4]))
    more = "" if len(channels.order) <= 4 else " ..."
    return f"channel by channel of axis {channels.axis} paddle's is {each}{more}"


def _affine(factor: float, offset: float) -> str:
    return f"{number(float(factor))} times torch's {'-' if offset < 0 else '+'} {number(abs(float(offset)))}"


def _undo(value: float) -> str:
    if abs(value + 1.0) <= _SAME:
        return "change the sign of what goes into paddle's model"
    if (whole := fit.near_whole(value)) is not None:
        return f"divide what goes into paddle's model by {whole}, as torch does"
    if (whole := fit.near_whole(1.0 / value)) is not None:
        return f"multiply what goes into paddle's model by {whole}, as torch does"
    return f"scale what goes into paddle's model as torch does: multiply it by {number(1.0 / value)}"


def _scaled(where: str, evidence: str, fix: str) -> Cause:
    return Cause(Category.DATA, "input_scale", 0.96, f"{where}: {evidence}", fix)


def _layout(where: str, evidence: str, fix: str) -> Cause:
    return Cause(Category.DATA, "input_layout", 0.96, f"{where}: {evidence}", fix)


def _to_last(ndim: int) -> tuple[int, ...]:
    return (0, *range(2, ndim), 1)


def _to_first(ndim: int) -> tuple[int, ...]:
    return (0, ndim - 1, *range(1, ndim - 1))
