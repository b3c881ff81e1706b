"""Two recorded .npy files: nothing passes by accident, rates are relative, and both files are read without trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.results.npy_compare import NpyComparison, compare_npy, format_rows
from stepalign.coordinator.results.reprod_npy import write_reprod_npy
from stepalign.coordinator.results.result import Verdict
from stepalign.protocol.errors import CaseError


def _compare(folder: Path, reference: dict[str, Any], candidate: dict[str, Any]) -> NpyComparison:
    for name, arrays in (("a.npy", reference), ("b.npy", candidate)):
        write_reprod_npy(folder / name, {key: np.asarray(value) for key, value in arrays.items()})
    return compare_npy(folder / "a.npy", folder / "b.npy")


def _loss(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def test_files_that_agree_to_rounding_are_aligned_without_a_warning(tmp_path: Path) -> None:
    ours, theirs = {"loss_0": _loss(0.7), "loss_1": _loss(0.6)}, {"loss_0": _loss(0.7), "loss_1": _loss(0.6000002)}
    compared = _compare(tmp_path, ours, theirs)
    assert (compared.verdict, compared.first_bad, compared.warnings) == (Verdict.ALIGNED, None, ())


@pytest.mark.parametrize(
    ("reference", "candidate", "bad", "reason"),
    [
        ({"loss_0": 1.0, "loss_1": 1.0}, {"loss_0": 1.0}, "loss_1", "missing in the candidate"),
        ({"loss_0": 1.0}, {"loss_0": 1.0, "loss_1": 1.0}, "loss_1", "missing in the reference"),
        ({"loss_0": [1.0]}, {"loss_0": 1.0}, "loss_0", "shape (1,) against ()"),
        ({"w": np.zeros((2, 3))}, {"w": np.zeros((3, 2))}, "w", "shape (2, 3) against (3, 2)"),
        ({"loss_0": _loss(1.0)}, {"loss_0": 1.0}, "loss_0", "dtype float32 against float64"),
        ({"loss_0": np.nan}, {"loss_0": np.nan}, "loss_0", "1 of 1 values not finite in the reference"),
        ({"w": [1.0, 2.0]}, {"w": [1.0, np.inf]}, "w", "1 of 2 values not finite in the candidate"),
        ({"w": np.zeros(0)}, {"w": np.zeros(0)}, "w", "no elements to compare"),
        ({"n": [1, 2]}, {"n": [1, 3]}, "n", "1 of 2 outside the tolerance"),
        ({"n": [2**62]}, {"n": [2**62 + 1]}, "n", "outside the tolerance"),
        ({"b": [True, False]}, {"b": [True, True]}, "b", "1 of 2 outside the tolerance"),
        ({"loss_0": 1e308}, {"loss_0": -1e308}, "loss_0", "outside the tolerance"),
        ({"loss_0": 0.0}, {"loss_0": 1e-30}, "loss_0", "outside the tolerance"),
    ],
)
def test_each_way_to_differ_is_a_failing_row_by_name(
    tmp_path: Path, reference: dict[str, Any], candidate: dict[str, Any], bad: str, reason: str
) -> None:
    compared = _compare(tmp_path, reference, candidate)
    assert compared.verdict is Verdict.DIVERGED
    assert compared.first_bad == bad
    assert next(row.reason for row in compared.rows if row.key == bad) == reason


@pytest.mark.parametrize("factor", [1.03, 1 + 1e-8])
def test_a_rate_is_compared_relatively_where_an_absolute_1e_6_sees_nothing(tmp_path: Path, factor: float) -> None:
    rates = {f"step_{step}_lr": [3e-5 * (1 - step / 5000)] for step in (100, 500, 4000)}
    other = {key: [value[0] * factor] for key, value in rates.items()}
    compared = _compare(tmp_path, rates, other)
    assert compared.first_bad == "step_100_lr"
    assert compared.rows[0].max_abs is not None and compared.rows[0].max_abs < 1e-6


def test_rates_that_differ_by_the_rounding_of_another_formula_agree(tmp_path: Path) -> None:
    compared = _compare(
        tmp_path,
        {"step_1_lr": [0.1 * (1 + 1e-12)], "step_2_lr": [0.0]},
        {"step_1_lr": [0.1], "step_2_lr": [4e-17]},
    )
    assert compared.verdict is Verdict.ALIGNED


def test_rates_kept_in_float32_by_one_side_are_compared_to_its_precision_and_that_is_said(tmp_path: Path) -> None:
    rates = {f"step_{step}_lr": [3e-5 * (1 - step / 5000)] for step in (100, 500)}
    rounded = {key: [float(np.float32(value[0]))] for key, value in rates.items()}
    compared = _compare(tmp_path, rates, rounded)
    assert compared.verdict is Verdict.ALIGNED
    assert compared.warnings == (
        "the rates of the candidate were rounded to float32 before they were saved:"
        " they are compared to 1e-06 instead of 1e-11",
    )
    shifted = {key: [value[0] * (1 + 1e-5)] for key, value in rounded.items()}
    assert _compare(tmp_path, rates, shifted).verdict is Verdict.DIVERGED


@pytest.mark.parametrize(
    ("dtype", "factor", "verdict"),
    [("float32", 1 + 5e-6, "aligned"), ("float32", 1 + 2e-5, "diverged"), ("float64", 1 + 2e-6, "diverged")],
)
def test_a_loss_has_the_tolerance_of_its_dtype(tmp_path: Path, dtype: str, factor: float, verdict: str) -> None:
    compared = _compare(tmp_path, {"loss_0": np.array(0.7, dtype)}, {"loss_0": np.array(0.7 * factor, dtype)})
    assert compared.verdict.value == verdict


def test_a_tensor_is_judged_by_its_greatest_value_so_that_what_cancels_is_no_alarm(tmp_path: Path) -> None:
    compared = _compare(tmp_path, {"logits": _many(1e-9)}, {"logits": _many(-1e-9)})
    assert compared.verdict is Verdict.ALIGNED
    compared = _compare(tmp_path, {"logits": _many(1e-9)}, {"logits": _many(1e-3)})
    (row,) = compared.rows
    assert (row.passed, row.index, row.candidate) == (False, (1, 1), float(np.float32(1e-3)))


def _many(last: float) -> np.ndarray:
    return np.array([[1.0, -2.0], [0.5, last]], np.float32)


def test_losses_equal_to_the_last_bit_get_a_warning_and_equal_rates_do_not(tmp_path: Path) -> None:
    losses, rates = {"loss_0": _loss(0.7), "loss_1": _loss(0.6)}, {"step_100_lr": [3e-5]}
    assert any("the same to the last bit" in line for line in _compare(tmp_path, losses, losses).warnings)
    assert _compare(tmp_path, losses, losses).verdict is Verdict.ALIGNED
    assert _compare(tmp_path, rates, rates).warnings == ()


def test_an_empty_file_is_an_error_not_an_agreement(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        with open(tmp_path / name, "wb") as file:
            np.save(file, np.array({}, dtype=object))
    with pytest.raises(CaseError, match=r"a\.npy: holds no arrays"):
        compare_npy(tmp_path / "a.npy", tmp_path / "b.npy")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"a\.npy: expected a reprod_log file .* found nothing there"):
        compare_npy(tmp_path / "a.npy", tmp_path / "b.npy")


def test_the_table_lines_up_and_says_what_failed(tmp_path: Path) -> None:
    compared = _compare(
        tmp_path,
        {"step_100_lr": [3e-5], "loss_0": _loss(0.5), "gone": 1.0},
        {"step_100_lr": [3.5e-5], "loss_0": _loss(0.5)},
    )
    assert format_rows(compared.rows) == [
        "key          reference  candidate  relative  allowed",
        "step_100_lr      3e-05    3.5e-05   1.7e-01    1e-11  FAILED: outside the tolerance",
        "loss_0             0.5        0.5   0.0e+00    1e-05  ok",
        "gone                 -          -         -        -  FAILED: missing in the candidate",
    ]
