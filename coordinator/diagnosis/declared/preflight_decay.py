"""Declared weight decay, parameter by parameter: who decays, by how much, and which exclusions did not work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.declared.common_terms import as_float, same_value
from stepalign.coordinator.diagnosis.declared.preflight_pairs import ParameterPair, call_of, decay_of, finding_for
from stepalign.coordinator.diagnosis.wording import count, names, number
from stepalign.protocol.specs import OptimizerSpec, TensorSpec

_REGULARIZERS = frozenset({"l1_decay", "coupled_weight_decay", "paddle.regularizer"})


def compare_decay(held: list[ParameterPair], paddle: OptimizerSpec, decoupled: bool) -> Iterator[Finding]:
    values = [(pair, decay_of(pair.torch_values), decay_of(pair.paddle_values)) for pair in held]
    kind = "parameter" if decoupled or _stateless(held, paddle) else "optimizer_state"
    call = call_of(paddle)
    torch_only = [(pair, ours) for pair, ours, theirs in values if ours and not theirs]
    paddle_only = [(pair, theirs) for pair, ours, theirs in values if theirs and not ours]
    other = [(pair, ours, theirs) for pair, ours, theirs in values if ours and theirs and not same_value(ours, theirs)]
    if torch_only:
        decay = number(torch_only[0][1])
        listed = names(pair.paddle.name for pair, _ in torch_only)
        if not any(theirs for _, _, theirs in values):
            cause = Cause(
                Category.WEIGHT_DECAY,
                "no_decay",
                0.97,
                f"torch decays {count(len(torch_only), 'parameter')} by {decay}, paddle none: {listed}",
                f"weight_decay={decay} in {call}",
            )
        else:
            cause = Cause(
                Category.WEIGHT_DECAY,
                "decay_missing",
                0.95,
                f"{count(len(torch_only), 'parameter')} decay by {decay} in torch and not in paddle: {listed}; "
                f"{_seen(pair for pair, _ in torch_only)}",
                f"let the decay filter of {call} pass them: apply_decay_param_fun gets paddle's internal names",
            )
        yield finding_for(cause, kind, torch_only[0][0], decay, "0")
    if paddle_only and not any(ours for _, ours, _ in values):
        decay = number(paddle_only[0][1])
        cause = Cause(
            Category.WEIGHT_DECAY,
            "decay_added",
            0.97,
            f"paddle decays {count(len(paddle_only), 'parameter')} by {decay}, torch none: "
            f"{names(pair.paddle.name for pair, _ in paddle_only)}",
            f"weight_decay=0.0 in {call}",
        )
        yield finding_for(cause, kind, paddle_only[0][0], "0", decay)
    elif paddle_only:
        yield from _decayed_in_paddle_only(paddle_only, call, kind)
    by_values: dict[tuple[float, float], list[ParameterPair]] = {}
    for pair, ours, theirs in other:
        by_values.setdefault((ours, theirs), []).append(pair)
    for (ours, theirs), pairs in by_values.items():
        cause = Cause(
            Category.WEIGHT_DECAY,
            "decay_value",
            0.97,
            f"weight decay is {number(ours)} in torch and {number(theirs)} in paddle "
            f"for {count(len(pairs), 'parameter')}: {names(pair.paddle.name for pair in pairs)}",
            f"weight_decay={number(ours)} in {call}",
        )
        yield finding_for(cause, kind, pairs[0], number(ours), number(theirs))
    yield from _other_regularizers(held, call)


def _decayed_in_paddle_only(paddle_only: list[tuple[ParameterPair, float]], call: str, kind: str) -> Iterator[Finding]:
    biases = [(pair, decay) for pair, decay in paddle_only if is_bias(pair.torch)]
    norms = [(pair, decay) for pair, decay in paddle_only if is_norm(pair.torch) and not is_bias(pair.torch)]
    others = [(pair, decay) for pair, decay in paddle_only if not is_norm(pair.torch) and not is_bias(pair.torch)]
    fix = (
        f"in {call} let apply_decay_param_fun return False for these: it gets paddle's internal names, "
        "so collect [p.name for n, p in model.named_parameters() if ...] first"
    )
    for chosen, what in ((biases, "biases"), (norms, "norm weights"), (others, "parameters")):
        if not chosen:
            continue
        decay = number(chosen[0][1])
        pairs = [pair for pair, _ in chosen]
        evidence = (
            f"paddle decays {len(pairs)} {what} by {decay} and torch does not: "
            f"{names(pair.paddle.name for pair in pairs)}; {_seen(pairs)}"
        )
        if chosen is biases:
            cause = Cause(Category.WEIGHT_DECAY, "decay_on_bias", 0.97, evidence, fix)
        elif chosen is norms:
            cause = Cause(Category.WEIGHT_DECAY, "decay_on_norm", 0.97, evidence, fix)
        else:
            cause = Cause(Category.WEIGHT_DECAY, "decay_on_excluded", 0.97, evidence, fix)
        yield finding_for(cause, kind, pairs[0], "0", decay)


def _other_regularizers(held: list[ParameterPair], call: str) -> Iterator[Finding]:
    """Find decay besides ``weight_decay``: L1, or a regularizer that paddle's AdamW adds to its own decay."""
    for key in sorted({key for pair in held for key in pair.paddle_values if key in _REGULARIZERS}):
        pairs = [
            pair for pair in held if not same_value(pair.torch_values.get(key, 0.0), pair.paddle_values.get(key, 0.0))
        ]
        if pairs:
            value = number(pairs[0].paddle_values[key])
            evidence = (
                f"paddle adds a regularizer ({key} {value}) to {count(len(pairs), 'parameter')}: "
                f"{names(pair.paddle.name for pair in pairs)}"
            )
            fix = f"remove the regularizer of their ParamAttr, or of an earlier group: {call} adds it to weight_decay"
            if key == "l1_decay":
                cause = Cause(Category.WEIGHT_DECAY, "l1_decay", 0.93, evidence, fix)
            else:
                cause = Cause(Category.WEIGHT_DECAY, "extra_regularizer", 0.93, evidence, fix)
            yield finding_for(cause, "optimizer_state", pairs[0], "0", value)


def _stateless(held: list[ParameterPair], paddle: OptimizerSpec) -> bool:
    return paddle.type == "SGD" and not any(as_float(pair.paddle_values.get("momentum")) for pair in held)


def _seen(pairs: Iterable[ParameterPair]) -> str:
    internal = [pair.paddle.internal_name or pair.paddle.name for pair in pairs]
    return f"paddle's optimizer calls them {names(internal)}"


def is_bias(tensor: TensorSpec) -> bool:
    """Return whether a parameter is a bias, by its role or its name."""
    return "bias" in tensor.role or tensor.name.rsplit(".", 1)[-1].startswith("bias")


def is_norm(tensor: TensorSpec) -> bool:
    """Return whether a parameter belongs to a normalisation layer."""
    return "norm" in tensor.module_type.lower()
