"""Loss functions of both frameworks as numpy formulas in float64: one term for each label or each element, unreduced.

Each function takes the model's output and gives terms; how they are reduced is the caller's. Formulas: torch 2.13's and
paddle 3.3's documentation, and what both computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.diagnosis.array_fit import Array

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]

CLIP = -64.0
"""Paddle's softmax kernels on the CPU raise shifted logits to this."""

LOG_FLOOR = -100.0
"""Binary cross-entropy of probabilities takes no logarithm below this, in both frameworks."""

SMOOTH_L1_WIDTHS = (1 / 9, 0.01, 0.05, 0.1, 0.11, 0.2, 0.25, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)


def log_softmax(logits: Array, clipped: bool = False) -> Array:
    """Return log softmax over the last axis; ``clipped`` as paddle's kernels on the CPU compute it."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    if clipped:
        shifted = np.maximum(shifted, CLIP)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def softmax(logits: Array) -> Array:
    """Return softmax over the last axis."""
    return np.exp(log_softmax(logits))


def log_probabilities(scores: Array) -> Iterator[tuple[str, Array]]:
    """Yield what a loss over classes may take for log p, the plain reading, named "", first; scores [..., classes].

    A reading that equals the plain one is left out.
    """
    plain = log_softmax(scores)
    yield "", plain
    clipped = log_softmax(scores, clipped=True)
    if not np.array_equal(clipped, plain):
        yield "clipped", clipped
    yield "softmax_first", log_softmax(np.exp(plain))
    if not np.allclose(scores, plain, rtol=0.0, atol=1e-4):
        yield "raw", scores
    if scores.min() >= 0.0 and np.allclose(scores.sum(axis=-1), 1.0, atol=1e-3):
        yield "logarithm", np.maximum(np.log(np.maximum(scores, 1e-300)), LOG_FLOOR)


def picked(log_p: Array, labels: Labels, valid: Mask) -> Array:
    """Return -log p of each label, zero where it is not valid; log_p [..., classes], labels [...]."""
    safe = np.where(valid, labels, 0)
    terms = -np.take_along_axis(log_p, safe[..., None], axis=-1)[..., 0]
    result: Array = np.where(valid, terms, 0.0)
    return result


def uniform(log_p: Array, valid: Mask) -> Array:
    """Return the mean of -log p over the classes, zero where a label is not valid: what smoothing mixes in."""
    result: Array = np.where(valid, -log_p.mean(axis=-1), 0.0)
    return result


def elementwise(output: Array, target: Array) -> Iterator[tuple[str, str, Array]]:
    """Yield (loss, form, terms) of every loss that compares an output with a target of one shape.

    ``form`` tells arguments of one loss apart; terms may broadcast, as both frameworks let them.
    """
    gap = output - target
    yield "squared error", "", gap * gap
    size = np.abs(gap)
    yield "absolute error", "", size
    for width in SMOOTH_L1_WIDTHS:
        huber = np.where(size < width, 0.5 * gap * gap, width * (size - 0.5 * width))
        yield "smooth L1", f"beta {width:.4g}", huber / width
        if width != 1.0:
            yield "smooth L1", f"Huber's with delta {width:.4g}", huber
    yield from _binary(output, target)
    yield from _soft(output, target)


def _binary(output: Array, target: Array) -> Iterator[tuple[str, str, Array]]:
    targets = [("", target)] if target.min() >= 0.0 and target.max() <= 1.0 else []
    targets += [(f"of target > {edge:g}", (target > edge).astype(np.float64)) for edge in (0.0, 0.5)]
    within = output.min() >= 0.0 and output.max() <= 1.0
    seen: list[Array] = []
    for form, wanted in targets:
        if any(np.array_equal(wanted, other) for other in seen):
            continue
        seen.append(wanted)
        yield "binary cross-entropy with logits", form, _with_logits(output, wanted)
        with np.errstate(over="ignore"):
            once = 1.0 / (1.0 + np.exp(-output))
        yield "binary cross-entropy with logits", f"sigmoid first {form}".strip(), _with_logits(once, wanted)
        if within:
            with np.errstate(divide="ignore"):
                logs = np.maximum(np.log(output), LOG_FLOOR), np.maximum(np.log1p(-output), LOG_FLOOR)
            yield "binary cross-entropy", form, -(wanted * logs[0] + (1.0 - wanted) * logs[1])


def _with_logits(logits: Array, wanted: Array) -> Array:
    result: Array = np.maximum(logits, 0.0) - logits * wanted + np.log1p(np.exp(-np.abs(logits)))
    return result


def positive_terms(logits: Array, wanted: Array) -> Array:
    """Return the part of binary cross-entropy with logits that ``pos_weight`` multiplies."""
    result: Array = wanted * np.logaddexp(0.0, -logits)
    return result


def _soft(output: Array, target: Array) -> Iterator[tuple[str, str, Array]]:
    """Yield losses against a distribution over the last axis; their terms keep that axis."""
    if output.shape != target.shape or output.ndim < 2 or target.min() < 0.0:
        return
    if not np.allclose(target.sum(axis=-1), 1.0, atol=1e-3):
        return
    log_p = log_softmax(output)
    entropy = target * np.log(np.where(target > 0.0, target, 1.0))
    yield "cross-entropy with soft labels", "", (-target * log_p).sum(axis=-1)
    yield "cross-entropy with soft labels", "softmax first", (-target * log_softmax(np.exp(log_p))).sum(axis=-1)
    yield "KL divergence", "of log softmax", entropy - target * log_p
    yield "KL divergence", "of the output as it is", entropy - target * output
