"""Explains what a module's own code makes of outputs in which both sides agree: gated products, pooling, sums,
attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.modules.attention_causes import explain_attention
from stepalign.coordinator.diagnosis.modules.gate_causes import explain_gate
from stepalign.coordinator.diagnosis.modules.pooling_causes import explain_pooling
from stepalign.coordinator.diagnosis.modules.term_causes import explain_terms


def explain_own_code(
    where: str,
    agreed: Sequence[tuple[str, np.ndarray]],
    given: Mapping[str, np.ndarray],
    torch: np.ndarray,
    paddle: np.ndarray,
) -> list[Cause]:
    """Return by which formula of ``agreed``, the outputs that the code had, each side makes what differs first.

    ``given`` are the further arguments of the module, masks among them.
    """
    ours, theirs = fit.as_array(torch), fit.as_array(paddle)
    before = [(name, fit.as_array(array)) for name, array in agreed if array.dtype.kind == "f"]
    if not before or ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return []
    return (
        list(explain_gate(where, before, ours, theirs))
        or list(explain_pooling(where, before, ours, theirs))
        or list(explain_terms(where, before, ours, theirs))
        or list(explain_attention(where, before, given, ours, theirs, fit.left_over(ours, theirs)))
    )
