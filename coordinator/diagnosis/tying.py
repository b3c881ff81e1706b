"""Finds weights that one side ties and the other keeps apart: equal at the start, trained by different gradients."""

from __future__ import annotations

from typing import List

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.sessions.naming import NameMap


def find_untied(names: NameMap) -> List[Finding]:
    """Return a finding for each tensor that is one on one side and several on the other."""
    found = []
    for name in names.untied:
        pieces = [piece for piece in names.pieces if piece.name == name or piece.torch.tensor == name]
        torch = sorted({piece.torch.tensor for piece in pieces} or {name})
        paddle = sorted({piece.paddle.tensor for piece in pieces})
        evidence = f"{', '.join(torch)} of torch is {', '.join(paddle)} of paddle: one side shares the weight, the other does not"
        cause = Cause(
            Category.BACKWARD,
            "not_tied",
            0.95,
            evidence,
            "share one parameter on both sides, for example self.head.weight = self.embed.weight, or a matmul with it",
        )
        found.append(Finding(cause, "gradient", torch[0], paddle[0] if paddle else "", True))
    return found
