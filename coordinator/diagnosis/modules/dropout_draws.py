"""Compares which shared dropout masks the two sides drew in a step: where, how often, at what rate and over what
shape.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Mapping, Sequence

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.wording import count, number
from stepalign.protocol.errors import CaseError

Draws = Mapping[str, Sequence[float]]

_RATE_DIFFERS = 1e-6


def compare_draws(torch: Draws, paddle: Draws) -> list[Finding]:
    """Return the masks that one side alone drew, or that differ in rate or size; draws are ``place#call`` -> rate,
    shape.

    Raises CaseError where equally many elements lie in another order: then no rule could drop the same ones.
    """
    findings: list[Finding] = []
    for side, ours, theirs in (("torch", torch, paddle), ("paddle", paddle, torch)):
        lone = [name for name in ours if name not in theirs]
        if lone:
            findings.append(_lone(side, lone, ours, theirs))
    for name in torch.keys() & paddle.keys():
        (ours_rate, *ours_shape), (theirs_rate, *theirs_shape) = torch[name], paddle[name]
        if abs(ours_rate - theirs_rate) > _RATE_DIFFERS:
            evidence = (
                f"{_where(name)} drops at a rate of {number(ours_rate)} in torch and {number(theirs_rate)} in paddle"
            )
            cause = Cause(Category.RANDOMNESS, "dropout_rate", 0.95, evidence, f"p={number(ours_rate)} there in paddle")
            findings.append(_finding(cause, name, name, number(ours_rate), number(theirs_rate)))
        elif not _one_order(ours_shape, theirs_shape):
            shapes = [[int(length) for length in shape] for shape in (ours_shape, theirs_shape)]
            if sorted(ours_shape) == sorted(theirs_shape):
                raise CaseError(
                    f"{_where(name)} drops elements of shape {shapes[0]} in torch and {shapes[1]} in paddle: the sides lay out "
                    "one tensor in another order, so that shared masks drop other elements. Use batch_first=True in torch, "
                    'or mode = "eval"'
                )
            evidence = f"{_where(name)} draws a mask of shape {shapes[0]} in torch and {shapes[1]} in paddle"
            cause = Cause(Category.RANDOMNESS, "dropout_calls", 0.9, evidence, "drop the same tensor on both sides")
            findings.append(_finding(cause, name, name, str(shapes[0]), str(shapes[1])))
    return findings


def _lone(side: str, lone: Sequence[str], draws: Draws, others: Draws) -> Finding:
    other = "paddle" if side == "torch" else "torch"
    rate, place = number(draws[lone[0]][0]), lone[0].rpartition("#")[0]
    drawn = {
        name: [draw for draw in each if draw.rpartition("#")[0] == place]
        for name, each in ((side, draws), (other, others))
    }
    evidence = (
        f"the code of {place or 'the model itself'} drops {count(len(drawn[side]), 'tensor')} in {side} and "
        f"{len(drawn[other])} in {other}, at rate {rate}"
    )
    if len(lone) > 1:
        evidence += f"; altogether {count(len(lone), 'dropout')} of {side} that {other} does not have"
    fix = (
        f"add the dropout of rate {rate} to the paddle model there"
        if side == "torch"
        else f"remove the dropout of rate {rate} from the paddle model there, or make it depend on training"
    )
    cause = Cause(Category.RANDOMNESS, "dropout_calls", 0.95, evidence, fix)
    named = (lone[0], "") if side == "torch" else ("", lone[0])
    values = (rate, None) if side == "torch" else (None, rate)
    return _finding(cause, named[0], named[1], values[0], values[1])


def _finding(cause: Cause, torch_name: str, paddle_name: str, ours: str | None, theirs: str | None) -> Finding:
    return Finding(cause, "activation", torch_name.partition("#")[0], paddle_name.partition("#")[0], True, ours, theirs)


def _where(name: str) -> str:
    place, _, call = name.rpartition("#")
    return f"{place or 'the model itself'} (its dropout number {int(call) + 1})"


def _one_order(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Return whether two shapes differ at most in which neighbouring axes are merged, so that C order is one order."""
    strides = [set(itertools.accumulate(reversed(shape), operator.mul, initial=1.0)) for shape in (ours, theirs)]
    return max(strides[0]) == max(strides[1]) and (strides[0] <= strides[1] or strides[1] <= strides[0])
