"""Compares the buffers that each side built itself, before the run's initial values were loaded over them.

A constant that a port computes wrongly, a grid of anchors or a table of positions, is hidden by torch's own: the run is
aligned, and the port alone trains with other numbers. Values that a layer collects while it trains (running statistics) are
left out. What is found is a warning: the run itself compared what it was given.
"""

from __future__ import annotations

from typing import Dict, List, Mapping, Tuple

import numpy as np

from stepalign.coordinator.diagnosis import array_fit as fit
from stepalign.coordinator.diagnosis.wording import names as listed
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named
from stepalign.protocol.specs import Declaration

_COLLECTED = frozenset({"running_mean", "running_var", "num_batches_tracked"})

_ROUNDING = 1e-3
"""What of a buffer's greatest magnitude both frameworks may build otherwise: the sine of a position of 5000 that is rounded
to float32 is known to 3e-4.
"""

_FITTED = 1e-5
"""What may be left over of a relation to torch's buffer, as a part of it."""


def told_buffers(names: NameMap, declarations: Mapping[str, Declaration]) -> Dict[str, Tuple[str, ...]]:
    """Return by side the buffers of which it is to tell what it built: those that both have and no layer collects."""
    roles = {spec.name: spec.role for spec in declarations["torch"].tensors}
    pieces = [piece for piece in names.pieces if piece.kind == "buffer" and roles.get(piece.torch.tensor) not in _COLLECTED]
    return {side: tuple(dict.fromkeys(piece.slot(side).tensor for piece in pieces)) for side in ("torch", "paddle")}


def compare_built(
    names: NameMap, source: str, initial: Mapping[str, Named], replaced: Mapping[str, Named]
) -> List[str]:
    """Return a warning for each way in which paddle built buffers otherwise than torch.

    ``initial``: all tensors as each side holds them now, ``replaced``: the buffers that it had otherwise before, by side.
    """
    if not any(replaced.values()):
        return []
    told = {name for side in replaced.values() for name in side}
    ours, theirs = (
        names.canonical(side, {**initial[side], **replaced.get(side, {})}, "buffer") for side in ("torch", "paddle")
    )
    found: Dict[str, List[Tuple[str, float]]] = {}
    for piece in names.pieces:
        if piece.kind != "buffer" or not {piece.torch.tensor, piece.paddle.tensor} & told:
            continue
        same_shape = ours[piece.name].shape == theirs[piece.name].shape
        apart = _greatest_difference(ours[piece.name], theirs[piece.name]) if same_shape else 0.0
        if apart > 0.0:
            found.setdefault(_relation(ours[piece.name], theirs[piece.name]), []).append((piece.name, apart))
    used = {
        "torch": "this run used torch's values, which the port will not have when it is trained alone",
        "paddle": "this run used paddle's values on both sides, torch has others when it is trained alone",
    }.get(source, "this run used the values of the weights file on both sides")
    return [
        f"paddle built buffers otherwise than torch: {listed(name for name, _ in entries)} (greatest difference "
        f"{max(apart for _, apart in entries):.3g}; {relation}); {used}"
        for relation, entries in found.items()
    ]


def _greatest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the greatest difference of two buffers, infinite where one value is not a number; 0 for what is rounding."""
    wide = np.complex128 if ours.dtype.kind == "c" else np.float64
    torch, paddle = ours.astype(wide), theirs.astype(wide)
    with np.errstate(all="ignore"):
        apart = np.abs(paddle - torch)
    same = (paddle == torch) | (np.isnan(paddle) & np.isnan(torch))
    greatest = float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0, where=~same))
    size = float(np.max(np.abs(torch), initial=0.0, where=np.isfinite(torch)))
    return greatest if ours.dtype.kind in "biu" or greatest > _ROUNDING * size else 0.0


def _relation(torch: np.ndarray, paddle: np.ndarray) -> str:
    """Say how paddle's buffer comes of torch's, as far as it does."""
    if torch.dtype.kind == "c" or not (np.isfinite(torch).all() and np.isfinite(paddle).all()):
        return "infinities, or where they stand"
    ours, theirs = fit.as_array(torch), fit.as_array(paddle)
    if not np.any(theirs):
        return "it is zero"
    if fit.transposed(ours, theirs) < _FITTED:
        return "it is torch's transposed"
    for axis in sorted(range(ours.ndim), key=lambda each: ours.shape[each]):
        if fit.permutation(ours, theirs, axis) is not None:
            return f"it is torch's in another order along axis {axis}"
    factor, left = fit.factor(ours, theirs)
    if ours.size > 1 and left < _FITTED:
        return f"it is {factor:.6g} times torch's"
    constant, left = fit.offset(ours, theirs)
    if ours.size > 1 and left < _FITTED:
        return f"it is torch's plus {constant:.6g}"
    return "nothing relates it to torch's, which is right only for what is drawn at random"
