"""What both sides had built of their buffers, compared before it was loaded over: plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.running.built_buffers import compare_built, told_buffers
from stepalign.coordinator.sessions.naming import NameMap, match_names
from stepalign.protocol.specs import Declaration, OptimizerSpec, TensorSpec

Array = Any


def declared(*names: str, shape: tuple[int, ...] = (4, 6), kind: str = "buffer") -> Declaration:
    tensors = tuple(
        TensorSpec(name, kind, shape, "float32", False, "", "Net", name.rpartition(".")[2].lstrip("_")) for name in names
    )
    return Declaration(tensors, (), OptimizerSpec("SGD", "SGD", ()), None, None, False)


def matched(torch: Declaration, paddle: Declaration, **options: Any) -> NameMap:
    return match_names(torch.tensors, paddle.tensors, WeightsSection(**options))


def warnings(torch: Array, paddle: Array, source: str = "torch") -> list[str]:
    """Return the warnings for one buffer whose paddle values were loaded over by torch's."""
    sides = declared("grid", shape=torch.shape)
    initial = {"torch": {"grid": torch}, "paddle": {"grid": torch}}
    return compare_built(matched(sides, sides), source, initial, {"paddle": {"grid": paddle}})


GRID = np.arange(24, dtype=np.float32).reshape(4, 6)
SQUARE = np.arange(16, dtype=np.float32).reshape(4, 4)
MASK = np.where(np.tri(4, dtype=bool), 0.0, -np.inf).astype(np.float32)


@pytest.mark.parametrize(
    ("torch", "paddle", "relation"),
    [
        (SQUARE, SQUARE.T, "it is torch's transposed"),
        (GRID, GRID[::-1], "it is torch's in another order along axis 0"),
        (GRID[:, :2], GRID[:, 1::-1], "it is torch's in another order along axis 1"),
        (GRID, 0.5 * GRID, "it is 0.5 times torch's"),
        (GRID, GRID + 2, "it is torch's plus 2"),
        (GRID, 0 * GRID, "it is zero"),
        (GRID, np.sin(GRID), "right only for what is drawn at random"),
        (MASK, MASK.T, "(greatest difference inf; infinities, or where they stand)"),
    ],
)
def test_a_buffer_that_was_built_otherwise_is_told_with_how_it_comes_of_torchs(torch: Array, paddle: Array, relation: str) -> None:
    (warning,) = warnings(torch, paddle)
    assert warning.startswith("paddle built buffers otherwise than torch: grid (greatest difference ")
    assert relation in warning and warning.endswith("which the port will not have when it is trained alone")


@pytest.mark.parametrize("other", [GRID, GRID * np.float32(1 + 3e-5), GRID + np.float32(5e-3)])
def test_what_rounding_may_do_to_a_buffer_is_no_warning(other: Array) -> None:
    assert warnings(GRID, other) == []
    assert warnings(MASK, MASK) == []


def test_whole_numbers_are_compared_exactly() -> None:
    table = np.arange(10_000)
    assert len(warnings(table, np.where(table == 7, 8, table))) == 1
    assert warnings(table, table.astype(np.int64)) == []


def test_several_buffers_with_one_relation_are_one_warning() -> None:
    sides = declared("a", "b", "c", "d")
    built = {name: (2 if name != "d" else 3) * GRID for name in ("a", "b", "c", "d")}
    initial = {side: dict.fromkeys(built, GRID) for side in ("torch", "paddle")}
    found = compare_built(matched(sides, sides), "torch", initial, {"paddle": built})
    assert len(found) == 2 and "a, b, c (greatest difference 23; it is 2 times" in found[0] and ": d (" in found[1]


def test_what_both_sides_built_alike_is_no_warning_whatever_was_loaded_over_it() -> None:
    sides = declared("grid")
    initial = {"torch": {"grid": 0 * GRID}, "paddle": {"grid": 0 * GRID}}
    names = matched(sides, sides)
    assert compare_built(names, "w.npz", initial, {"torch": {"grid": GRID}, "paddle": {"grid": GRID}}) == []
    (warning,) = compare_built(names, "w.npz", initial, {"torch": {"grid": GRID}, "paddle": {"grid": 2 * GRID}})
    assert warning.endswith("it is 2 times torch's); this run used the values of the weights file on both sides")
    assert compare_built(names, "none", initial, {}) == []


def test_torchs_own_is_the_one_that_was_replaced_where_paddles_were_loaded() -> None:
    sides = declared("grid")
    initial = {"torch": {"grid": 2 * GRID}, "paddle": {"grid": 2 * GRID}}
    (warning,) = compare_built(matched(sides, sides), "paddle", initial, {"torch": {"grid": GRID}})
    assert "it is 2 times torch's" in warning and "this run used paddle's values on both sides" in warning


def test_a_buffer_under_another_name_that_is_kept_transposed_is_compared_as_torch_keeps_it() -> None:
    torch, paddle = declared("grid"), declared("anchors", shape=(6, 4))
    names = matched(torch, paddle, rename=(("grid", "anchors"),), transpose=("grid",))
    initial = {"torch": {"grid": GRID}, "paddle": {"anchors": np.ascontiguousarray(GRID.T)}}
    assert compare_built(names, "torch", initial, {"paddle": {"anchors": GRID.T * np.float32(1 + 1e-6)}}) == []
    (warning,) = compare_built(names, "torch", initial, {"paddle": {"anchors": 3 * GRID.T}})
    assert "grid (" in warning and "3 times" in warning


def test_running_statistics_are_not_asked_for_and_neither_are_parameters() -> None:
    torch = declared("bn.running_mean", "bn.running_var", "grid")
    paddle = declared("bn._mean", "bn._variance", "points")
    rename = (("running_mean", "_mean"), ("running_var", "_variance"), ("grid", "points"))
    names = matched(torch, paddle, rename=rename)
    assert told_buffers(names, {"torch": torch, "paddle": paddle}) == {"torch": ("grid",), "paddle": ("points",)}
    weights = declared("w", kind="parameter")
    assert told_buffers(matched(weights, weights), {"torch": weights, "paddle": weights}) == {"torch": (), "paddle": ()}
