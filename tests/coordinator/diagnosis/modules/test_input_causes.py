"""What one side did to a batch before its model, from the numbers that go into both models: plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.modules.input_causes import explain_input

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.uniform(0.0, 1.0, (4, 3, 6, 6)).astype(np.float32)
TOKENS = RANDOM.integers(0, 40, (8, 10))
TABLE = RANDOM.standard_normal((32, 5)).astype(np.float32)
MEAN, DEVIATION = (np.array(each, np.float32).reshape(3, 1, 1) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def told(torch: Any, paddle: Any) -> tuple[str, str, str]:
    """Return code, evidence and fix of the only cause, which is one of the data's."""
    (cause,) = explain_input("the batch", np.asarray(torch), np.asarray(paddle))
    assert cause.category.value == "data" and cause.evidence.startswith("the batch: ")
    return cause.code, cause.evidence, cause.fix


def normalised(images: np.ndarray) -> np.ndarray:
    return (images - MEAN) / DEVIATION


@pytest.mark.parametrize("torch", [IMAGES, np.moveaxis(IMAGES, 1, -1)], ids=["channels first", "channels last"])
def test_channels_in_another_order_are_told_with_the_way_back(torch: np.ndarray) -> None:
    axis = 1 if torch is IMAGES else 3
    code, evidence, fix = told(torch, np.take(torch, [2, 0, 1], axis))
    assert code == "channel_order"
    assert evidence == f"the batch: along axis {axis} paddle's channels are torch's in the order 2, 0, 1"
    assert f"the channels of axis {axis}" in fix and "[1, 2, 0] of what it has now" in fix and "then normalise" not in fix


def test_another_order_is_told_beside_another_normalisation() -> None:
    code, evidence, fix = told(normalised(IMAGES), normalised(IMAGES[:, ::-1] * 255.0))
    assert code == "channel_order" and "in the order 2, 1, 0, and channel by channel of axis 1" in evidence
    assert fix.endswith("then normalise as torch does")


def test_a_normalisation_of_the_wrong_channels_is_told_channel_by_channel() -> None:
    theirs = (IMAGES - MEAN[::-1]) / DEVIATION[::-1]
    code, evidence, _ = told(normalised(IMAGES), theirs)
    assert code == "normalisation"
    assert "1.017778 times torch's + 0.3511112; 1 times torch's + 0; 0.9825327 times torch's - 0.3449783" in evidence


def test_a_missing_normalisation_of_a_table_is_told_feature_by_feature() -> None:
    code, evidence, _ = told(TABLE, TABLE * np.array([2, 3, 4, 5, 6]) + 1.0)
    assert code == "normalisation" and "2 times torch's + 1; 3 times torch's + 1" in evidence and evidence.endswith(" ...")


@pytest.mark.parametrize(
    ("factor", "fix"),
    [
        (255.0, "divide what goes into paddle's model by 255, as torch does"),
        (1 / 255.0, "multiply what goes into paddle's model by 255, as torch does"),
        (-1.0, "change the sign of what goes into paddle's model"),
        (0.8, "scale what goes into paddle's model as torch does: multiply it by 1.25"),
    ],
)
def test_one_factor_is_told_with_what_undoes_it(factor: float, fix: str) -> None:
    assert told(IMAGES, (IMAGES * np.float32(factor)).astype(np.float32))[::2] == ("input_scale", fix)


def test_one_factor_and_one_offset_are_told() -> None:
    code, evidence, _ = told(IMAGES, 2.0 * IMAGES - 1.0)
    assert code == "input_scale" and evidence == "the batch: paddle's is 2 times torch's - 1"


@pytest.mark.parametrize(
    ("torch", "paddle", "said"),
    [
        (IMAGES, np.moveaxis(IMAGES, 1, -1), "axes in the order 0, 2, 3, 1 (channels last)"),
        (np.moveaxis(IMAGES, 1, -1), IMAGES, "axes in the order 0, 3, 1, 2 (channels first)"),
        (TABLE, TABLE.T, "axes 0 and 1 exchanged"),
        (IMAGES, IMAGES.swapaxes(2, 3), "axes 2 and 3 exchanged"),
        (TABLE, TABLE.reshape(16, 10), "the same numbers in the shape (32, 5) in torch and (16, 10) in paddle"),
    ],
)
def test_another_layout_is_told(torch: np.ndarray, paddle: np.ndarray, said: str) -> None:
    code, evidence, fix = told(torch, paddle)
    assert code == "input_layout" and said in evidence
    if "channels last" in said:
        assert fix.endswith("by [0, 3, 1, 2]")


@pytest.mark.parametrize(("torch", "axis"), [(TOKENS, 1), (TOKENS, 0), (IMAGES, 3)])
def test_what_stands_in_reverse_is_told_with_its_axis(torch: np.ndarray, axis: int) -> None:
    code, evidence, _ = told(torch, np.flip(torch, axis))
    assert (code, evidence) == ("reversed", f"the batch: paddle's is torch's in reverse along axis {axis}")


def test_another_order_of_samples_is_told() -> None:
    order = [3, 1, 0, 2, 4, 5, 7, 6]
    code, evidence, _ = told(TOKENS, TOKENS[order])
    assert code == "input_order" and "along axis 0 (3, 1, 0, 2, 4 ... (8 in all))" in evidence


@pytest.mark.parametrize(("places", "words"), [(1, "1 place later"), (-2, "2 places earlier")])
def test_a_shift_is_told_with_its_places(places: int, words: str) -> None:
    theirs = np.roll(TOKENS, places, axis=1)
    theirs[:, slice(0, places) if places > 0 else slice(places, None)] = 0
    code, evidence, _ = told(TOKENS, theirs)
    assert code == "shifted" and f"along axis 1 paddle's stands {words} than torch's" in evidence


@pytest.mark.parametrize(
    "paddle",
    [
        IMAGES,
        IMAGES.astype(np.float16).astype(np.float32),
        IMAGES + RANDOM.standard_normal(IMAGES.shape).astype(np.float32) * 0.01,
        np.where(IMAGES > 0.9, np.float32(np.nan), IMAGES),
        np.zeros_like(IMAGES),
        IMAGES[:2],
    ],
    ids=["equal", "narrower dtype", "noise", "not finite", "zeros", "another size"],
)
def test_nothing_is_said_where_no_rule_explains_all(paddle: np.ndarray) -> None:
    assert explain_input("the batch", IMAGES, paddle) == []
