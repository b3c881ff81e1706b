"""Finds weights that one side ties and the other keeps apart: equal at the start, trained by different gradients."""

from __future__ import annotations

from typing import Dict, List, Tuple

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.sessions.naming import NameMap


def find_untied(names: NameMap) -> List[Finding]:
    """Return a finding for each tensor that is one on one side and several on the other; all of them are named."""
    found: Dict[Tuple[str, ...], Finding] = {}
    for name in names.untied:
        shared = {piece.paddle.tensor for piece in names.pieces if name in (piece.name, piece.torch.tensor)}
        torch = sorted({piece.torch.tensor for piece in names.pieces if piece.paddle.tensor in shared} or {name})
        paddle = sorted(shared)
        evidence = f"{', '.join(torch)} of torch is {', '.join(paddle)} of paddle: one side shares the weight, the other does not"
        cause = Cause(
            Category.BACKWARD,
            "not_tied",
            0.95,
            evidence,
            "share one parameter on both sides, for example self.head.weight = self.embed.weight, or a matmul with it",
        )
        found.setdefault((*torch, *paddle), Finding(cause, "gradient", torch[0], paddle[0] if paddle else "", True))
    return list(found.values())
