"""What a module's own code makes of outputs that agree: gated products, attention, one vector of many, sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stepalign.coordinator.diagnosis.modules.attention_causes import explain_attention
from stepalign.coordinator.diagnosis.modules.attention_fit import Formula, compute, usable_masks
from stepalign.coordinator.diagnosis.modules.elementwise import FUNCTIONS
from stepalign.coordinator.diagnosis.modules.gate_causes import explain_gate
from stepalign.coordinator.diagnosis.modules.own_code_causes import explain_own_code
from stepalign.coordinator.diagnosis.modules.pooling_causes import explain_pooling

RANDOM = np.random.default_rng(21)
LENGTH, WIDTH = 10, 32
NAMES = ("a.q_proj", "a.k_proj", "a.v_proj")
LLAMA = Formula(4, 2, rotary="halves", base=1e4, mask="causal")


def float32(array: np.ndarray) -> np.ndarray:
    """Return the array as it is after float32, in float64."""
    return array.astype(np.float32).astype(np.float64)


def projections(narrow: int = 16, batch: int = 2) -> list[tuple[str, np.ndarray]]:
    """Return what q_proj, k_proj and v_proj give."""
    widths = (WIDTH, narrow, narrow)
    return [(name, float32(RANDOM.normal(size=(batch, LENGTH, width)))) for name, width in zip(NAMES, widths, strict=True)]


def output(formula: Formula, agreed: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Return the attention of every sample by one formula."""
    samples = []
    for sample in range(agreed[0][1].shape[0]):
        arrays = [array[sample] for _, array in agreed]
        samples.append(compute(formula, arrays, usable_masks({}, LENGTH), np.arange(LENGTH)))
    return float32(np.stack([sample for sample in samples if sample is not None]))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rotary": "neighbours"}, "pairs of the rotary positions: the two halves of a head in torch, neighbouring elements in"),
        ({"base": 5e5}, "base of the rotary positions: 10000 in torch, 500000 in paddle"),
        ({"direction": -1}, "direction of the rotation: by plus the angle in torch, by minus the angle in paddle"),
        ({"rotated": "queries"}, "what is rotated by position: both in torch, queries in paddle"),
        ({"repeated": "tiled"}, "repetition of the key and value heads: each head in a row (repeat_interleave) in torch"),
        ({"mask": "none"}, "mask: causal in torch, none in paddle"),
        ({"mask": "causal and one position more"}, "mask: causal in torch, causal and one position more in paddle"),
        ({"scale": "none"}, "factor of the scores: 1 / sqrt(width of a head) in torch, 1 in paddle"),
        ({"order": (0, 2, 1)}, "query, key and value: a.q_proj, a.k_proj, a.v_proj in torch, a.q_proj, a.v_proj, a.k_proj in"),
        ({"heads": 8, "groups": 4}, "heads: 4 in torch, 8 in paddle"),
        ({"softmax": "queries"}, "softmax of the scores: over the keys (the last axis) in torch, over the queries in"),
    ],
)
def test_the_choice_by_which_attention_differs_is_named(changes: dict[str, object], said: str) -> None:
    agreed = projections()
    ours, theirs = output(LLAMA, agreed), output(replace(LLAMA, **changes), agreed)  # type: ignore[arg-type]
    causes = list(explain_attention("a", agreed, {}, ours, theirs, 0.1))
    assert [cause.code for cause in causes] == ["attention_formula"]
    assert said in causes[0].evidence


def test_two_choices_that_differ_are_both_named() -> None:
    agreed = projections()
    theirs = output(replace(LLAMA, rotary="neighbours", base=5e5), agreed)
    causes = list(explain_attention("a", agreed, {}, output(LLAMA, agreed), theirs, 0.1))
    assert len(causes) == 2 and "pairs" in causes[0].evidence and "base" in causes[1].evidence


def test_a_mask_that_the_module_is_given_and_a_fused_projection_are_known() -> None:
    agreed = projections(WIDTH)
    hidden = np.zeros((2, 1, 1, LENGTH), np.float32)
    hidden[0, ..., 7:] = -np.inf
    plain, arrays = Formula(4, 4, mask="keep"), [array[0] for _, array in agreed]
    masks = usable_masks({"keep": hidden}, LENGTH)
    ours, theirs = (
        float32(compute(formula, arrays, masks, np.arange(LENGTH)))[None]  # type: ignore[arg-type]
        for formula in (plain, replace(plain, mask="none"))
    )
    fused = [("a.qkv", np.concatenate([array[:1] for _, array in agreed], axis=2))]
    causes = list(explain_attention("a", fused, {"keep": hidden}, ours, theirs, 0.1))
    assert len(causes) == 1 and "mask: keep in torch, none in paddle" in causes[0].evidence


def test_attention_that_is_added_to_what_the_code_had_is_told_with_it() -> None:
    agreed = projections()
    before = [(f"a.{place}", float32(RANDOM.normal(size=(2, LENGTH, WIDTH)))) for place in range(3)]
    given = ("what goes into a.norm", float32(RANDOM.normal(size=(2, LENGTH, WIDTH))))
    ours, theirs = (float32(given[1] + output(replace(LLAMA, mask=mask), agreed)) for mask in ("causal", "none"))
    (cause,) = explain_attention("a", [given, *before, *agreed], {}, ours, theirs, 0.1)
    assert cause.evidence == (
        "a: attention of 4 heads on 2 key heads plus what goes into a.norm gives both sides' numbers; "
        "mask: causal in torch, none in paddle"
    )
    assert list(explain_attention("a", [*before, *agreed], {}, ours, theirs, 0.1)) == []


@pytest.mark.parametrize("narrow", [WIDTH, 16])
def test_what_no_weights_can_give_is_not_searched_for(narrow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    agreed = projections(narrow)
    monkeypatch.setattr("stepalign.coordinator.diagnosis.modules.attention_fit.compute", None)
    beyond = 2.0 * float32(RANDOM.normal(size=(2, LENGTH, WIDTH))) + 3.0
    assert list(explain_attention("a", agreed, {}, beyond, 1.5 * beyond, 0.1)) == []


def test_what_is_no_attention_of_the_projections_is_not_called_one() -> None:
    agreed = projections()
    ours = output(LLAMA, agreed)
    other = float32(ours + 0.1 * RANDOM.normal(size=ours.shape))
    assert list(explain_attention("a", agreed, {}, ours, other, 0.1)) == []
    assert list(explain_attention("a", agreed, {}, other, ours, 0.1)) == []


def test_a_gate_that_stands_for_the_other_output_is_told() -> None:
    gate, up, silu = RANDOM.normal(size=(2, 5, 8)), RANDOM.normal(size=(2, 5, 8)), FUNCTIONS["silu"]
    agreed = [("mlp.gate", gate), ("mlp.up", up)]
    (cause,) = explain_gate("mlp", agreed, float32(silu(gate) * up), float32(silu(up) * gate))
    assert cause.code == "gate_swapped"
    assert "torch gives on silu of mlp.gate times mlp.up, paddle silu of mlp.up times mlp.gate" in cause.evidence


def test_another_function_of_the_gate_is_told_and_a_product_of_something_else_is_not() -> None:
    gate, up = RANDOM.normal(size=(2, 5, 8)), RANDOM.normal(size=(2, 5, 8))
    agreed = [("mlp.gate", gate), ("mlp.up", up)]
    ours = float32(FUNCTIONS["silu"](gate) * up)
    (cause,) = explain_gate("mlp", agreed, ours, float32(FUNCTIONS["gelu (erf)"](gate) * up))
    assert cause.code == "activation_function" and "through silu in torch and through gelu (erf) in paddle" in cause.evidence
    assert list(explain_gate("mlp", agreed, ours, 1.5 * ours)) == []


def test_another_position_that_is_taken_of_a_sequence_is_told() -> None:
    x = RANDOM.normal(size=(4, 7, 8))
    ends = np.array([6, 2, 3, 5])
    (cause,) = explain_pooling("text", [("text.norm", x)], x[np.arange(4), ends], x[:, -1])
    assert cause.code == "pooling"
    assert "axis 1 of the output of text.norm torch takes positions 6, 2, 3, 5, paddle position 6 of 7" in cause.evidence
    (cause,) = explain_pooling("text", [("text.norm", x)], x.mean(1), x[:, 0])
    assert "torch takes the mean, paddle position 0 of 7" in cause.evidence


def test_the_last_state_of_both_directions_is_told_from_the_last_position() -> None:
    output, states = RANDOM.normal(size=(4, 7, 8)), RANDOM.normal(size=(2, 4, 4))
    last = np.concatenate([output[:, -1, :4], output[:, 0, 4:]], axis=1)
    agreed = [("embed", RANDOM.normal(size=(4, 7, 8))), ("rnn:0", output), ("rnn:1", states)]
    (cause,) = explain_pooling("text", agreed, float32(last), float32(output[:, -1]))
    assert cause.evidence == (
        "text: along axis 1 of the output of rnn:0 torch takes position 6 of 7 for the first half of the features and "
        "position 0 of 7 for the second, paddle position 6 of 7"
    )
    assert list(explain_pooling("text", agreed, float32(last), float32(last[::-1]))) == []


def test_what_a_module_is_given_is_not_called_an_output() -> None:
    x, up = RANDOM.normal(size=(4, 7, 8)), RANDOM.normal(size=(4, 7, 8))
    (cause,) = explain_pooling("pool", [("what goes into pool", x)], x.mean(1), x[:, 0])
    assert cause.evidence == "pool: along axis 1 of what goes into pool torch takes the mean, paddle position 0 of 7"
    silu, agreed = FUNCTIONS["silu"], [("what goes into mlp", x), ("mlp.up", up)]
    (cause,) = explain_gate("mlp", agreed, float32(silu(x) * up), float32(silu(up) * x))
    assert cause.fix == "apply silu to what goes into mlp in paddle, or exchange the two when loading"


def test_nothing_is_looked_for_in_projections_without_elements() -> None:
    agreed = [*projections(), ("none", np.zeros((2, LENGTH, 0)))]
    assert list(explain_attention("a", agreed, {}, output(LLAMA, agreed[:3]), agreed[0][1], 1.0)) == []


def test_what_is_no_vector_of_a_sequence_is_not_called_one() -> None:
    x = RANDOM.normal(size=(4, 7, 8))
    assert list(explain_pooling("text", [("text.norm", x)], x.mean(1), 1.1 * x.mean(1))) == []
    assert list(explain_pooling("text", [("text.norm", x)], x.mean(1), x.mean(1))) == []


def test_code_is_explained_by_the_formula_that_fits_it() -> None:
    agreed = projections()
    ours, theirs = output(LLAMA, agreed), output(replace(LLAMA, base=5e5), agreed)
    arrays = [(name, array.astype(np.float32)) for name, array in agreed]
    ids = ("a.ids", np.zeros((2, LENGTH), np.int64))
    codes = [cause.code for cause in explain_own_code("a", [ids, *arrays], {}, ours, theirs)]
    assert codes == ["attention_formula"]
    x = RANDOM.normal(size=(4, 7, 8))
    assert [cause.code for cause in explain_own_code("a", [("n", x)], {}, x[:, 0], x.mean(1))] == ["pooling"]
    assert explain_own_code("a", [ids], {}, ours, theirs) == []


@pytest.mark.parametrize(
    ("fused", "said"), [("heads", "value of each head together ([heads, 3, width]) in paddle"), ("numbers", "number by number")]
)
def test_another_layout_of_one_projection_for_all_three_is_told(fused: str, said: str) -> None:
    agreed = [("attn.qkv", float32(RANDOM.normal(size=(2, LENGTH, 3 * WIDTH))))]
    plain = Formula(4, 4)
    thirds = [(str(place), array) for place, array in enumerate(np.split(agreed[0][1], 3, axis=2))]
    ours, theirs = output(plain, thirds), output(replace(plain, fused=fused), thirds)
    causes = explain_own_code("attn", agreed, {}, ours.astype(np.float32), theirs.astype(np.float32))
    assert [cause.code for cause in causes] == ["attention_formula"]
    assert "layout of the one projection: query, key and value of all heads one after the other" in causes[0].evidence
    assert said in causes[0].evidence


GIVEN, ATTENDED, SCALE = (
    float32(RANDOM.normal(size=shape)) for shape in ((2, LENGTH, WIDTH), (2, LENGTH, WIDTH), (WIDTH,))
)
TERMS = [("what goes into block", GIVEN), ("block.attention", ATTENDED)]


@pytest.mark.parametrize(
    ("torch", "paddle", "code", "said"),
    [
        (GIVEN + ATTENDED, ATTENDED, "term_missing", "paddle's is torch's without what goes into block"),
        (ATTENDED, GIVEN + ATTENDED, "term_added", "paddle's is torch's plus what goes into block"),
        (GIVEN + 1e-5 * ATTENDED, GIVEN + ATTENDED, "term_added", "paddle's is torch's plus block.attention"),
        (GIVEN + ATTENDED, GIVEN + 0.5 * ATTENDED, "term_scaled", "torch's minus 0.5 times block.attention"),
        (GIVEN + SCALE * ATTENDED, GIVEN + ATTENDED, "term_scaled", "torch's plus block.attention times a weight for each channel"),
        (GIVEN * 5.0 + ATTENDED[0], GIVEN + ATTENDED[0], "term_scaled", "torch's minus 4 times what goes into block"),
    ],
)
def test_the_term_of_a_sum_by_which_both_sides_differ_is_named(
    torch: np.ndarray, paddle: np.ndarray, code: str, said: str
) -> None:
    (cause,) = explain_own_code("block", TERMS, {}, torch.astype(np.float32), paddle.astype(np.float32))
    assert cause.code == code and cause.evidence.startswith("block: ") and said in cause.evidence, cause
    assert "of the paddle model" in cause.fix


def test_a_term_that_every_sample_shares_is_found_in_its_sum() -> None:
    positions = [("positions", GIVEN[0])]
    (cause,) = explain_own_code("embed", positions, {}, (ATTENDED + GIVEN[0]).astype(np.float32), ATTENDED.astype(np.float32))
    assert cause.code == "term_missing" and cause.evidence == "embed: paddle's is torch's without positions"


@pytest.mark.parametrize(
    ("agreed", "torch", "paddle"),
    [
        (TERMS, GIVEN, GIVEN + ATTENDED * GIVEN),
        (TERMS, GIVEN, GIVEN + float32(RANDOM.normal(size=GIVEN.shape)) * 0.1),
        ([("block.one", GIVEN[:, :1, :1])], GIVEN, GIVEN * 1.5),
        ([("block.short", GIVEN[0, 0, :8])], GIVEN[0, 0, :8], GIVEN[0, 0, :8] * 1.5),
        ([("block.zero", np.zeros_like(GIVEN))], GIVEN, ATTENDED),
    ],
    ids=["a product", "noise", "another shape", "a few elements", "nothing"],
)
def test_no_term_is_named_that_leaves_anything_over(
    agreed: list[tuple[str, np.ndarray]], torch: np.ndarray, paddle: np.ndarray
) -> None:
    assert explain_own_code("block", agreed, {}, torch.astype(np.float32), paddle.astype(np.float32)) == []
