"""One pass over a pair against the passes that it stands for, in whatever order the candidate lies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from stepalign.coordinator.comparison import compiled, step_scans
from stepalign.coordinator.comparison.blocks import BLOCK_ELEMENTS, magnitude, squares
from stepalign.coordinator.comparison.canonical import Pieces, Sizes
from stepalign.coordinator.comparison.measures import screen
from stepalign.coordinator.comparison.scan import Scan, scan
from stepalign.coordinator.comparison.step_scans import Scans, relative_drift

from .pairs import TOLERANCES, Pair, pairs

SHAPES = (
    (1, 1), (1, 7), (7, 1), (9, 8), (64, 64), (300, 17), (17, 300), (129, 700), (3, 40_000), (40_000, 3), (70_000,), (5, 6, 7),
)


@pytest.fixture(params=["compiled", "numpy"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(compiled, "_loaded", dict)


def plain(reference: np.ndarray, candidate: np.ndarray) -> Scan:
    """Find the same by one pass for each quantity, over arrays in C order."""
    reference, candidate = np.array(reference, order="C"), np.array(candidate, order="C")
    with np.errstate(all="ignore"):
        apart = np.abs(candidate - reference).reshape(-1)
    finite = bool(np.isfinite(apart).all())
    where = (float(apart.max()), int(apart.argmax())) if finite else (0.0, 0)
    return Scan(magnitude(reference), finite, *where, squares(reference, candidate))


def related(shape: tuple[int, ...], dtype: Any) -> Pair:
    random = np.random.default_rng(len(shape) + shape[0])
    reference = (random.standard_normal(shape) * 10.0 ** random.integers(-9, 3, shape)).astype(dtype)
    return reference, (reference * (1 + 1e-6 * random.standard_normal(shape))).astype(dtype)


@given(pairs(dtypes=(np.float32, np.float64)), TOLERANCES)
@settings(max_examples=300)
def test_a_scan_finds_what_single_passes_find_and_spares_the_screen_nothing_but_time(
    pair: Pair, tolerance: tuple[float, float]
) -> None:
    reference, candidate = pair
    if not reference.ndim:
        assert scan(reference, candidate) is None
        return
    found = scan(reference, candidate, with_squares=True)
    assert repr(found) == repr(plain(reference, candidate))
    assert repr(screen(reference, candidate, *tolerance, found)) == repr(screen(reference, candidate, *tolerance))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_where_a_candidate_lies_changes_no_bit(shape: tuple[int, ...], dtype: Any) -> None:
    reference, candidate = related(shape, dtype)
    turned = np.asfortranarray(candidate)
    assert repr(scan(reference, turned, True)) == repr(plain(reference, candidate))
    assert scan(reference, turned) == scan(reference, candidate)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("place", [0, 1, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, -1])
def test_what_is_not_finite_is_seen_wherever_it_is(place: int, value: float) -> None:
    reference, candidate = related((300, 400), np.float32)
    candidate.reshape(-1)[place] = value
    reference.reshape(-1)[place] = -abs(value) if value == 3e38 else reference.reshape(-1)[place]
    for order in ("C", "F"):
        found = scan(reference, np.asarray(candidate, order=order), True)  # type: ignore[call-overload]
        assert found is not None and not found.finite and not found.within(math.inf)
        assert repr(found) == repr(plain(reference, candidate))


def test_a_scan_is_for_floats_of_one_shape_and_dtype() -> None:
    array = np.ones((2, 3), np.float32)
    for other in (array.T, array.astype(np.float64), array.astype(np.int32)):
        assert scan(array, other) is None
    for same in (array.astype(np.float16), array.astype(np.int64), array[:0], array[0, 0]):
        assert scan(np.asarray(same), np.asarray(same)) is None


def test_a_pair_is_scanned_once_and_its_magnitude_known_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Scan | None] = []

    def noted(*arguments: Any) -> Scan | None:
        made.append(scan(*arguments))
        return made[-1]

    monkeypatch.setattr(step_scans, "scan", noted)
    reference, candidate = related((30, 40), np.float32)
    pair = Pieces({"a": reference}), Pieces({"a": np.asfortranarray(candidate), "b": candidate})
    scans = Scans(Sizes())
    for _ in range(2):
        scans.take(pair)
    assert len(made) == 1 and scans.of(pair, "a") is made[0] and scans.of(pair, "b") is None
    known = magnitude(reference)
    reference[0, 0] = 1e30
    assert scans.sizes(reference) == known
    scans.forget()
    assert scans.of(pair, "a") is None


def test_sizes_of_arrays_that_live_are_kept() -> None:
    sizes = Sizes()
    kept, gone = np.ones(3), np.ones(3)
    sizes.note(kept, 7.0)
    sizes.note(gone, 8.0)
    del gone
    sizes.forget_dead()
    assert sizes(kept) == 7.0 and len(sizes._known) == 1


@pytest.mark.parametrize("scanned", ["not at all", "without squares", "with squares"])
def test_the_drift_is_that_of_all_parameters_that_more_than_noise_moves(scanned: str) -> None:
    names = {"a": (40, 30), "b": (500,), "noisy": (40,), "torch only": (3,)}
    sides = {name: related(shape, np.float32) for name, shape in names.items()}
    pair = (
        Pieces({name: one for name, (one, _) in sides.items()}),
        Pieces({name: np.asfortranarray(other) for name, (_, other) in sides.items() if name != "torch only"}),
    )
    scans = Scans(Sizes())
    if scanned != "not at all":
        scans.take(pair, with_squares=scanned == "with squares")
    apart = [squares(*sides[name]) for name in ("a", "b")]
    expected = math.sqrt(sum(one for one, _ in apart) / sum(size for _, size in apart))
    assert relative_drift(pair, {"noisy"}, scans) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_have_no_drift(value: float) -> None:
    ours, theirs = related((4, 5), np.float32)
    theirs[1, 2] = value
    assert relative_drift(({"a": ours}, {"a": theirs}), {}, Scans(Sizes())) == 0.0
