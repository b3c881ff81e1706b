"""Where both sides have the same layer and paddle's computes otherwise, whatever its arguments: the atlas knows which.

Such a difference is a hint before the first step, for only the data tells whether it shows; it is a cause where the run
fails in the forward or backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stepalign.coordinator.atlas.layers import layer_of
from stepalign.coordinator.atlas.layers.pair import Difference
from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.wording import count, names
from stepalign.protocol.specs import ModuleSpec

CODE = "layer_difference"
SHOWN_BY = ("loss", "gradient", "activation")
_CONFIDENCE = 0.6


def layer_differences(pairs: Sequence[tuple[ModuleSpec, ModuleSpec]]) -> Iterator[Finding]:
    """Yield a hint for each difference that the modules' arguments allow, equal ones grouped."""
    found: dict[tuple[str, Difference], list[tuple[ModuleSpec, ModuleSpec]]] = {}
    for torch, paddle in pairs:
        row = layer_of(torch.type) if torch.type == paddle.type else None
        for difference in row.differences if row is not None else ():
            if difference.applies is not None and difference.applies(torch.hyperparameters):
                found.setdefault((torch.type, difference), []).append((torch, paddle))
    for (kind, difference), modules in found.items():
        torch, paddle = modules[0]
        paths = names(p.path for _, p in modules)
        yield Finding(_cause(kind, difference, len(modules), paths), difference.kind, torch.path, paddle.path, False)


def _cause(kind: str, difference: Difference, number: int, paths: str) -> Cause:
    evidence = f"{kind}, {difference.key}, at {count(number, 'module')} ({paths}): {difference.formula}"
    if kind.endswith("Loss"):
        return Cause(Category.LOSS, "layer_difference", _CONFIDENCE, evidence, difference.mend)
    if difference.kind == "gradient":
        return Cause(Category.BACKWARD, "layer_difference", _CONFIDENCE, evidence, difference.mend)
    return Cause(Category.FORWARD, "layer_difference", _CONFIDENCE, evidence, difference.mend)
