"""Explains a gradient that differs by another output's gradient: a way between the two is open on one side and closed on the other.

An output's gradient is the sum of what flows back on every way to the loss. A detach or a straight-through step that one
side lacks adds or takes away one of these terms, and that term is the gradient of an output further on, in any layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.proportions import LARGEST

_SAME = 1e-4
"""How far two gradients may be apart, of their own size, as a difference of gradients has lost some digits."""

_LEAST = 8
"""Of fewer elements an equal sum says little."""


def explain_flow(
    where: str,
    torch: npt.NDArray[np.generic],
    paddle: npt.NDArray[np.generic],
    further: Sequence[tuple[str, npt.NDArray[np.generic]]],
) -> list[Cause]:
    """Return which output's gradient the one at ``where`` has more or less in paddle than in torch, if that is all.

    ``further`` are the gradients of outputs nearer to the loss, in which both sides agree, from the loss back.
    """
    ours, theirs = fit.as_array(torch), fit.as_array(paddle)
    if ours.shape != theirs.shape or not _LEAST <= ours.size <= LARGEST:
        return []
    more = theirs - ours
    for name, array in reversed(further):
        gradient = fit.as_array(array)
        if gradient.size != ours.size or not np.isfinite(gradient).all() or not gradient.any():
            continue
        if _alike(more, gradient):
            evidence = (
                f"going back from the loss, the gradient with respect to the output of {where} is torch's plus the gradient "
                f"of {name}: in torch that flows elsewhere"
            )
            fix = (
                f"let the gradient of {name} pass by {where} in paddle as in torch: a straight-through step is "
                "x + (q - x).detach(), otherwise .detach()"
            )
            return [Cause(Category.BACKWARD, "not_detached", 0.93, evidence, fix)]
        if _alike(-more, gradient):
            evidence = (
                f"going back from the loss, the gradient with respect to the output of {where} is torch's without the "
                f"gradient of {name}: in paddle that does not flow back so far"
            )
            fix = f"look for .detach(), stop_gradient=True or paddle.no_grad() between {where} and {name} on the paddle side"
            return [Cause(Category.BACKWARD, "detached", 0.93, evidence, fix)]
    return []


def _alike(difference: Array, gradient: Array) -> bool:
    """Say whether two gradients hold the same numbers, in whichever order."""
    return fit.left_over(np.sort(gradient, axis=None), np.sort(difference, axis=None)) <= _SAME
