"""The measures against a plain reading of their definitions, and the screen against the measures."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from stepalign.coordinator.comparison import measures
from stepalign.coordinator.comparison.blocks import BLOCK_ELEMENTS, elements_outside, magnitude, spread, squares
from stepalign.coordinator.comparison.measures import Measures, measure, screen

from .pairs import TOLERANCES, Pair, pairs


def ordered(value: Any) -> int:
    """Return a float's place among the representable numbers of its dtype."""
    kind = {2: np.int16, 4: np.int32, 8: np.int64}[value.dtype.itemsize]
    bits = int(value.view(kind))
    return bits if bits >= 0 else int(np.iinfo(kind).min) - bits


def plain(reference: np.ndarray, candidate: np.ndarray, rtol: float, atol: float) -> dict[str, Any]:
    """Measure element by element, as the definitions read: the slow path."""
    ours, theirs = reference.reshape(-1), candidate.reshape(-1)
    found: dict[str, Any] = {
        "count": ours.size, "max_abs": 0.0, "max_rel": 0.0, "max_ulp": 0, "outside": 0, "smallest_rtol": 0.0,
        "reference_nonfinite": 0, "candidate_nonfinite": 0, "nonfinite_differs": False,
    }  # fmt: skip
    for one, other in zip(ours, theirs):
        wide, far = np.float64(one), np.float64(other)
        found["reference_nonfinite"] += int(not np.isfinite(wide))
        found["candidate_nonfinite"] += int(not np.isfinite(far))
        if not (np.isfinite(wide) and np.isfinite(far)):
            if not (wide == far or (np.isnan(wide) and np.isnan(far))):
                found["nonfinite_differs"] = True
                found["outside"] += 1
            continue
        with np.errstate(all="ignore"):
            apart = np.abs(far - wide)
            relative, needed = apart / np.abs(wide), (apart - atol) / np.abs(wide)
            found["outside"] += int(apart - atol > rtol * np.abs(wide))
        found["max_abs"] = max(found["max_abs"], float(apart))
        found["max_rel"] = max(found["max_rel"], 0.0 if np.isnan(relative) else float(relative))
        found["smallest_rtol"] = max(found["smallest_rtol"], 0.0 if np.isnan(needed) else float(needed))
        found["max_ulp"] = max(found["max_ulp"], abs(ordered(one) - ordered(other)))
    if found["nonfinite_differs"]:
        found.update(max_abs=math.inf, max_rel=math.inf, smallest_rtol=math.inf)
    return found


@given(pairs(), TOLERANCES)
@settings(max_examples=400)
def test_measures_are_what_their_definitions_say_element_by_element(pair: Pair, tolerance: tuple[float, float]) -> None:
    found = measure(*pair, *tolerance)
    expected = plain(*pair, *tolerance)
    assert {name: getattr(found, name) for name in expected} == expected
    if found.count and not np.array_equal(*(side.reshape(-1).view(np.uint8) for side in map(np.ascontiguousarray, pair))):
        assert np.array_equal(pair[0][found.index], np.asarray(found.reference, pair[0].dtype), equal_nan=True)
        assert np.array_equal(pair[1][found.index], np.asarray(found.candidate, pair[0].dtype), equal_nan=True)


@given(pairs(finite=True, dtypes=(np.float32,)))
def test_norms_and_angle_are_those_of_the_whole_arrays_in_float64(pair: Pair) -> None:
    ours, theirs = (side.astype(np.float64).reshape(-1) for side in pair)
    found = measure(*pair, 0.0, 0.0)
    norm = math.sqrt(float(np.sum(ours**2)))
    if norm and np.any(ours != theirs):
        assert found.rel_l2 == pytest.approx(math.sqrt(float(np.sum((theirs - ours) ** 2))) / norm, rel=1e-12)
        if np.any(theirs):
            other = math.sqrt(float(np.sum(theirs**2)))
            assert found.cosine == pytest.approx(float(np.sum(ours * theirs)) / norm / other, rel=1e-12, abs=1e-12)


@given(pairs(dtypes=(np.float32, np.float64)), TOLERANCES)
@settings(max_examples=400)
def test_what_the_screen_lets_pass_every_element_of_it_is_finite_and_within_tolerance(
    pair: Pair, tolerance: tuple[float, float]
) -> None:
    rtol, atol = tolerance
    screened = screen(*pair, rtol, atol)
    ours, theirs = pair
    with np.errstate(all="ignore"):
        apart = np.abs(theirs - ours)
        passes = bool(pair[0].size and np.isfinite(ours).all() and np.isfinite(theirs).all())
        passes = passes and bool(np.all((apart <= atol) | (apart <= atol + rtol * np.abs(ours))))
        inside = bool(np.all(apart <= atol) or np.all(apart <= atol + rtol * np.abs(ours)))
    if passes and inside and np.isfinite(apart).all():
        assert screened is not None
        assert screened.max_abs == float(apart.max())
        assert apart[screened.index] == apart.max() and not screened.complete
        assert (screened.reference, screened.candidate) == (float(ours[screened.index]), float(theirs[screened.index]))
    elif not passes:
        assert screened is None


@given(pairs(dtypes=(np.float32, np.float64)), TOLERANCES)
def test_the_screen_says_the_same_of_equal_arrays_as_it_says_block_by_block(
    pair: Pair, tolerance: tuple[float, float]
) -> None:
    array = pair[0]
    found = screen(array, array.copy(), *tolerance)
    if not array.size or not np.isfinite(array).all():
        assert found is None
    else:
        first = (0,) * array.ndim
        value = float(array[first])
        assert found == Measures(array.size, index=first, reference=value, candidate=value, complete=False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("place", [0, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, 3 * BLOCK_ELEMENTS + 5])
def test_one_wrong_element_is_found_in_whatever_block_it_lies(dtype: Any, place: int) -> None:
    reference = np.random.default_rng(0).standard_normal(3 * BLOCK_ELEMENTS + 7).astype(dtype)
    candidate = reference.copy()
    candidate[place] += 1
    found = measure(reference, candidate, 1e-5, 0.0)
    assert (found.index, found.outside) == ((place,), 1)
    assert screen(reference, candidate, 1e-5, 0.0) is None
    screened = screen(reference, candidate, 0.0, 2.0)
    assert screened is not None and screened.index == (place,)
    assert elements_outside(reference, candidate, 1e-5, 0.0).tolist() == [place]
    assert spread(reference, candidate) == float(np.abs(candidate - reference).max())
    candidate[place] = np.nan
    broken = measure(reference, candidate, 1e-5, 0.0)
    assert broken.nonfinite_differs and broken.index == (place,) and broken.max_abs == math.inf
    assert screen(reference, candidate, 1e-5, 1e30) is None
    both = reference.copy()
    both[place] = np.nan
    assert measure(both, candidate, 1e-5, 0.0).reference_nonfinite == 1
    assert screen(both, candidate, 1e-5, 1e30) is None


@given(pairs(), TOLERANCES)
def test_work_that_is_left_out_changes_no_measure(pair: Pair, tolerance: tuple[float, float]) -> None:
    quick = measure(*pair, *tolerance)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measures, "_SAFELY", -1.0)
        patch.setattr(measures, "same_bytes", lambda *pair: False)
        patch.setattr(measures, "same_and_finite", lambda *pair: False)
        slow = measure(*pair, *tolerance)
    same = {"index", "reference", "candidate", "cosine"} if not quick.index else set()
    for field in dataclasses.fields(Measures):
        if field.name not in same:
            ours, other = getattr(quick, field.name), getattr(slow, field.name)
            assert ours == other or (ours != ours and other != other), field.name


@given(pairs(dtypes=(np.float32, np.float64)), TOLERANCES)
def test_blocked_helpers_agree_with_whole_arrays(pair: Pair, tolerance: tuple[float, float]) -> None:
    rtol, atol = tolerance
    ours, theirs = pair
    with np.errstate(all="ignore"):
        outside = np.flatnonzero(np.abs(theirs - ours) > atol + rtol * np.abs(ours))
        assert elements_outside(ours, theirs, rtol, atol).tolist() == outside.tolist()
        assert spread(ours, theirs) == magnitude(np.asarray(theirs - ours))
        if np.isfinite(ours).all() and np.isfinite(theirs).all() and not magnitude(ours) > 1e15:
            assert squares(ours, theirs)[1] == pytest.approx(float(np.sum(ours.astype(np.float64) ** 2)), rel=1e-5, abs=1e-30)


NUMBERS = [0.0, -0.0, 1.0, 1.0000001, 1.0000002, -1.0, 3.5e-4, 3.5003e-4, 1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("rtol", "atol"), [(0.0, 0.0), (1e-6, 0.0), (0.0, 1e-7), (1e-3, 1e-6), (1.0, 1e9), (1e6, 1e300)])
def test_two_numbers_are_screened_as_arrays_of_one_element_are(dtype: Any, rtol: float, atol: float) -> None:
    for ours in np.array(NUMBERS, np.float64):
        for theirs in np.array(NUMBERS, np.float64):
            with np.errstate(all="ignore"):
                pair = np.array(ours).astype(dtype), np.array(theirs).astype(dtype)
            number, array = screen(*pair, rtol, atol), screen(pair[0].reshape(1), pair[1].reshape(1), rtol, atol)
            assert (number is None) == (array is None), (ours, theirs)
            if number is not None and array is not None:
                assert number == dataclasses.replace(array, index=()), (ours, theirs)
                assert number.max_abs.hex() == array.max_abs.hex(), (ours, theirs)


def test_arrays_of_other_shapes_or_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"float32\(2,\) against float32\(1, 2\)"):
        measure(np.zeros(2, np.float32), np.zeros((1, 2), np.float32), 0.0, 0.0)
    with pytest.raises(ValueError, match="float64"):
        measure(np.zeros(2, np.float32), np.zeros(2), 0.0, 0.0)


def test_neighbouring_doubles_are_one_unit_apart() -> None:
    reference = np.array([1.0, -1.0, 1e300])
    assert measure(reference, np.nextafter(reference, np.inf), 0.0, 0.0).max_ulp == 1
    assert measure(np.array([5e-324]), np.array([-5e-324]), 0.0, 0.0).max_ulp == 2


def test_integers_booleans_and_complex_numbers_are_measured_as_numbers() -> None:
    assert measure(np.array([1, 2, 3]), np.array([1, 2, 5]), 0.0, 0.0).max_abs == 2.0
    assert measure(np.array([True]), np.array([False]), 0.0, 0.0).max_abs == 1.0
    found = measure(np.array([1 + 1j, 2j]), np.array([1 + 1j, 5j]), 0.0, 0.0)
    assert (found.max_abs, found.index) == (3.0, (1,))
