"""Enumerates the losses that common formulas give for a model's output and a batch: one reading for each formula.

A reading names what it does otherwise than the plain formula, by aspect; two aspects at most, so that what fits a loss
to seven digits does not do so by chance. Aspects whose value can be solved for (smoothing, weights) are knobs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.loss import loss_terms as terms_of
from stepalign.coordinator.diagnosis.loss.loss_terms import Labels, Mask

LARGEST_OUTPUT = 1 << 24
"""Elements. Larger outputs are not read: each formula takes several passes in float64."""

LARGEST_SCALED_OUTPUT = 1 << 18
"""Elements. Above this no scales of an output are tried."""

_SCALES = tuple(
    dict.fromkeys(
        [digit * 10.0**power for power in (-2, -1, 0, 1, 2) for digit in range(1, 10)]
        + [2.0**power for power in range(-6, 11)]
        + [1 / 0.03, 1 / 0.06, 1 / 0.07, 1 / 0.3]
    )
)
_MOST_UNUSUAL = 2
_PAD_LABELS = (0, 1, 255)

Window = tuple[slice, ...]
Named = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Knob:
    """A number that a loss depends on linearly: value + (x - plain) * slope; ``hints`` are values worth trying.

    ``classes`` is there for smoothing: s / (classes - 1) on each wrong class is a smoothing of s classes / (classes - 1).
    """

    aspect: str
    plain: float
    slope: float
    hints: tuple[float, ...] = ()
    classes: int = 0


@dataclass(frozen=True)
class Reading:
    """A formula's value. ``settings`` maps aspects to how they are read; an aspect that is plain is not in it."""

    loss: str
    output: str
    target: str
    value: float
    settings: Mapping[str, str] = field(default_factory=dict)
    knobs: tuple[Knob, ...] = ()


def readings(outputs: Named, batch: Named) -> list[Reading]:
    """Return the readings of every output with every array of the batch that fits it, plainest first.

    A reading whose value a plainer one of the same loss, output and target already has is left out.
    """
    found = []
    for name, output in outputs.items():
        if output.dtype.kind != "f" or not 0 < output.size <= LARGEST_OUTPUT or not np.all(np.isfinite(output)):
            continue
        for target, array in batch.items():
            if array.size and array.dtype.kind in "iub":
                found += list(_of_classes(name, output.astype(np.float64), target, array, batch))
            if array.size and array.dtype.kind in "iubf" and np.all(np.isfinite(array)):
                found += list(_of_elements(name, output.astype(np.float64), target, array.astype(np.float64)))
    seen: set[tuple[str, str, str, float]] = set()
    kept = []
    for reading in sorted(found, key=lambda item: len(item.settings)):
        key = (reading.loss, reading.output, reading.target, float(f"{reading.value:.11g}"))
        if np.isfinite(reading.value) and key not in seen:
            seen.add(key)
            kept.append(reading)
    return kept


def scaled_readings(outputs: Named, batch: Named) -> list[Reading]:
    """Return the cross-entropies of outputs times a round number or a power of two, as a temperature gives them.

    Only the plain formula is read, with and without paddle's clip: many scales with many settings would fit by chance.
    """
    found = []
    for scale in _SCALES:
        scaled = {
            name: output.astype(np.float64) * scale
            for name, output in outputs.items()
            if output.dtype.kind == "f" and output.size <= LARGEST_SCALED_OUTPUT
        }
        for reading in readings(scaled, batch):
            if reading.loss == "cross-entropy" and dict(reading.settings) in ({}, {"logits": "clipped"}):
                settings = {**reading.settings, "scale": f"{scale:.4g}"}
                found.append(replace(reading, settings=settings, knobs=()))
    return found


def _of_classes(
    name: str, output: Array, target: str, array: npt.NDArray[np.generic], batch: Named
) -> Iterator[Reading]:
    labels = array.astype(np.int64)
    axes = [axis for axis in (output.ndim - 1, 1) if 0 < axis < output.ndim and output.shape[axis] > 1]
    for number, axis in enumerate(dict.fromkeys(axes)):
        kept = output.shape[:axis] + output.shape[axis + 1 :]
        if axis == output.ndim - 1 and labels.size == output.size // output.shape[-1]:
            kept = labels.shape[:-1] if labels.ndim > 1 and labels.shape[-1] == 1 else labels.shape
            output = output.reshape(*kept, output.shape[-1])
            axis = output.ndim - 1
        if labels.shape not in (kept, (*kept, 1)) or labels.max() >= output.shape[axis] or labels.max() < 0:
            continue
        along = {} if len(axes) == 1 or not number else {"axis": f"axis {axis}"}
        scores, flat = np.moveaxis(output, axis, -1), labels.reshape(kept)
        masks = {key: mask.reshape(kept) for key, mask in batch.items() if key != target and _is_mask(mask, kept)}
        for kind, log_p in terms_of.log_probabilities(scores):
            for tokens, (rows, window) in _tokens(flat).items():
                given = {**along, **_setting("tokens", tokens), **_setting("logits", kind)}
                cut = {key: mask[window] for key, mask in masks.items()}
                yield from _cross_entropies(name, target, log_p[rows], flat[window], cut, given)


def _setting(aspect: str, setting: str) -> dict[str, str]:
    return {aspect: setting} if setting else {}


def _tokens(labels: Labels) -> dict[str, tuple[Window, Window]]:
    """Return how positions may be paired with the labels of a sequence: the windows of both, by name."""
    everything = (slice(None),)
    found: dict[str, tuple[Window, Window]] = {"": (everything, everything)}
    if labels.ndim == 2 and labels.shape[1] > 1:
        later, earlier = (slice(None), slice(1, None)), (slice(None), slice(None, -1))
        found["each position with the next label"] = (earlier, later)
        found["each position with the label before it"] = (later, earlier)
    return found


def _is_mask(array: npt.NDArray[np.generic], shape: tuple[int, ...]) -> bool:
    if array.shape not in (shape, (*shape, 1)) or array.dtype.kind not in "iubf":
        return False
    return bool(np.all((array == 0) | (array == 1)) and np.any(array == 0) and np.any(array == 1))


def _cross_entropies(
    name: str, target: str, log_p: Array, labels: Labels, masks: Named, given: dict[str, str]
) -> Iterator[Reading]:
    clipped = given.get("logits") == "clipped"
    for moved, chosen in _labels(labels, log_p.shape[-1]):
        for ignored, valid in _valid(chosen, masks):
            settings = {**given, **moved, **ignored}
            if len(settings) - clipped > _MOST_UNUSUAL or not valid.any():
                continue
            losses = terms_of.picked(log_p, chosen, valid)
            smooths = not moved and (clipped or "logits" not in given)
            flat = _reduced(terms_of.uniform(log_p, valid), valid) if smooths else {}
            for divisor, value in _reduced(losses, valid).items():
                knobs = [Knob("smoothing", 0.0, flat[divisor] - value, (), log_p.shape[-1])] if smooths else []
                if not settings and not divisor:
                    knobs.append(Knob("factor", 1.0, value))
                described = {**settings, **_setting("divisor", divisor)}
                yield Reading("cross-entropy", name, target, value, described, tuple(knobs))


def _labels(labels: Labels, classes: int) -> Iterator[tuple[dict[str, str], Labels]]:
    yield {}, labels
    for shift in (1, -1):
        yield {"labels": f"{shift:+d}"}, np.where(labels < 0, labels, (labels + shift) % classes)
    if labels.shape[0] > 1:
        yield {"labels": "in reverse order"}, labels[::-1]


def _valid(labels: Labels, masks: Named) -> Iterator[tuple[dict[str, str], Mask]]:
    known: Mask = labels >= 0
    yield {}, known
    for pad in _PAD_LABELS:
        if np.any(labels == pad):
            yield {"ignored": f"label {pad}"}, known & (labels != pad)
    for key, mask in masks.items():
        yield {"ignored": f"where {key} is 0"}, known & (mask == 1)


def _reduced(terms: Array, valid: Mask) -> dict[str, float]:
    """Return the sum over labels by every divisor; the plain one, the labels that count, is named ``""``."""
    total, some, samples = float(terms.sum()), int(valid.sum()), terms.shape[0]
    values = {"": total / some, "all": total / terms.size, "none": total, "samples": total / samples}
    if terms.ndim > 1:
        rows = valid.reshape(samples, -1).sum(axis=1)
        means = terms.reshape(samples, -1).sum(axis=1) / np.maximum(rows, 1)
        values["rows"] = float(means.mean())
    return values


def _of_elements(name: str, output: Array, target: str, array: Array) -> Iterator[Reading]:
    pairs: list[tuple[dict[str, str], Array, Array]] = []
    if output.shape == array.shape:
        pairs.append(({}, output, array))
    elif output.squeeze().shape == array.squeeze().shape and output.size == array.size > 1:
        pairs.append(({}, output, array.reshape(output.shape)))
        if output.size <= LARGEST_OUTPUT**0.5:
            pairs.append(({"pairing": "every output with every target"}, output.reshape(-1, 1), array.reshape(1, -1)))
    for pairing, values, wanted in pairs:
        for loss, form, terms in terms_of.elementwise(values, wanted):
            settings = {**pairing, **_setting("form", form)}
            count, samples = terms.size, terms.shape[0]
            total = float(terms.sum())
            knobs = [Knob("factor", 1.0, total / count)] if not pairing and (not form or form.startswith("of ")) else []
            if loss.endswith("with logits") and (not form or form.startswith("of ")):
                knobs += _positive_weight(values, wanted, form)
            yield Reading(loss, name, target, total / count, settings, tuple(knobs))
            reduced = {"none": total, "samples": total / samples, "elements": total * samples / count}
            for divisor, value in reduced.items():
                yield Reading(loss, name, target, value, {**settings, "divisor": divisor})
            if loss == "squared error":
                yield Reading(loss, name, target, float(np.sqrt(total / count)), {**settings, "divisor": "root"})


def _positive_weight(logits: Array, wanted: Array, form: str) -> list[Knob]:
    if form:
        wanted = (wanted > float(form.rpartition("> ")[2])).astype(np.float64)
    positive = float(wanted.sum())
    if not positive:
        return []
    slope = float(terms_of.positive_terms(logits, wanted).mean())
    return [Knob("pos_weight", 1.0, slope, ((wanted.size - positive) / positive,))]
