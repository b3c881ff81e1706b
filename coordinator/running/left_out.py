"""Tells which parameters train though ``[weights] ignore`` leaves them out: nothing of them is compared."""

from __future__ import annotations

from typing import List, Mapping

from stepalign.coordinator.diagnosis.wording import names as listed
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.specs import Declaration


def trained_though_left_out(names: NameMap, declarations: Mapping[str, Declaration]) -> List[str]:
    """Return a warning that names the parameters, if any."""
    found = []
    for side in ("torch", "paddle"):
        paired = {piece.slot(side).tensor for piece in names.pieces}
        left = [
            spec.name
            for spec in declarations[side].tensors
            if spec.kind == "parameter" and spec.trainable and spec.name not in paired
        ]
        if left:
            found.append(f"{listed(left)} in {side}")
    if not found:
        return []
    return [
        f"[weights] ignore leaves out parameters that train: {' and '.join(found)}; neither their initial values nor how they "
        "move is compared"
    ]
