"""Declared differences between two optimizers, resolved for each pair of parameters.

How parameters are grouped does not count; what holds for each of them does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.declared.common_terms import OPTIMIZER_TERMS, as_float, same_value
from stepalign.coordinator.diagnosis.declared.counterparts import both_defaults, optimizer_argument, write
from stepalign.coordinator.diagnosis.declared.preflight_decay import compare_decay
from stepalign.coordinator.diagnosis.declared.preflight_pairs import (
    ParameterPair,
    call_of,
    class_of,
    decay_of,
    finding_for,
    rate_of,
    resolve,
)
from stepalign.coordinator.diagnosis.wording import count, names, number
from stepalign.protocol.specs import Declaration, OptimizerSpec, Scalar, TensorSpec

_ADAMS = frozenset({"Adam", "AdamW"})
_WITHOUT_STATE = frozenset({"SGD"})


def compare_optimizers(
    torch: Declaration, paddle: Declaration, pairs: Sequence[tuple[TensorSpec, TensorSpec]]
) -> list[Finding]:
    """Return the differences of rule, hyper-parameters, decay and rate multipliers over the trainable ``pairs``."""
    torch_values, paddle_values = resolve(torch.optimizer), resolve(paddle.optimizer)
    held = [
        ParameterPair(t, p, torch_values[t.name], paddle_values[p.name])
        for t, p in pairs
        if t.name in torch_values and p.name in paddle_values
    ]
    findings = list(_missing(pairs, torch_values, paddle_values, paddle.optimizer))
    if not held:
        return findings
    decays = any(decay_of(values) for pair in held for values in (pair.torch_values, pair.paddle_values))
    same_rule = torch.optimizer.type == paddle.optimizer.type or {torch.optimizer.type, paddle.optimizer.type} == _ADAMS
    decoupled = tuple(is_decoupled(side.optimizer, values) for side, values in _first_values(torch, paddle, held))
    if not same_rule:
        findings.append(_other_rule(torch.optimizer, paddle.optimizer, held))
    elif decays and decoupled[0] != decoupled[1]:
        findings.append(_other_decay(torch.optimizer, paddle.optimizer, decoupled[0], held))
    if same_rule:
        findings.extend(_hyperparameters(held, torch, paddle))
    findings.extend(compare_decay(held, paddle.optimizer, decoupled[1]))
    findings.extend(_rates(held))
    return findings


def _first_values(
    torch: Declaration, paddle: Declaration, held: Sequence[ParameterPair]
) -> tuple[tuple[Declaration, dict[str, Scalar]], ...]:
    return (torch, held[0].torch_values), (paddle, held[0].paddle_values)


def is_decoupled(optimizer: OptimizerSpec, values: Mapping[str, Scalar]) -> bool:
    """Return whether the decay acts on the parameter (AdamW) and not on the gradient."""
    return bool(values.get("decoupled_weight_decay", optimizer.type == "AdamW"))


def _missing(
    pairs: Sequence[tuple[TensorSpec, TensorSpec]],
    torch_values: dict[str, dict[str, Scalar]],
    paddle_values: dict[str, dict[str, Scalar]],
    optimizer: OptimizerSpec,
) -> Iterator[Finding]:
    absent = [(t, p) for t, p in pairs if t.name in torch_values and p.name not in paddle_values]
    if absent:
        evidence = (
            f"{count(len(absent), 'parameter')} in torch's optimizer but not in paddle's: "
            f"{names(p.name for _, p in absent)}"
        )
        fix = f"give these parameters to {call_of(optimizer)}: parameters=model.parameters()"
        cause = Cause(Category.FROZEN_PARAMETER, "not_in_optimizer", 0.97, evidence, fix)
        yield Finding(cause, "parameter", absent[0][0].name, absent[0][1].name, True, "in a group", "in no group")
    extra = [(t, p) for t, p in pairs if p.name in paddle_values and t.name not in torch_values]
    if extra:
        evidence = (
            f"{count(len(extra), 'parameter')} in paddle's optimizer but not in torch's: "
            f"{names(p.name for _, p in extra)}"
        )
        fix = f"leave these parameters out of parameters=[...] of {call_of(optimizer)}, as torch does"
        cause = Cause(Category.FROZEN_PARAMETER, "only_in_paddle_optimizer", 0.97, evidence, fix)
        yield Finding(cause, "parameter", extra[0][0].name, extra[0][1].name, True, "in no group", "in a group")


def _other_rule(torch: OptimizerSpec, paddle: OptimizerSpec, held: list[ParameterPair]) -> Finding:
    evidence = f"torch trains with {torch.framework_class}, paddle with {paddle.framework_class}"
    first = held[0]
    # torch's ASGD is SGD with a decay of lambd and a falling rate; paddle's ASGD is another algorithm.
    same = torch.type == "ASGD" and paddle.type == "SGD"
    fix = f"use the paddle optimizer with the rule of {torch.framework_class}"
    cause = Cause(Category.OPTIMIZER, "other_rule", 0.3 if same else 0.95, evidence, fix)
    kind = "parameter" if {torch.type, paddle.type} <= _WITHOUT_STATE | {"ASGD"} else "optimizer_state"
    return Finding(cause, kind, first.torch.name, first.paddle.name, not same, torch.type, paddle.type)


def _other_decay(torch: OptimizerSpec, paddle: OptimizerSpec, decoupled: bool, held: list[ParameterPair]) -> Finding:
    evidence = f"torch trains with {torch.framework_class}, paddle with {paddle.framework_class}"
    first = held[0]
    if decoupled:
        fix = "use paddle.optimizer.AdamW(...): paddle.optimizer.Adam(weight_decay=...) adds the decay to the gradient"
        evidence += ", whose decay goes through the moments"
        cause = Cause(Category.OPTIMIZER, "coupled_decay", 0.97, evidence, fix)
        kind = "optimizer_state" if decay_of(first.paddle_values) else "parameter"
    else:
        fix = (
            "use paddle.optimizer.Adam(weight_decay=...): paddle.optimizer.AdamW decays the parameter, not the gradient"
        )
        evidence += ", whose decay bypasses the moments"
        cause = Cause(Category.OPTIMIZER, "decoupled_decay", 0.97, evidence, fix)
        kind = "optimizer_state" if decay_of(first.torch_values) else "parameter"
    return Finding(cause, kind, first.torch.name, first.paddle.name, True, torch.type, paddle.type)


def _hyperparameters(held: list[ParameterPair], torch: Declaration, paddle: Declaration) -> Iterator[Finding]:
    for key, term in OPTIMIZER_TERMS.items():
        differing: dict[tuple[Scalar, Scalar], list[ParameterPair]] = {}
        for pair in held:
            ours, theirs = pair.torch_values.get(key, term.absent), pair.paddle_values.get(key, term.absent)
            ours, theirs = (term.absent if value is None else value for value in (ours, theirs))
            if ours is None or theirs is None or same_value(ours, theirs, term.atol):
                continue
            if not _can_differ(key, ours, pair, paddle):
                continue
            differing.setdefault((ours, theirs), []).append(pair)
        for (ours, theirs), pairs in differing.items():
            argument = optimizer_argument(torch.optimizer.type, key, class_of(paddle.optimizer))
            evidence = (
                f"{key} is {number(ours)} in torch and {number(theirs)} in paddle "
                f"for {count(len(pairs), 'parameter')}: {names(p.paddle.name for p in pairs)}"
                f"{both_defaults(argument, ours, theirs)}"
            )
            written = write(argument, key, ours)
            fix = f"{written} in {call_of(paddle.optimizer)}" if argument is None or argument.paddle else written
            if key == "nesterov" and theirs:
                cause = Cause(Category.OPTIMIZER, "nesterov_added", 0.95, evidence, fix)
            elif key == "momentum" and not theirs:
                fix = f"use paddle.optimizer.Momentum(momentum={number(ours)}, ...)"
                cause = Cause(Category.OPTIMIZER, "momentum_missing", 0.95, evidence, fix)
            else:
                cause = Cause(term.category, term.code, 0.95, evidence, fix)
            yield Finding(
                cause, term.kind, pairs[0].torch.name, pairs[0].paddle.name, True, number(ours), number(theirs)
            )
    yield from _root_epsilon(held, torch.optimizer.type, call_of(paddle.optimizer))


def _root_epsilon(held: list[ParameterPair], rule: str, call: str) -> Iterator[Finding]:
    """Compare an epsilon below the root (paddle's RMSProp) with torch's outside it: the nearest is its square."""
    argument = optimizer_argument(rule, "eps")
    for pair in held:
        ours, theirs = as_float(pair.torch_values.get("eps")), pair.paddle_values.get("eps_inside_sqrt")
        if not isinstance(theirs, float) or theirs <= 1e-3 * ours * ours or same_value(ours * ours, theirs):
            continue
        cause = Cause(
            Category.HYPERPARAMETER,
            "optimizer_epsilon",
            0.93,
            f"torch adds eps {number(ours)} to the root, paddle adds epsilon {number(theirs)} below it, "
            f"which is {number(theirs**0.5)} outside{both_defaults(argument, ours, theirs**0.5)}",
            f"{write(argument, 'eps', ours)} in {call}: the square of torch's is the nearest there is",
        )
        yield finding_for(cause, "parameter", pair, number(ours), number(theirs))
        return


def _can_differ(key: str, ours: Scalar, pair: ParameterPair, paddle: Declaration) -> bool:
    """Return whether a difference of ``key`` means other numbers, given the values beside it."""
    if key in ("nesterov", "dampening"):
        return any(as_float(values.get("momentum")) for values in (pair.torch_values, pair.paddle_values))
    if key == "lr_decay" and paddle.scheduler is not None:
        return not same_value(ours, paddle.scheduler.hyperparameters.get("gamma"))
    return True


def _rates(held: list[ParameterPair]) -> Iterator[Finding]:
    """Find parameters whose rate stands in another proportion to the others' than in torch."""
    ratios: dict[float, list[ParameterPair]] = {}
    for pair in held:
        ours, theirs = rate_of(pair.torch_values), rate_of(pair.paddle_values)
        if ours and theirs:
            ratio = next((known for known in ratios if same_value(known, theirs / ours)), theirs / ours)
            ratios.setdefault(ratio, []).append(pair)
    if len(ratios) < 2:
        return
    usual = (
        1.0 if any(same_value(ratio, 1.0) for ratio in ratios) else max(ratios, key=lambda ratio: len(ratios[ratio]))
    )
    for ratio, pairs in ratios.items():
        if same_value(ratio, usual):
            continue
        ours, theirs = rate_of(pairs[0].torch_values), rate_of(pairs[0].paddle_values)
        cause = Cause(
            Category.HYPERPARAMETER,
            "lr_multiplier",
            0.95,
            f"the rate of {count(len(pairs), 'parameter')} is {number(ours)} in torch and {number(theirs)} in paddle, "
            f"{number(ratio / usual)} times what the other parameters' rates suggest: "
            f"{names(pair.paddle.name for pair in pairs)}",
            "'learning_rate' in a paddle group or ParamAttr is a multiplier of the optimizer's rate, not a rate; "
            "a group's 'lr' is ignored",
        )
        yield finding_for(cause, "parameter", pairs[0], number(ours), number(theirs))
