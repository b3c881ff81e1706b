"""What both sides declare of each parameter before the first step, as causes of gradients need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepalign.coordinator.sessions.naming import Piece
from stepalign.protocol.specs import Declaration


@dataclass(frozen=True)
class DeclaredParameter:
    """``module_type`` is torch's type of the module that the parameter belongs to; the others, whether a side trains it."""

    module_type: str
    torch_trains: bool
    paddle_trains: bool

    def trains(self, side: str) -> bool:
        """Return whether ``side`` declares the parameter trainable."""
        return self.torch_trains if side == "torch" else self.paddle_trains


def declared_parameters(
    pieces: Sequence[Piece], torch: Declaration, paddle: Declaration
) -> dict[str, DeclaredParameter]:
    """Return what is declared of every parameter that both sides have, by its canonical name."""
    ours, theirs = ({spec.name: spec for spec in side.tensors} for side in (torch, paddle))
    found = {}
    for piece in pieces:
        here, there = ours.get(piece.torch.tensor), theirs.get(piece.paddle.tensor)
        if piece.kind == "parameter" and here is not None and there is not None:
            found[piece.name] = DeclaredParameter(here.module_type, here.trainable, there.trainable)
    return found
