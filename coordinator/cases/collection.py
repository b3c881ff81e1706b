"""What each step is asked to collect: everything where it fits the budget, else the steps that say most; never
silently.
"""

from __future__ import annotations

from typing import Callable, Tuple

from stepalign.coordinator.cases.case import Case
from stepalign.protocol.specs import Declaration

Kinds = Callable[[int], Tuple[str, ...]]

_STATE = ("optimizer_state", "parameter", "buffer")
_STATE_TENSORS = 2
"""Optimizer state counts as this many tensors for each parameter: Adam's two moments."""


def step_size_bytes(declaration: Declaration, kinds: Tuple[str, ...]) -> int:
    """Return about how much one side's step moves, in bytes, activations aside."""
    item_size_bytes = {"float64": 8, "int64": 8, "float16": 2}
    parameters = buffers = 0
    for spec in declaration.tensors:
        count = 1
        for length in spec.shape:
            count *= length
        size_bytes = count * item_size_bytes.get(spec.dtype, 4)
        if spec.kind == "parameter":
            parameters += size_bytes
        else:
            buffers += size_bytes
    weight = {
        "gradient": parameters,
        "parameter": parameters,
        "optimizer_state": _STATE_TENSORS * parameters,
        "buffer": buffers,
        "used_gradient": parameters if declaration.optimizer.clip or declaration.has_after_backward else 0,
    }
    return sum(weight.get(kind, 0) for kind in kinds)


def plan_collection(case: Case, declaration: Declaration) -> Tuple[Kinds, str]:
    """Return the kinds to collect at each step, and the rule in words for the report."""
    wanted: Tuple[str, ...] = case.file.collect.kinds
    size_bytes = step_size_bytes(declaration, wanted)
    resync, last = case.file.compare.resync, case.steps - 1
    listed = ", ".join(kind.replace("_", " ") for kind in wanted) or "rates and losses only"
    if size_bytes <= case.file.collect.budget_mib << 20:
        return (lambda step: _with_resync(wanted, step, resync)), f"{listed}: whole tensors, every step"
    chosen = {0, 1, 2, last}
    before = tuple(kind for kind in wanted if kind in _STATE)
    rule = (
        f"{listed}: whole tensors at steps {', '.join(str(step) for step in sorted(chosen) if step <= last)} only; "
        f"a step moves {size_bytes >> 20} MiB a side, more than collect.budget_mib = {case.file.collect.budget_mib}"
    )

    def kinds(step: int) -> Tuple[str, ...]:
        """Ask for what an update starts from, too, one step before the last: without it no rule can be held against it."""
        asked = wanted if step in chosen else before if step == last - 1 else ()
        return _with_resync(asked, step, resync)

    return kinds, rule


def _with_resync(kinds: Tuple[str, ...], step: int, resync: int) -> Tuple[str, ...]:
    if "gradient" in kinds:
        kinds = (*kinds, "used_gradient")
    if resync and (step + 1) % resync == 0:
        return tuple(dict.fromkeys((*kinds, "parameter", "optimizer_state", "buffer")))
    return kinds
