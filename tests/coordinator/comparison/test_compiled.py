"""The compiled loops against the numpy path: the same bits, whatever the numbers, sizes and layouts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from stepalign.coordinator.comparison import compiled, update_residual
from stepalign.coordinator.comparison.blocks import (
    BLOCK_ELEMENTS,
    all_finite,
    elements_outside,
    flat,
    in_c_order,
    magnitude,
    same_and_finite,
    spread,
    squares,
)
from stepalign.coordinator.comparison.judged_elements import choose_elements
from stepalign.coordinator.comparison.measures import measure, screen
from stepalign.coordinator.comparison.update_residual import judge_update

from .pairs import TOLERANCES, Pair, pairs

pytestmark = pytest.mark.skipif(compiled.describe() != "compiled", reason="installed without a C compiler")

SIZES = (1, 2, 63, 64, 65, 511, 512, 513, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, BLOCK_ELEMENTS + 1, 3 * BLOCK_ELEMENTS + 77)
STRANGE = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, -1e-42, 5e-324, 3e38, -3e38)


def by_numpy(call: Callable[[], object]) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_loaded", dict)
        return call()


def quantities(reference: np.ndarray, candidate: np.ndarray, rtol: float, atol: float) -> list[str]:
    """Return every quantity as text, which tells any two floats apart."""
    found: list[Any] = [measure(reference, candidate, rtol, atol), screen(reference, candidate, rtol, atol)]
    found += [spread(reference, candidate), squares(reference, candidate), magnitude(reference), all_finite(candidate)]
    found += [elements_outside(reference, candidate, rtol, atol).tolist(), same_and_finite(flat(reference), flat(candidate))]
    return [repr(item) for item in found]


def related(size: int, dtype: Any, share_strange: float) -> Pair:
    random = np.random.default_rng(size)
    reference = (random.standard_normal(size) * 10.0 ** random.integers(-12, 3, size)).astype(dtype)
    candidate = (reference * (1 + 1e-6 * random.standard_normal(size))).astype(dtype)
    with np.errstate(all="ignore"):
        for array in (reference, candidate):
            places = random.random(size) < share_strange
            array[places] = random.choice(STRANGE, int(places.sum()))
    return reference, candidate


@given(pairs(), TOLERANCES)
@settings(max_examples=300)
def test_every_quantity_has_the_same_bits_on_both_paths(pair: Pair, tolerance: tuple[float, float]) -> None:
    assert quantities(*pair, *tolerance) == by_numpy(lambda: quantities(*pair, *tolerance))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share_strange", [0.0, 1e-4, 0.3])
@pytest.mark.parametrize("size", SIZES)
def test_sizes_around_lanes_tiles_and_blocks_have_the_same_bits(size: int, share_strange: float, dtype: Any) -> None:
    pair = related(size, dtype, share_strange)
    for tolerance in ((1e-6, 0.0), (1e-6, 1e-9), (0.0, 1e3)):
        assert quantities(*pair, *tolerance) == by_numpy(lambda: quantities(*pair, *tolerance))  # noqa: B023


def hard_to_tell_apart(dtype: Any) -> dict[str, Pair]:
    """Give pairs whose measures hang on what is lost where float64 is rounded to float32, or where it overflows."""
    random = np.random.default_rng(0)
    size = 3 * 512 + 77
    plain, signs = random.standard_normal(size).astype(dtype), random.choice(np.asarray((-1, 1), dtype), size)
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    few = random.integers(0, 9, (2, size)).astype(dtype)
    powers = np.exp2(random.integers(-20, 20, size)).astype(dtype)
    allowed = (2.0**-30 + 2.0**-20 * powers.astype(np.float64)).astype(dtype)
    edge = powers + allowed * random.choice(np.asarray((0.5, 1, 2), dtype), size)
    rising = plain * (1 + dtype(1e-5) * np.arange(size, dtype=dtype))
    zeros = np.where(random.random(size) < 0.5, dtype(0), plain)
    return {
        "differences within a rounding": (np.full(size, 3 / np.finfo(dtype).eps, dtype), np.linspace(0, -0.9, size, dtype=dtype)),
        "quotients within a rounding": (plain, plain * dtype(1.5)),
        "the edge of the tolerance": (powers, edge),
        "beside the edge": (powers, np.nextafter(edge, random.choice(np.asarray((0, 4e6), dtype), size))),
        "subnormals": (few[0] * tiny, few[1] * tiny * signs),
        "around the smallest normal": (plain * np.finfo(dtype).tiny, plain * signs * np.finfo(dtype).tiny * dtype(1.1)),
        "squares that overflow": (plain * dtype(huge / 8), plain * dtype(huge / 7)),
        "differences that overflow": (np.where(few[0] > 7, huge, plain), np.where(few[1] > 7, -huge, plain)),
        "reference zero": (zeros, plain),
        "candidate zero": (plain, zeros),
        "rising": (plain, rising),
        "falling": (plain[::-1].copy(), rising[::-1].copy()),
        "one far element in many": (plain, plain + dtype(3) * np.eye(1, size, 1000, dtype=dtype)[0]),
        "signs that cross": (plain, plain * signs),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(hard_to_tell_apart(np.float32)))
def test_what_a_first_look_in_the_arrays_own_dtype_cannot_tell_apart_is_measured_alike(name: str, dtype: Any) -> None:
    pair = hard_to_tell_apart(dtype)[name]
    for rtol in (0.0, 1e-46, 2.0**-24, 2.0**-20, 1e-5, 0.5, 1e39):
        for atol in (0.0, 1e-46, 4.2e-45, 1.2e-38, 2.0**-30, 1e-7, 1.0, 3e38, 1e39):
            found = repr(measure(*pair, rtol, atol))
            assert found == by_numpy(lambda: repr(measure(*pair, rtol, atol))), (rtol, atol)  # noqa: B023


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_element_of_a_tile_beside_a_bound_is_not_missed(dtype: Any) -> None:
    random = np.random.default_rng(0)
    places = np.arange(64) * 512 + random.integers(0, 512, 64)
    for _ in range(100):
        rtol, atol = 10.0 ** random.uniform(-6, 0), 10.0 ** random.uniform(-6, 0)
        reference = np.ones(64 * 512, dtype)
        reference[places] = random.standard_normal(64)
        lone = reference[places].astype(np.float64)
        for bounds in (atol + rtol * np.abs(lone), 0.7 * np.abs(lone), np.full(64, 0.9)):
            candidate = reference.copy()
            beside = bounds * (1 + np.finfo(dtype).eps * random.uniform(-1, 1, 64))
            candidate[places] = lone + beside * random.choice((-1, 1), 64)
            candidate[0] = 1 + rtol + atol
            found = repr(measure(reference, candidate, rtol, atol))
            assert found == by_numpy(lambda: repr(measure(reference, candidate, rtol, atol)))  # noqa: B023


def test_other_dtypes_and_layouts_are_left_to_numpy_or_laid_out_first() -> None:
    reference, candidate = (side.reshape(40, -1) for side in related(40 * 130, np.float32, 0.0))
    views: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda array: array[::3, 1::2], lambda array: array.T, np.asfortranarray, lambda array: array[:0],
        lambda array: array[3, 4], lambda array: array.astype(np.float16), lambda array: array > 0,
        lambda array: (1e6 * array).astype(np.int64), lambda array: array.astype(">f4"),
        lambda array: array + 1j * array,
        lambda array: np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.float32),
    ]  # fmt: skip
    for view in views:
        pair = view(reference), view(candidate)
        assert repr(measure(*pair, 1e-7, 0.0)) == by_numpy(lambda: repr(measure(*pair, 1e-7, 0.0)))  # noqa: B023
        assert repr(screen(*pair, 1e-2, 0.0)) == by_numpy(lambda: repr(screen(*pair, 1e-2, 0.0)))  # noqa: B023
    unaligned = views[-1](reference)
    assert compiled.for_arrays(unaligned) is None and compiled.for_arrays(reference.T) is None
    assert compiled.for_arrays(reference, candidate.astype(np.float64)) is None
    reference.flags.writeable = False
    assert compiled.for_arrays(reference, candidate) is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (16, 17), (33, 65), (70, 3), (2, 3, 4), (0, 3)])
def test_what_is_stored_transposed_is_turned_element_by_element(shape: tuple[int, ...], dtype: Any) -> None:
    stored = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    for array in (stored, stored.T, stored[::-1].T):
        turned = in_c_order(array)
        assert turned.flags.c_contiguous and np.array_equal(turned, array)
    assert in_c_order(stored) is stored


def test_an_address_is_found_alike_with_the_module_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.arange(12.0).reshape(3, 4)
    whole.flags.writeable = False
    arrays = (whole, whole.T, whole[1:, ::2], whole[2:, 3].reshape(()), np.empty((0, 3)))
    assert [compiled.address(array) for array in arrays] == [array.ctypes.data for array in arrays]
    compiled._finder.cache_clear()
    monkeypatch.setattr(compiled, "_MODULE", "stepalign.nothing")
    assert [compiled.address(array) for array in arrays] == [array.ctypes.data for array in arrays]
    compiled._finder.cache_clear()


HYPER: dict[str, dict[str, Any]] = {
    "AdamW": {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01},
    "Adam": {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1, "maximize": True},
}


def adam_step(rule: str, dtype: str, size: int, first: bool) -> dict[str, Any]:
    """Give the numbers around one step of either rule, computed in the parameter's own precision."""
    hyper, random = HYPER[rule], np.random.default_rng(size)
    beta1, beta2 = hyper.get("betas", (hyper.get("beta1"), hyper.get("beta2")))
    before, gradient = random.standard_normal((2, size)).astype(dtype)
    gradient *= 10.0 ** random.integers(-9, 1, size).astype(dtype)
    gradient[random.random(size) < 0.2] = 0
    gradient[0] = 0.1
    before[:: max(size // 3, 1)] = 0
    old1, old2 = (random.standard_normal(size) * 1e-3).astype(dtype), (random.random(size) * 1e-6).astype(dtype)
    if first:
        old1, old2 = np.zeros_like(old1), np.zeros_like(old2)
    step, lr = (0 if first else 6), 1e-3
    used = -gradient if hyper.get("maximize") else gradient
    decayed = before
    if rule == "AdamW":
        decayed = before * before.dtype.type(1 - lr * hyper["weight_decay"])
    else:
        used = used + before.dtype.type(hyper["weight_decay"]) * before
    new1, new2 = beta1 * old1 + (1 - beta1) * used, beta2 * old2 + (1 - beta2) * used * used
    after = decayed - lr / (1 - beta1 ** (step + 1)) * new1 / (np.sqrt(new2 / (1 - beta2 ** (step + 1))) + hyper["eps"])
    kept = {} if first else {"moment1": old1, "moment2": old2, "step": np.asarray(float(step), np.float32)}
    later = {"moment1": new1.astype(dtype), "moment2": new2.astype(dtype), "step": np.asarray(step + 1.0, np.float32)}
    return {
        "rule": rule, "hyper": hyper, "before": before, "gradient": gradient, "state_before": kept,
        "after": after.astype(dtype), "state_after": later, "lr": lr, "step": step, "dtype": dtype,
    }  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", list(HYPER))
@pytest.mark.parametrize("size", [1, 65, 4097, 100_003])
def test_adam_updates_are_judged_alike_to_the_bit(
    size: int, rule: str, dtype: str, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = adam_step(rule, dtype, size, first)
    used: list[bool] = []
    plain = update_residual._judge_compiled

    def noted(*arguments: Any) -> Any:
        found = plain(*arguments)
        used.append(found is not None)
        return found

    monkeypatch.setattr(update_residual, "_judge_compiled", noted)
    chosen = choose_elements(size, np.arange(0, size, 50))
    for change in ("none", "parameter", "moment2", "lr", "unmoved", "gradient scale"):
        changed = dict(numbers)
        if change == "parameter":
            changed["after"] = numbers["after"] + np.eye(1, size, size // 2, dtype=dtype)[0]
        elif change == "moment2":
            changed["state_after"] = {**numbers["state_after"], "moment2": numbers["state_after"]["moment2"] * 1.5}
        elif change == "lr":
            changed["lr"] = 2e-3
        elif change == "unmoved":
            changed["after"] = numbers["before"]
        elif change == "gradient scale":
            changed["hyper"] = {**numbers["hyper"], "gradient_scale": 0.5}
        for where in (None, chosen) if chosen is not None else (None,):
            found = judge_update(**changed, chosen=where)
            assert found is not None and found.fits == (change == "none"), change
            assert repr(found) == by_numpy(lambda: repr(judge_update(**changed, chosen=where)))  # noqa: B023
    assert used and all(used)


@pytest.mark.parametrize("suspects", [(), (5, 77, 70_000)])
@pytest.mark.parametrize("kernels", ["compiled", "numpy"])
@pytest.mark.parametrize(("rule", "shape"), [("AdamW", (300, 333)), ("AdamW", (30, 333)), ("SGD", (333, 300)), ("SGD", (30, 33))])
def test_an_update_is_judged_alike_in_whatever_order_its_arrays_lie(
    rule: str, shape: tuple[int, int], kernels: str, suspects: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "numpy":
        monkeypatch.setattr(compiled, "_loaded", dict)
    numbers = adam_step("AdamW", "float32", shape[0] * shape[1], False)
    if rule == "SGD":
        after = numbers["before"] - np.float32(numbers["lr"]) * numbers["gradient"]
        numbers.update(rule="SGD", hyper={"momentum": 0.0}, state_before={}, state_after={}, after=after)

    def laid_out(order: Any) -> dict[str, Any]:
        def lay(array: np.ndarray) -> np.ndarray:
            return np.array(array.reshape(shape), order=order) if array.ndim else array

        return {
            key: {slot: lay(array) for slot, array in value.items()} if key.startswith("state") else lay(value)
            for key, value in numbers.items()
            if isinstance(value, np.ndarray) or key.startswith("state")
        }

    chosen = choose_elements(shape[0] * shape[1], np.asarray(suspects, np.int64))
    one, other = (judge_update(**{**numbers, **laid_out(order)}, chosen=chosen) for order in "CF")
    assert one is not None and one.fits and repr(one) == repr(other)


@pytest.mark.parametrize("place", ["before", "gradient", "after", "moment1"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_an_adam_update_that_is_not_finite_is_judged_alike(place: str, value: float) -> None:
    numbers = adam_step("AdamW", "float32", 4097, False)
    state = {**numbers["state_after"]}
    target = state if place == "moment1" else numbers
    target[place] = target[place].copy()
    target[place][77] = value
    numbers["state_after"] = state
    found = judge_update(**numbers)
    assert found is not None and not found.fits
    assert repr(found) == by_numpy(lambda: repr(judge_update(**numbers)))


def test_the_place_of_the_worst_element_is_one_of_the_whole_tensor() -> None:
    numbers = adam_step("AdamW", "float32", 100_003, False)
    numbers["after"] = numbers["after"] + np.eye(1, 100_003, 77_777, dtype=np.float32)[0]
    found = judge_update(**numbers, chosen=choose_elements(100_003, np.asarray([77_777])))
    assert found is not None and found.parameter.index == (77_777,)


def test_a_library_of_another_version_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "VERSION", compiled.VERSION + 1)
    compiled._loaded.cache_clear()
    try:
        assert compiled.describe() == "numpy"
    finally:
        compiled._loaded.cache_clear()
    assert compiled._version_of(ctypes.CDLL(None)) == 0


def test_numpy_alone_is_used_where_the_environment_says_so() -> None:
    script = "from stepalign.coordinator.comparison import compiled; print(compiled.describe())"
    said = [
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, **extra}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for extra in ({}, {"STEPALIGN_KERNELS": "numpy"})
    ]
    assert said == ["compiled", "numpy"]
