"""The table of layers: every class of ``torch.nn`` that ports use, and paddle's counterpart."""

from __future__ import annotations

from collections.abc import Mapping

from stepalign.coordinator.atlas.layers import activation, function, linear, loss, normalisation, pooling, recurrent
from stepalign.coordinator.atlas.layers.pair import LayerPair

LAYERS: tuple[LayerPair, ...] = (
    *linear.PAIRS,
    *normalisation.PAIRS,
    *activation.PAIRS,
    *pooling.PAIRS,
    *recurrent.PAIRS,
    *loss.PAIRS,
)
FUNCTIONS: tuple[LayerPair, ...] = function.PAIRS

_BY_TYPE: Mapping[str, LayerPair] = {pair.name: pair for pair in LAYERS}


def layer_of(kind: str) -> LayerPair | None:
    """Return the row of a module's common type, which is torch's class name; None where the table has none."""
    return _BY_TYPE.get(kind)
