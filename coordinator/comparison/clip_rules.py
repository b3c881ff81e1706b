"""What gradient clipping makes of given gradients, in float64: torch's and paddle's formulas of the same names.

Sources: torch 2.13 ``torch/nn/utils/clip_grad.py``; paddle 3.3.1 ``paddle/nn/clip.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stepalign.coordinator.comparison.rule_inputs import Float64Array, Hyperparameters
from stepalign.protocol.specs import Scalar


def predict_clip(
    type: str,
    params: Mapping[str, Scalar],
    gradients: Mapping[str, np.ndarray],
    groups: Sequence[Sequence[str]] = (),
) -> dict[str, Float64Array]:
    """Return the clipped gradients, float64, by the same names.

    type: ``clip_grad_norm_`` (torch: one factor max_norm / (norm + 1e-6), at most 1; ``norm_type`` any p or inf),
    ``ClipGradByGlobalNorm`` (paddle: max_norm / max(norm, max_norm), within each of ``groups`` where given, as paddle
    does with parameter groups), ``ClipGradByNorm`` (each tensor by its own norm), ``clip_value`` (each element to
    [min, max], or +-max). params: ``max_norm`` and ``norm_type``, or ``max`` and ``min``. Raises ValueError for
    another type.
    """
    hyper = Hyperparameters(params)
    values = {name: np.asarray(gradient, dtype=np.float64) for name, gradient in gradients.items()}
    if type == "clip_value":
        greatest = hyper.number("max", np.inf)
        least = hyper.number("min", -greatest)
        return {name: np.clip(value, least, greatest) for name, value in values.items()}
    limit, order = hyper.number("max_norm", np.inf), hyper.number("norm_type", 2.0)
    if type == "clip_grad_norm_":
        norm = total_norm(values.values(), order)
        return {name: value * min(1.0, limit / (norm + 1e-6)) for name, value in values.items()}
    if type == "ClipGradByGlobalNorm":
        together = groups or (tuple(values),)
    elif type == "ClipGradByNorm":
        together = tuple((name,) for name in values)
    else:
        raise ValueError(f"expected a clipping of a known type, got {type!r}")
    clipped = dict(values)
    for names in together:
        norm = total_norm((values[name] for name in names if name in values), order)
        factor = limit / max(norm, limit) if np.isfinite(limit) else 1.0
        clipped.update({name: values[name] * factor for name in names if name in values})
    return clipped


def total_norm(arrays: Iterable[np.ndarray], order: float = 2.0) -> float:
    """Return the p-norm over all elements of all arrays, float64; 0 for none."""
    norms = [float(np.linalg.norm(np.asarray(a, dtype=np.float64).ravel(), order)) for a in arrays if np.size(a)]
    return float(np.linalg.norm(norms, order)) if norms else 0.0
