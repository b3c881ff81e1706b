"""One parameter's records on one side under a rule that is being tried, and how well it fits them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepalign.coordinator.comparison.update_residual import UpdateJudgement, judge_update
from stepalign.coordinator.diagnosis.updates.optimizer_candidates import Hyper
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace, UpdateRecord

FEW_CASES = 6


@dataclass(frozen=True)
class Case:
    """One parameter's records on paddle, with the rule and hyper-parameters tried on them so far."""

    trace: ParameterTrace
    rule: str
    hyper: Hyper
    records: tuple[UpdateRecord, ...]

    @property
    def name(self) -> str:
        """Return the parameter's torch name."""
        return self.trace.torch_name


def judge_record(rule: str, hyper: Hyper, record: UpdateRecord, dtype: str) -> UpdateJudgement | None:
    """Hold one record against a rule; None where the rule is unknown or there is no gradient."""
    gradient = record.used
    if gradient is None:
        return None
    plain = {key: value for key, value in hyper.items() if not key.startswith("_")}
    return judge_update(
        rule,
        plain,
        record.before,
        gradient,
        record.state_before,
        record.after,
        record.state_after,
        record.lr * rate_factor(hyper),
        record.step,
        dtype,
    )


def worst_of(case: Case, enough: float = math.inf) -> float:
    """Return the greatest quotient of residual and allowance over a case's records; infinite where a slot is missing.

    Stops at the first record above ``enough``.
    """
    worst = 0.0
    for record in case.records:
        judgement = judge_record(case.rule, case.hyper, record, case.trace.dtype)
        if judgement is None or judgement.missing_slots:
            return float("inf")
        worst = max(worst, judgement.worst)
        if worst > enough:
            break
    return worst


def fits(case: Case) -> bool:
    """Say whether all of a case's records fit its rule."""
    return worst_of(case, 1.0) <= 1.0


def few(cases: Sequence[Case]) -> list[Case]:
    """Return at most `FEW_CASES` of the cases, spread evenly."""
    return [cases[i] for i in np.linspace(0, len(cases) - 1, min(len(cases), FEW_CASES)).astype(int)]


def rate_factor(hyper: Hyper) -> float:
    """Return the factor on the rate that a knob set, 1 without one."""
    factor = hyper.get("_rate", 1.0)
    return float(factor) if isinstance(factor, (int, float)) else 1.0
