"""Causes of tensors that a script moves itself: plain arrays of two sides, float32 as scripts compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.updates.average_causes import MovedStep, explain_averages, explain_buffer

Array = Any
Update = Callable[[dict[str, Array], dict[str, Array]], None]
"""Moves the averages of one side (first argument, in place), given its weights before the step's update (second)."""

SHAPES = {"G.w": (30, 4), "G.b": (30,), "E.w": (30, 4), "E.b": (30,)}


def ema(decay: float, updated: bool = True) -> Update:
    def update(held: dict[str, Array], old: dict[str, Array]) -> None:
        for leaf in ("w", "b"):
            source = (held if updated else old)[f"G.{leaf}"]
            held[f"E.{leaf}"] = held[f"E.{leaf}"] * np.float32(decay) + source * np.float32(1 - decay)

    return update


def nothing(held: dict[str, Array], old: dict[str, Array]) -> None:
    """Move no average."""


def trained(torch: Update, paddle: Update, steps: int = 3, first: int = 0) -> list[MovedStep]:
    """Return both sides' steps from ``first`` on: the same weights, each side's own averages; E begins as a copy of G."""
    random = np.random.default_rng(0)
    start = {name: random.standard_normal(SHAPES[name]).astype(np.float32) for name in ("G.w", "G.b")}
    start.update({"E.w": start["G.w"], "E.b": start["G.b"]})
    sides, found = [dict(start), dict(start)], []
    for step in range(steps):
        before = (dict(sides[0]), dict(sides[1]))
        moves = {name: (1e-3 * random.standard_normal(SHAPES[name])).astype(np.float32) for name in ("G.w", "G.b")}
        for side, update in zip(sides, (torch, paddle)):
            old = dict(side)
            for name, move in moves.items():
                side[name] = side[name] + move
            update(side, old)
        found.append(MovedStep(step, before, (dict(sides[0]), dict(sides[1]))))
    return found[first:]


def causes(steps: list[MovedStep]) -> list[Cause]:
    return explain_averages("E.w", ["E.b"], SHAPES, steps)


def test_an_average_where_torch_copies_is_told_to_be_a_copy() -> None:
    (cause,) = causes(trained(ema(0.0), ema(0.99)))
    assert cause.code == "moving_average_decay"
    assert "torch makes it a copy of G.w at each step, paddle keeps 0.99 of it" in cause.evidence
    assert cause.fix.startswith("copy it in paddle too")


@pytest.mark.parametrize("updated", [True, False])
def test_another_decay_is_named_with_both_sides_values(updated: bool) -> None:
    first = 0 if updated else 1
    (cause,) = causes(trained(ema(0.95, updated), ema(0.99, updated), first=first))
    assert (cause.category, cause.code) == (Category.BUFFER, "moving_average_decay")
    assert "E.w, E.b: torch keeps 0.95 of the average at each step, paddle 0.99" in cause.evidence
    assert cause.fix == "keep 0.95 of the average at each step in paddle"


@pytest.mark.parametrize("torch", [True, False])
def test_an_average_of_the_weights_at_another_time_is_named(torch: bool) -> None:
    (cause,) = causes(trained(ema(0.95, torch), ema(0.95, not torch)))
    assert cause.code == "moving_average_order" and "keeps" not in cause.evidence
    when = "as the step's update leaves it" if torch else "as it was before the step's update"
    assert f"E.w, E.b: torch averages G.w {when}, paddle" in cause.evidence
    assert cause.fix == f"average the weights {'after' if torch else 'before'} optimizer.step() in paddle"


def test_another_time_and_another_decay_are_both_told() -> None:
    (cause,) = causes(trained(ema(0.95), ema(0.9, updated=False)))
    assert cause.code == "moving_average_order" and "torch keeps 0.95 of the average, paddle 0.9" in cause.evidence


def test_an_average_that_paddle_never_moves_is_named_and_a_copy_is_called_one() -> None:
    (cause,) = causes(trained(ema(0.95), nothing))
    assert cause.code == "moving_average_missing"
    assert "torch makes it 0.95 before + 0.05 G.w at each step, paddle leaves it as it is in 3 steps" in cause.evidence
    (copied,) = causes(trained(ema(0.0), nothing))
    assert "torch makes it a copy of G.w at each step" in copied.evidence


def test_nothing_is_said_of_the_same_average_nor_where_torch_follows_no_tensor() -> None:
    assert causes(trained(ema(0.95), ema(0.95))) == []

    def wander(held: dict[str, Array], old: dict[str, Array]) -> None:
        held["E.w"] = held["E.w"] + np.float32(1e-3) * np.sin(100 * held["G.w"])

    assert causes(trained(wander, nothing)) == []


def buffers(torch: Callable[[Array, Array], Array], paddle: Callable[[Array, Array], Array], steps: int = 3) -> list[MovedStep]:
    """Return the steps of one buffer that takes in the same input on both sides."""
    random = np.random.default_rng(0)
    held, found = [np.zeros(16, np.float32)] * 2, []
    for step in range(steps):
        given = random.integers(0, 40, 16).astype(np.float32)
        after = [rule(each, given) for each, rule in zip(held, (torch, paddle))]
        pairs = [({"usage": old}, {"usage": new}) for old, new in zip(held, after)]
        found.append(MovedStep(step, (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1])))
        held = after
    return found


def decayed(decay: float, factor: float = 1.0) -> Callable[[Array, Array], Array]:
    return lambda old, given: np.float32(decay) * old + np.float32((1 - decay) * factor) * given


@pytest.mark.parametrize("wrong", [0.99, 0.1, 0.0])
def test_another_decay_of_an_input_that_is_unknown_is_found_from_two_steps(wrong: float) -> None:
    (cause,) = explain_buffer("usage", [], buffers(decayed(0.9), decayed(wrong)))
    assert cause.code == "moving_average_decay"
    assert f"torch keeps 0.9 of the average at each step, paddle {wrong:g}" in cause.evidence


def test_one_step_alone_and_a_scaled_input_tell_a_factor_only() -> None:
    (alone,) = explain_buffer("usage", [], buffers(decayed(0.9), decayed(0.99), steps=1))
    assert alone.code == "scaled_update" and "0.1 times" in alone.evidence and alone.confidence < 0.7
    (scaled,) = explain_buffer("usage", [], buffers(decayed(0.9), decayed(0.9, 0.25)))
    assert scaled.code == "scaled_update" and "0.25 times" in scaled.evidence


def test_a_buffer_that_paddle_never_moves_is_named_and_one_that_follows_no_rule_is_not() -> None:
    (cause,) = explain_buffer("usage", [], buffers(decayed(0.9), lambda old, given: old))
    assert cause.code == "not_updated" and "in 3 steps" in cause.evidence
    assert explain_buffer("usage", [], buffers(decayed(0.9), lambda old, given: old + np.sqrt(given))) == []
    assert explain_buffer("usage", [], buffers(decayed(0.9), decayed(0.9))) == []
