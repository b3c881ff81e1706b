"""What each step is asked to collect: everything while it fits the budget, then some steps on the way; never silently.

What lies between such steps is not lost to a diagnosis: where something fails, the steps before it are repeated with whole
tensors (`running.gap`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Tuple

from stepalign.coordinator.cases.case import Case
from stepalign.protocol.specs import Declaration

STATE_KINDS = ("optimizer_state", "parameter", "buffer")
"""What the next step starts from."""

_STATE_TENSORS = 2
"""Optimizer state counts as this many tensors for each parameter: Adam's two moments."""

FIRST_STEPS = 3
"""Steps that are always whole: state is there from the second on, and the third shows what it did."""

EVERY = 20
"""Once the budget is spent, each step that is a multiple of this is whole."""


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


@dataclass(frozen=True)
class Collection:
    """Which kinds each of ``steps`` steps is asked to collect.

    Whole are the first ``whole`` steps, then every `EVERY`-th, the last, and those of ``also``. Before a whole step the
    state that its update starts from is asked for: without it no rule could be held against the update.
    """

    wanted: Tuple[str, ...]
    steps: int
    whole: int
    resync: int = 0
    also: range = range(0)

    def is_whole(self, step: int) -> bool:
        """Say whether all wanted kinds are collected at ``step``."""
        return step < self.whole or step % EVERY == 0 or step == self.steps - 1 or step in self.also

    def kinds(self, step: int) -> Tuple[str, ...]:
        """Return what ``step`` is asked for."""
        kinds: Tuple[str, ...] = ()
        if self.is_whole(step):
            kinds = self.wanted
        elif self.is_whole(step + 1):
            kinds = tuple(kind for kind in self.wanted if kind in STATE_KINDS)
        if "gradient" in kinds:
            kinds = (*kinds, "used_gradient")
        if self.resync and (step + 1) % self.resync == 0:
            kinds = tuple(dict.fromkeys((*kinds, *STATE_KINDS)))
        return kinds

    def gap_before(self, step: int) -> range:
        """Return the steps before ``step``, and itself, that are not whole, from the last whole one on; empty if there are
        none.
        """
        first = step
        while first > 0 and not self.is_whole(first - 1):
            first -= 1
        return range(first, step + (not self.is_whole(step)))

    def with_whole(self, steps: range) -> "Collection":
        """Return the same, with ``steps`` whole too."""
        return replace(self, also=steps)


def plan_collection(case: Case, declaration: Declaration) -> Tuple[Collection, str]:
    """Return what to collect at each step, and the rule in words for the report."""
    wanted: Tuple[str, ...] = case.file.collect.kinds
    size_bytes = step_size_bytes(declaration, wanted)
    budget_mib = case.file.collect.budget_mib
    affordable = (budget_mib << 20) // size_bytes if size_bytes else case.steps
    collection = Collection(wanted, case.steps, max(FIRST_STEPS, affordable), case.file.compare.resync)
    listed = ", ".join(kind.replace("_", " ") for kind in wanted) or "rates and losses only"
    if not wanted:
        return collection, listed
    if all(map(collection.is_whole, range(case.steps))):
        return collection, f"{listed}: whole tensors, every step"
    return collection, (
        f"{listed}: whole tensors at steps 0 to {collection.whole - 1}, every {EVERY}th and the last; a step moves "
        f"{size_bytes >> 20} MiB a side, collect.budget_mib = {budget_mib} for the first steps together. Where something "
        f"fails later, the steps before it are repeated with whole tensors"
    )
