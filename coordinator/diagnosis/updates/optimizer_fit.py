"""Names what is wrong with a port's optimizer: which change to torch's rule makes paddle's updates fit.

Each side's update is judged given that side's own gradient and state, so noise in gradients plays no part. Parameters
on which the rule does not even fit torch's own numbers are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stepalign.coordinator.comparison.rule_inputs import Hyperparameters
from stepalign.coordinator.comparison.update_rules import known_rules
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.declared.counterparts import optimizer_argument, write
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.updates.optimizer_candidates import torch_value
from stepalign.coordinator.diagnosis.updates.optimizer_case import Case, fits, judge_record, worst_of
from stepalign.coordinator.diagnosis.updates.optimizer_search import Change, Explanation, explain
from stepalign.coordinator.diagnosis.updates.unmoved_parameters import explain_unmoved
from stepalign.coordinator.diagnosis.updates.update_trace import (
    SAMPLED_ELEMENTS,
    ParameterTrace,
    describe,
    sample_trace,
)
from stepalign.coordinator.results.result import KnownDifference
from stepalign.protocol.specs import Scalar

HyperByParameter = Mapping[str, Mapping[str, Scalar]]

LEAST_ELEMENTS = 256
TOTAL_ELEMENTS = 200_000

_PADDLE_CLASSES = {"RMSprop": "RMSProp"}


def explain_updates(traces: Sequence[ParameterTrace], hyper_by_parameter: HyperByParameter, rule: str) -> list[Cause]:
    """Return why paddle's updates are not what torch's ``rule`` makes of paddle's own inputs, most likely first.

    ``hyper_by_parameter`` holds torch's hyper-parameters by torch's parameter names. Empty where every update fits,
    where the rule is unknown, or where no change that is known here explains the numbers.
    """
    elements = max(LEAST_ELEMENTS, min(SAMPLED_ELEMENTS, TOTAL_ELEMENTS // max(len(traces), 1)))
    sampled = [sample_trace(trace, elements) for trace in traces]
    causes, unmoved = explain_unmoved(sampled)
    if rule not in known_rules():
        return rank(causes)
    cases = _trusted([trace for trace in sampled if trace.torch_name not in unmoved], hyper_by_parameter, rule)
    failing = [case for case in cases if not _fits_somehow(case)]
    if not failing:
        return rank(causes)
    passing = [case for case in cases if case not in failing]
    decays = sorted(
        {Hyperparameters(case.hyper).number("weight_decay", 0.01 if rule == "AdamW" else 0.0) for case in cases}
    )
    starts = [_as_paddle_writes_it(case) for case in failing]
    groups = explain(starts, decays)
    share = sum(len(group[0].covered) for group in groups) / len(failing)
    for group in groups:
        context = _Context(group[0], starts, [_as_paddle_writes_it(case) for case in passing], rule)
        for position, explanation in enumerate(group[:3]):
            causes.extend(_causes(replace(context, explanation=explanation), position, share))
    return rank(_merge(causes))


def _merge(causes: Sequence[Cause]) -> list[Cause]:
    """Join causes of one code that speak of different parameters: the likeliest leads, the others' evidence follows."""
    by_code: dict[tuple[str, str], list[Cause]] = {}
    for cause in causes:
        by_code.setdefault((cause.category.value, cause.code), []).append(cause)
    merged = []
    for same in by_code.values():
        first = max(same, key=lambda cause: cause.confidence)
        others = [cause for cause in same if cause is not first and cause.confidence >= 0.8 * first.confidence]
        merged.append(replace(first, evidence="; ".join(cause.evidence for cause in (first, *others))))
    return merged


def known_update_differences(
    traces: Sequence[ParameterTrace], hyper_by_parameter: HyperByParameter, rule: str
) -> list[KnownDifference]:
    """Return, for each parameter that fits only so, paddle's own form of the rule or its float32 hyper-parameters."""
    if rule not in known_rules():
        return []
    found = []
    for case in _trusted([sample_trace(trace) for trace in traces], hyper_by_parameter, rule):
        plain = [judge_record(rule, case.hyper, record, case.trace.dtype) for record in case.records]
        variants = {judgement.variant for judgement in plain if judgement is not None and judgement.fits} - {""}
        if all(judgement is not None and judgement.fits for judgement in plain):
            if variants and case.trace.dtype == "float64":
                what = "paddle keeps this optimizer's hyper-parameters in float32"
                rest = f"residual {worst_of(case):.2g} of what rounding may do"
                found.append(KnownDifference(sorted(variants)[0], case.name, f"{what}; {rest}"))
        elif _fits_somehow(case):
            left = worst_of(_as_paddle_writes_it(case))
            found.append(
                KnownDifference(
                    f"{rule.lower()}_formula",
                    case.name,
                    f"{_FORMULA_NOTES[rule]}; residual {left:.2g} of what rounding may do",
                )
            )
    return found


_FORMULA_NOTES = {
    "RMSprop": "paddle's RMSProp has epsilon below the root and the rate inside its velocity",
    "Adamax": "paddle's Adamax takes max(|g|, beta2 * u + eps), torch's max(beta2 * u, |g| + eps)",
}


def _trusted(traces: Sequence[ParameterTrace], hyper_by_parameter: HyperByParameter, rule: str) -> list[Case]:
    """Return the parameters whose torch records fit torch's rule, with paddle's usable records."""
    cases = []
    for trace in traces:
        hyper = hyper_by_parameter.get(trace.torch_name)
        if hyper is None:
            continue
        ours = tuple(record for record in trace.torch if record.used is not None)
        theirs = tuple(
            record
            for record in trace.paddle
            if record.used is not None
            and record.used.shape == record.before.shape == record.after.shape
            and bool(np.isfinite(record.used).all())
        )
        if ours and theirs and fits(Case(trace, rule, hyper, ours)):
            cases.append(Case(trace, rule, hyper, theirs))
    return cases


def _as_paddle_writes_it(case: Case) -> Case:
    """Return the case under paddle's own form of the rule, with the nearest epsilon that a port can choose."""
    if case.rule == "RMSprop":
        eps = Hyperparameters(case.hyper).number("eps", 1e-8)
        return replace(case, hyper={**case.hyper, "eps_inside_sqrt": eps**2, "lr_in_velocity": True})
    if case.rule == "Adamax":
        return replace(case, hyper={**case.hyper, "eps_on_norm": True})
    return case


def _fits_somehow(case: Case) -> bool:
    return fits(case) or (case.rule in _FORMULA_NOTES and fits(_as_paddle_writes_it(case)))


@dataclass(frozen=True)
class _Context:
    """An explanation with the parameters that fail and those that pass without it."""

    explanation: Explanation
    failing: Sequence[Case]
    passing: Sequence[Case]
    rule: str

    @property
    def covered(self) -> list[Case]:
        return [case for case in self.failing if case.name in self.explanation.covered]

    @property
    def subset(self) -> str:
        every = [case.trace for case in (*self.failing, *self.passing)]
        silent = [case for case in self.passing if self.changed(case) != case and fits(self.changed(case))]
        if not silent:
            return describe([case.trace for case in self.covered], every)
        what = describe([case.trace for case in (*self.covered, *silent)], every)
        return f"{what}; it shows on {len(self.covered)} of them"

    def changed(self, case: Case) -> Case:
        for change in self.explanation.changes:
            case = change.transform(case)
        return case

    @property
    def call(self) -> str:
        momentum = Hyperparameters(self.covered[0].hyper).number("momentum", 0.0)
        name = "Momentum" if self.rule == "SGD" and momentum else _PADDLE_CLASSES.get(self.rule, self.rule)
        return f"paddle.optimizer.{name}(...)"


def _causes(context: _Context, position: int, share: float) -> list[Cause]:
    """Return one cause for each change of an explanation; ``position`` is its place among alternatives.

    ``share`` is the share of failing parameters that is explained at all.
    """
    before = max(worst_of(case) for case in context.covered)
    left = context.explanation.worst
    strength = min(before, 1e12) / max(left, 0.5)
    confidence = 0.97 * (1.0 - 0.5 / (1.0 + 0.2 * strength)) * (0.6 + 0.4 * share) * 0.7**position
    confidence *= 0.92 ** (len(context.explanation.changes) - 1)
    tail = (
        f"on {context.subset}; what is left is {left:.2g} times what rounding may do, "
        f"{'a state slot was missing' if not np.isfinite(before) else f'{before:.3g} times'} without it"
    )
    causes = []
    for change in context.explanation.changes:
        category, code, evidence, fix = _words(change, context)
        causes.append(Cause(category, code, round(min(confidence, 0.97), 3), f"{evidence}, {tail}", fix))
    return causes


def _words(change: Change, context: _Context) -> tuple[Category, str, str, str]:
    """Return category, code, evidence and fix of one change in the port's terms."""
    if change.decays and change.value is not None and change.name == "weight_decay":
        return _decay_words(change, context)
    if change.evidence:
        return change.category, change.code, change.evidence, change.fix
    value = change.value if change.value is not None else 0.0
    if change.name == "_rate":
        evidence = f"paddle's updates are {value:.6g} times what its rate makes of its gradients"
        fix = (
            "set the rate multiplier of these parameters to 1: optimize_attr['learning_rate'] of their ParamAttr, or "
            f"'learning_rate' of their group (a multiplier, not a rate) in {context.call}"
        )
        return change.category, change.code, evidence, fix
    if change.name == "gradient_scale":
        evidence = f"paddle's optimizer works with {value:.6g} times the gradient it was given"
        return (
            change.category,
            change.code,
            evidence,
            "scale the loss or the gradients as torch does, once, before step()",
        )
    if change.name in ("coupled_weight_decay", "l1_decay"):
        kind = "an L2 term" if change.name == "coupled_weight_decay" else "an L1 term"
        evidence = f"paddle's gradients bear {kind} of coefficient {value:.6g} that torch's do not"
        fix = (
            "remove the regularizer of their ParamAttr (or of an earlier optimizer): "
            f"{context.call} applies it beside weight_decay"
        )
        return change.category, change.code, evidence, fix
    argument = optimizer_argument(context.rule, change.name)
    ours = torch_value(context.rule, context.covered[0].hyper, change.name)
    evidence = f"{change.name} = {value:.7g} fits paddle's numbers, torch has {ours:.7g}"
    written = write(argument, change.name, ours)
    fix = f"{written} in {context.call}" if argument is None or argument.paddle else written
    return change.category, change.code, evidence, fix


def _decay_words(change: Change, context: _Context) -> tuple[Category, str, str, str]:
    """Say which decay paddle applies where torch applies another: none, an added one, another value, on which kind."""
    value = change.value or 0.0
    default = 0.01 if context.rule == "AdamW" else 0.0
    decays = sorted({Hyperparameters(case.hyper).number("weight_decay", default) for case in context.covered})
    ours = ", ".join(f"{decay:g}" for decay in decays)
    call, subset = context.call, [case.trace for case in context.covered]
    if value == 0.0:
        decaying = [case for case in context.passing if Hyperparameters(case.hyper).number("weight_decay", default)]
        seen = [case for case in decaying if not fits(change.transform(case))]
        if not seen:
            return (
                change.category,
                "no_decay",
                f"paddle applies no weight decay, torch {ours}",
                f"weight_decay={ours} in {call}",
            )
        fix = (
            f"let the decay filter of {call} pass them: "
            "apply_decay_param_fun gets paddle's internal names (linear_0.w_0)"
        )
        return change.category, "decay_missing", f"paddle applies no weight decay where torch applies {ours}", fix
    if decays == [0.0]:
        others = [
            case
            for case in (*context.failing, *context.passing)
            if Hyperparameters(case.hyper).number("weight_decay", default)
        ]
        evidence = f"paddle decays by {value:.6g} where torch does not"
        if not others:
            return change.category, "decay_added", evidence, f"weight_decay=0.0 in {call}"
        code = "decay_on_excluded"
        if any(trace.is_bias for trace in subset):
            code = "decay_on_bias"
        elif any(trace.is_norm for trace in subset):
            code = "decay_on_norm"
        fix = (
            f"exclude them in {call}: apply_decay_param_fun gets paddle's internal names (linear_0.b_0), so collect "
            "[p.name for n, p in model.named_parameters() if ...] first"
        )
        return change.category, code, evidence, fix
    return (
        change.category,
        "decay_value",
        f"weight decay {value:.6g} fits paddle's numbers, torch has {ours}",
        f"weight_decay={ours} in {call}",
    )
