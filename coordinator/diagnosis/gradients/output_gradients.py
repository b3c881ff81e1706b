"""Says which of a model's outputs the losses weigh otherwise: whose gradients agree, whose differ, and by what factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.array_fit import Array
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.proportions import LARGEST, proportion
from stepalign.coordinator.diagnosis.wording import names

GRADIENT = "@grad"
_MOST_SHOWN = 3

Named = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class OutputGradients:
    """``evidence`` is a clause; ``fix`` is empty, and ``tells`` False, where nothing but a difference is known."""

    evidence: str
    fix: str = ""

    @property
    def tells(self) -> bool:
        """Return whether the gradients narrow the search."""
        return bool(self.fix)


def compare_output_gradients(torch: Named, paddle: Named, batch: Named) -> OutputGradients | None:
    """Compare the gradients with respect to outputs, ``<output>@grad``; None where both sides have none."""
    found = {
        key.removesuffix(GRADIENT): proportion(torch[key], paddle[key], batch)
        for key in sorted(torch)
        if key.endswith(GRADIENT) and key in paddle and torch[key].size <= LARGEST
    }
    differing = {key: item for key, item in found.items() if item.kind != "equal"}
    agreeing = [key for key in found if key not in differing]
    if not found:
        return None
    if not differing:
        if all(torch[f"{key}{GRADIENT}"].size == 1 for key in agreeing):
            return None
        return OutputGradients(
            f"the gradients of the loss with respect to {names(agreeing)} agree, so what differs does not depend on the "
            "model's outputs",
            "compare what both losses add beside the outputs: a term of the parameters (regularisation), a constant",
        )
    shown = [
        f"with respect to {key} the gradient of the loss is {item.text}" for key, item in list(differing.items())[:_MOST_SHOWN]
    ]
    if agreeing:
        shown.append(f"with respect to {names(agreeing)} it is equal")
    text = "; ".join(shown)
    narrow = [key for key, item in differing.items() if item.kind != "other" and torch[f"{key}{GRADIENT}"].size > 1]
    if not agreeing and not narrow:
        return OutputGradients(text)
    return OutputGradients(
        text,
        f"compare what both losses compute from {names(differing)}: the weight of a term or of a class, masks, divisors, detach()",
    )


def explain_module_gradient(module: str, torch: npt.NDArray[np.generic], paddle: npt.NDArray[np.generic]) -> list[Cause]:
    """Return the cause of the first gradient, from the loss back, that differs, at most one: a factor that predicts it."""
    ours, theirs = fit.as_array(torch), fit.as_array(paddle)
    if ours.shape != theirs.shape or not 1 < ours.size <= LARGEST or not _finite(ours, theirs):
        return []
    found = proportion(torch, paddle, {})
    code = {"whole": "gradient_scale", "some": "gradient_scale", "rows": "row_scale", "channels": "channel_scale"}
    if found.kind not in code:
        return []
    where = module or "the model"
    evidence = f"going back from the loss, the gradient with respect to the output of {where} is {found.text}"
    fix = (
        f"look at what is computed from the output of {where} on the paddle side: a weight, a divisor (a length, a count), "
        "a mask, detach"
    )
    return [Cause(Category.BACKWARD, code[found.kind], 0.75, evidence, fix)]


def _finite(*arrays: Array) -> bool:
    return all(bool(np.all(np.isfinite(array))) for array in arrays)
