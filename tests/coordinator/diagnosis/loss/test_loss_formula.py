"""Which change of the loss function explains losses that differ under equal outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.diagnosis.loss.loss_formula import (
    LossSite,
    explain_loss_formula,
    loss_outputs,
    softmax_clipping,
)

RANDOM = np.random.default_rng(5)
LOGITS = RANDOM.normal(size=(24, 10)).astype(np.float32) * 2
LABELS = RANDOM.integers(0, 10, size=24)
TOKENS = RANDOM.normal(size=(4, 9, 30)).astype(np.float32)
WORDS = RANDOM.integers(0, 30, size=(4, 9))
PARTLY = np.where(RANDOM.random((4, 9)) < 0.3, -100, WORDS)
OUTPUT = RANDOM.normal(size=(16, 3)).astype(np.float32)
TARGET = RANDOM.normal(size=(16, 3)).astype(np.float32)


def site(outputs: Any, batch: dict[str, np.ndarray], torch: float, paddle: float, dtype: str = "float32") -> LossSite:
    given = outputs if isinstance(outputs, dict) else {"<model>": outputs}
    return LossSite(given, given, batch, (np.array(torch, dtype), np.array(paddle, dtype)))


def each(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0, clip: float = -np.inf) -> np.ndarray:
    """Cross-entropy of each label, zero where it is negative; logits [..., classes]."""
    shifted = np.maximum(logits - logits.max(-1, keepdims=True).astype(np.float64), clip)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    terms = -np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0]
    return np.where(labels >= 0, (1 - smoothing) * terms - smoothing * log_p.mean(-1), 0.0)


def mean(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0, clip: float = -np.inf) -> float:
    return float(each(logits, labels, smoothing, clip).sum() / (labels >= 0).sum())


def softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits.astype(np.float64))
    return wide / wide.sum(-1, keepdims=True)


def only(causes: list[Cause]) -> str:
    assert len(causes) == 1, causes
    return f"{causes[0].category.value}/{causes[0].code}"


X_IMAGES = RANDOM.normal(size=(12, 3, 4, 4)).astype(np.float32)
PLAIN = mean(LOGITS, LABELS)
CLASSES = {"x": RANDOM.normal(size=(24, 20)).astype(np.float32), "y": LABELS, "flag": np.array([1])}


@pytest.mark.parametrize(
    ("other", "code"),
    [
        (mean(LOGITS, LABELS, 0.1), "loss/label_smoothing"),
        (mean(LOGITS, LABELS, 0.05), "loss/label_smoothing"),
        (24 * PLAIN, "loss/reduction"),
        (mean(softmax(LOGITS), LABELS), "loss/double_softmax"),
        (-float(LOGITS[np.arange(24), LABELS].astype(np.float64).mean()), "loss/softmax_missing"),
        (mean(LOGITS, (LABELS + 1) % 10), "data/labels_shifted"),
        (mean(LOGITS, LABELS[::-1]), "data/labels_reordered"),
        (0.5 * PLAIN, "loss/scaled"),
        (float(each(LOGITS, LABELS)[LABELS > 0].mean()), "loss/ignore_index"),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_change_of_a_cross_entropy_is_named(other: float, code: str, swapped: bool, dtype: str) -> None:
    losses = (other, PLAIN) if swapped else (PLAIN, other)
    causes = explain_loss_formula(site(LOGITS, CLASSES, *losses, dtype))
    assert only(causes) == code and causes[0].confidence > 0.9


def test_two_amounts_of_smoothing_are_both_found() -> None:
    causes = explain_loss_formula(site(LOGITS, CLASSES, mean(LOGITS, LABELS, 0.1), mean(LOGITS, LABELS, 0.2)))
    assert only(causes) == "loss/label_smoothing" and "smoothing 0.1 " in causes[0].evidence
    assert "label_smoothing=0.1" in causes[0].fix


@pytest.mark.parametrize("swapped", [False, True])
def test_smoothing_that_is_spread_over_the_wrong_classes_alone_is_named(swapped: bool) -> None:
    wrong = 0.1 * 10 / 9
    losses = [mean(LOGITS, LABELS, 0.1), mean(LOGITS, LABELS, wrong)]
    causes = explain_loss_formula(site(LOGITS, CLASSES, *(losses[::-1] if swapped else losses)))
    assert only(causes) == "loss/label_smoothing" and causes[0].confidence > 0.9
    assert "label smoothing 0.1111111 (0.1 / 9 on each wrong class)" in causes[0].evidence
    assert causes[0].fix.startswith(f"label_smoothing={'0.1111111' if swapped else '0.1'} in paddle's")


def test_two_changes_at_once_are_both_named() -> None:
    causes = explain_loss_formula(site(LOGITS, CLASSES, PLAIN, 24 * mean(LOGITS, LABELS, 0.1)))
    assert {cause.code for cause in causes} == {"reduction", "label_smoothing"}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_mean_that_counts_ignored_labels_is_named(swapped: bool) -> None:
    losses = [mean(TOKENS, PARTLY), float(each(TOKENS, PARTLY).mean())]
    causes = explain_loss_formula(site(TOKENS, {"labels": PARTLY}, *(losses[::-1] if swapped else losses)))
    assert only(causes) == "loss/ignored_labels"


def test_labels_shifted_once_more_are_named() -> None:
    batch = {"ids": RANDOM.integers(0, 30, size=(4, 9)), "labels": PARTLY}
    causes = explain_loss_formula(site(TOKENS, batch, mean(TOKENS, PARTLY), mean(TOKENS[:, :-1], PARTLY[:, 1:])))
    assert only(causes) == "loss/label_shift"


def test_another_array_of_labels_is_named() -> None:
    batch = {"ids": RANDOM.integers(0, 30, size=(4, 9)), "labels": WORDS}
    causes = explain_loss_formula(site(TOKENS, batch, mean(TOKENS, WORDS), mean(TOKENS, batch["ids"])))
    assert only(causes) == "data/other_target" and "'labels'" in causes[0].fix


def test_a_mask_on_one_side_is_named() -> None:
    mask = (RANDOM.random((4, 9)) < 0.7).astype(np.int64)
    masked = float((each(TOKENS, WORDS) * mask).sum() / mask.sum())
    causes = explain_loss_formula(site(TOKENS, {"labels": WORDS, "mask": mask}, masked, mean(TOKENS, WORDS)))
    assert only(causes) == "loss/ignore_index" and "where mask is 0" in causes[0].evidence


def test_classes_on_another_axis_are_named() -> None:
    batch = {"y": RANDOM.integers(0, 5, size=(2, 5, 5))}
    cube = RANDOM.normal(size=(2, 5, 5, 5)).astype(np.float32)
    causes = explain_loss_formula(site(cube, batch, mean(np.moveaxis(cube, 1, -1), batch["y"]), mean(cube, batch["y"])))
    assert only(causes) == "loss/class_axis"


def huber(delta: float, over: float = 1.0) -> float:
    gap = np.abs(OUTPUT.astype(np.float64) - TARGET)
    return float(np.where(gap < delta, 0.5 * gap**2, delta * (gap - 0.5 * delta)).mean() / over)


def squared(root: float = 1.0) -> np.ndarray:
    result: np.ndarray = ((OUTPUT - TARGET.astype(np.float64)) ** 2) ** root
    return result


def logistic(positive: float = 1.0) -> float:
    wanted = (TARGET > 0).astype(np.float64)
    wide = OUTPUT.astype(np.float64)
    return float((positive * wanted * np.logaddexp(0, -wide) + (1 - wanted) * np.logaddexp(0, wide)).mean())


@pytest.mark.parametrize(
    ("torch", "paddle", "code"),
    [
        (huber(0.5, 0.5), huber(0.5), "loss/smooth_l1_delta"),
        (huber(1.0), huber(0.2), "loss/smooth_l1_delta"),
        (squared().mean(), squared(0.5).mean(), "loss/other_loss"),
        (squared().mean(), squared().sum(), "loss/reduction"),
        (logistic(3.0), logistic(), "loss/pos_weight"),
        (logistic(), 2 * logistic(), "loss/scaled"),
    ],
)
def test_one_change_of_a_loss_over_elements_is_named(torch: float, paddle: float, code: str) -> None:
    causes = explain_loss_formula(site(OUTPUT, {"x": OUTPUT * 3, "target": TARGET}, torch, paddle))
    assert only(causes) == code


def test_an_output_that_is_broadcast_against_its_target_is_named() -> None:
    output, target = OUTPUT[:, :1].astype(np.float64), TARGET[:, 0].astype(np.float64)
    losses = float(((output[:, 0] - target) ** 2).mean()), float(((output - target) ** 2).mean())
    causes = explain_loss_formula(site(OUTPUT[:, :1], {"y": TARGET[:, 0]}, *losses))
    assert only(causes) == "loss/broadcast_target"


def test_micro_batches_whose_sum_is_not_divided_are_accumulation() -> None:
    calls = {"<model>": LOGITS[:12], "<model>#1": LOGITS[12:]}
    causes = explain_loss_formula(site(calls, {"y": LABELS}, PLAIN, 2 * PLAIN))
    assert only(causes) == "gradient_accumulation/loss_not_divided"


SATURATED = LOGITS * 100


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_that_paddle_clips_are_a_known_difference(smoothing: float) -> None:
    losses = mean(SATURATED, LABELS, smoothing), mean(SATURATED, LABELS, smoothing, clip=-64.0)
    known = softmax_clipping(site(SATURATED, CLASSES, *losses))
    assert known is not None and known.code == "softmax_clipping" and "-64" in known.evidence


def test_logits_that_the_loss_itself_scales_and_paddle_clips_are_a_known_difference() -> None:
    losses = mean(100.0 * LOGITS, LABELS), mean(100.0 * LOGITS, LABELS, clip=-64.0)
    known = softmax_clipping(site(LOGITS, CLASSES, *losses))
    assert known is not None and "logits times 100" in known.evidence


def test_another_temperature_is_named() -> None:
    losses = mean(LOGITS.astype(np.float64) / 0.07, LABELS), mean(LOGITS / np.float64(0.1), LABELS)
    assert only(explain_loss_formula(site(LOGITS, CLASSES, *losses))) == "loss/logit_scale"


def test_tokens_of_an_output_that_the_model_flattened_are_read() -> None:
    losses = mean(TOKENS, WORDS), mean(TOKENS, WORDS, 0.1)
    causes = explain_loss_formula(site(TOKENS.reshape(36, 30), {"labels": WORDS}, *losses))
    assert only(causes) == "loss/label_smoothing"


def test_clipped_logits_do_not_excuse_another_mistake() -> None:
    losses = mean(SATURATED, LABELS), mean(SATURATED, LABELS, 0.1, clip=-64.0)
    given = site(SATURATED, CLASSES, *losses)
    assert softmax_clipping(given) is None
    assert {cause.code for cause in explain_loss_formula(given)} == {"softmax_clipping", "label_smoothing"}
    assert softmax_clipping(site(LOGITS, CLASSES, PLAIN, mean(LOGITS, LABELS, 0.1))) is None
    assert softmax_clipping(site(SATURATED, CLASSES, losses[0], 64.0)) is None


def test_clipping_on_torchs_side_is_not_the_known_difference() -> None:
    losses = mean(SATURATED, LABELS, clip=-64.0), mean(SATURATED, LABELS)
    assert softmax_clipping(site(SATURATED, CLASSES, *losses)) is None


def test_a_loss_of_ones_own_is_left_to_the_reader() -> None:
    causes = explain_loss_formula(site(LOGITS, CLASSES, 1.2345678, 1.3456789))
    assert only(causes) == "loss/loss_function" and causes[0].confidence == 0.5


def test_a_formula_that_fits_one_side_alone_is_told() -> None:
    causes = explain_loss_formula(site(LOGITS, CLASSES, PLAIN + 0.0123457, PLAIN))
    assert only(causes) == "loss/loss_function" and "paddle's loss" in causes[0].evidence
    assert "mean of the cross-entropy of <model> with y" in causes[0].evidence


def test_random_losses_fit_no_formula_by_chance() -> None:
    chance = np.random.default_rng(6)
    codes = [
        only(explain_loss_formula(site(LOGITS, CLASSES, PLAIN, float(PLAIN * chance.uniform(0.2, 3.0)))))
        for _ in range(8)
    ]
    assert set(codes) == {"loss/loss_function"}


def test_losses_that_are_not_finite_are_no_formula() -> None:
    assert only(explain_loss_formula(site(LOGITS, CLASSES, PLAIN, float("nan")))) == "loss/loss_function"


def test_a_loss_that_calls_parts_of_the_model_is_read_from_the_last_output() -> None:
    recorded = {"stem": LOGITS * 2, "head": LOGITS, "head@grad": LOGITS}
    assert list(loss_outputs(recorded)) == ["head", "head@grad"]
    assert list(loss_outputs({**recorded, "<model>:0": LOGITS, "<model>:1": LOGITS})) == ["<model>:0", "<model>:1"]


def test_an_output_that_is_too_large_to_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("loss_formula", "loss_readings"):
        monkeypatch.setattr(f"stepalign.coordinator.diagnosis.loss.{module}.LARGEST_OUTPUT", 100)
    causes = explain_loss_formula(site(LOGITS, CLASSES, PLAIN, 24 * PLAIN))
    assert only(causes) == "loss/loss_function" and "<model> is too large" in causes[0].evidence


TOWERS = {
    "<model>:0": RANDOM.normal(size=(12, 8)).astype(np.float32) / 3,
    "<model>:1": RANDOM.normal(size=(12, 8)).astype(np.float32) / 3,
    "<model>:2": np.array(14.2857, np.float32),
}


def contrastive(scale: float = 14.2857, unit: bool = False) -> tuple[float, float]:
    """Return the cross-entropies of the rows and of the columns of both towers' products."""
    a, b = (TOWERS[key].astype(np.float64) for key in ("<model>:0", "<model>:1"))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) if unit else x for x in (a, b))
    return mean(np.float32(scale) * a @ b.T, np.arange(12)), mean(np.float32(scale) * b @ a.T, np.arange(12))


ROWS, COLUMNS = contrastive()
BOTH = (ROWS + COLUMNS) / 2


@pytest.mark.parametrize(
    ("paddle", "code", "said"),
    [
        (ROWS, "loss/contrastive_directions", "from <model>:0 alone"),
        (COLUMNS, "loss/contrastive_directions", "from <model>:1 alone"),
        (ROWS + COLUMNS, "loss/contrastive_directions", "both directions added"),
        (sum(contrastive(1.0)) / 2, "loss/logit_scale", "with each other (to"),
        (sum(contrastive(unit=True)) / 2, "loss/unit_length", "vectors brought to length one before it"),
    ],
)
def test_a_contrastive_loss_of_two_towers_is_read(paddle: float, code: str, said: str) -> None:
    causes = explain_loss_formula(site(TOWERS, {"image": X_IMAGES}, BOTH, paddle))
    assert only(causes) == code and said in causes[0].evidence.split(";")[-1]
    assert "mean of the contrastive loss of <model>:0 and <model>:1 with each other, logits times <model>:2" in causes[0].evidence


def test_a_loss_of_two_towers_that_is_no_contrast_is_not_read_as_one() -> None:
    causes = explain_loss_formula(site(TOWERS, {"image": X_IMAGES}, BOTH, 1.1 * BOTH + 0.37))
    assert only(causes) == "loss/loss_function"
