"""Enumerates the contrastive losses of two outputs whose rows belong together, as CLIP and SimCLR train them.

Every row of one output is told from the rows of the other by a cross-entropy over their products, in one direction or both;
a scalar among the outputs may be the factor of the products, a learnt temperature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.loss.loss_readings import Reading

LARGEST_SIDE = 2048
"""Rows. Products of more are not formed."""

_CLIP = -64.0


def contrastive_readings(outputs: Mapping[str, npt.NDArray[np.generic]]) -> list[Reading]:
    """Return the readings of every two outputs of one shape [N, width], and of every square output as their products."""
    arrays = {
        name: array.astype(np.float64)
        for name, array in outputs.items()
        if array.dtype.kind == "f" and array.size and np.all(np.isfinite(array))
    }
    factors = {name: float(array.reshape(())) for name, array in arrays.items() if array.size == 1}
    wide = {name: array for name, array in arrays.items() if array.ndim == 2 and 1 < array.shape[0] <= LARGEST_SIDE}
    found = []
    for first, second in combinations(wide, 2):
        if wide[first].shape == wide[second].shape and wide[first].shape[1] > 1:
            for vectors, (a, b) in _vectors(wide[first], wide[second]):
                for scale, factor in [("", 1.0), *factors.items()]:
                    settings = {**_setting("vectors", vectors), **_setting("scale", scale)}
                    found += list(_losses(f"{first} and {second}", (first, second), factor * a @ b.T, settings))
    for name, array in wide.items():
        if array.shape[0] == array.shape[1]:
            found += list(_losses(name, ("its rows", "its columns"), array, {}))
    return [reading for reading in found if np.isfinite(reading.value)]


def _vectors(first: Array, second: Array) -> Iterator[tuple[str, tuple[Array, Array]]]:
    yield "", (first, second)
    lengths = [np.linalg.norm(side, axis=1, keepdims=True) for side in (first, second)]
    if all(length.all() for length in lengths) and any(np.max(np.abs(length - 1.0)) > 1e-4 for length in lengths):
        yield "vectors brought to length one before it", (first / lengths[0], second / lengths[1])


def _losses(output: str, sides: tuple[str, str], products: Array, settings: Mapping[str, str]) -> Iterator[Reading]:
    for logits, clip in (("", -np.inf), ("clipped", _CLIP)):
        rows, columns = _cross_entropy(products, clip), _cross_entropy(products.T, clip)
        if logits and (rows, columns) == (_cross_entropy(products, -np.inf), _cross_entropy(products.T, -np.inf)):
            return
        for directions, value in (
            ("", (rows + columns) / 2.0),
            ("both directions added", rows + columns),
            (f"from {sides[0]} alone", rows),
            (f"from {sides[1]} alone", columns),
        ):
            said = {**settings, **_setting("logits", logits), **_setting("directions", directions)}
            yield Reading("contrastive loss", output, "each other", value, said)


def _cross_entropy(products: Array, clip: float) -> float:
    shifted = np.maximum(products - products.max(axis=1, keepdims=True), clip)
    return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - np.diagonal(shifted)))


def _setting(aspect: str, setting: str) -> dict[str, str]:
    return {aspect: setting} if setting else {}
