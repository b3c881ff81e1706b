"""Shared dropout masks: the rule, and that each function of both frameworks drops the same elements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stepalign.protocol.errors import CaseError
from stepalign.workers.dropout import SharedMasks, channels

from .in_framework import run_code

# ---------------------------------------------------------------------------------------------- the rule


def masks(seed: int = 0, step: int = 0, **places: str) -> SharedMasks:
    found = SharedMasks(seed)
    found.name_places({path.replace("_", "."): name for path, name in places.items()})
    found.begin_step(step)
    return found


def test_a_mask_depends_on_seed_step_place_and_call_alone() -> None:
    def draw(seed: int = 0, step: int = 0, module: str = "a", call: int = 0) -> bytes:
        found = masks(seed, step, a="a", b="b")
        found.enter_module(module)
        return [found.keep((8, 16), 0.5) for _ in range(call + 1)][-1].tobytes()

    assert draw() == draw()
    others = [draw(seed=1), draw(step=1), draw(module="b"), draw(call=1)]
    assert len({draw(), *others}) == 5


def test_masks_of_one_size_are_one_mask_whatever_their_shape() -> None:
    assert np.array_equal(masks().keep((6, 5, 5), 0.3), masks().keep((2, 3, 5, 5), 0.3).reshape(6, 5, 5))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_of_kept_elements_is_one_minus_the_rate(rate: float) -> None:
    kept = masks().keep((1 << 18,), rate)
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / kept.size)


def test_the_rule_is_fixed() -> None:
    """The words of a mask are part of what a run can be repeated from."""
    kept = masks(seed=7, step=3).keep((24,), 0.5)
    assert "".join("x" if value else "." for value in kept) == "xxxx..xx....xx.x...x.xx."


def test_kept_elements_are_scaled_and_nothing_is_kept_at_a_rate_of_one() -> None:
    assert set(np.unique(masks().factors((100,), 0.2))) == {0.0, 1.25}
    assert set(np.unique(masks().factors((100,), 0.2, upscale=False))) == {0.0, 1.0}
    assert not masks().factors((100,), 1.0).any()
    assert not np.any(masks().alpha_terms((100,), 1.0))


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    values = np.random.default_rng(0).standard_normal(1 << 18)
    factors, terms = masks().alpha_terms(values.shape, 0.2)
    dropped = values * factors + terms
    assert abs(dropped.mean()) < 0.02 and abs(dropped.var() - 1.0) < 0.02


def test_a_module_without_a_place_counts_with_the_nearest_around_it() -> None:
    found = masks(block="layer")
    for path in ("", "block", "block.drop"):
        found.enter_module(path)
    found.keep((2, 3), 0.1)
    found.leave_module()
    found.keep((4,), 0.2)
    found.leave_module()
    found.keep((5,), 0.3)
    assert found.drawn == {"layer#0": (0.1, 2.0, 3.0), "layer#1": (0.2, 4.0), "#0": (0.3, 5.0)}


def test_a_step_begins_with_no_mask_drawn() -> None:
    found = masks()
    first = found.keep((64,), 0.5)
    found.begin_step(0)
    assert found.drawn == {} and np.array_equal(found.keep((64,), 0.5), first)


def test_activations_that_are_computed_again_in_backward_are_refused() -> None:
    found = masks()
    found.enter_module("encoder.layers.0")
    found.enter_phase("backward")
    with pytest.raises(CaseError, match=r"'encoder\.layers\.0' computes its dropout again in backward"):
        found.keep((2,), 0.1)


def test_channels_are_dropped_whole() -> None:
    assert channels((4, 3, 5, 5), True) == (4, 3, 1, 1) and channels((3, 5), False) == (3, 1)


# ---------------------------------------------------------------------------------------------- both frameworks

CODE = """
from stepalign.workers.dropout import SharedMasks

plain = F.scaled_dot_product_attention
shared = SharedMasks(3)
dropout.replace_dropout(shared)
shared.begin_step(0)
x = tensor(np.arange(1, 49, dtype="float32").reshape(2, 3, 2, 4) / 10)
wide = tensor(np.arange(1, 49, dtype="float64").reshape(2, 3, 2, 4) / 10)

class Own(Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Dropout(0.4)

    def forward(self, x):
        return self.inside(x) + F.dropout(x, 0.4, training=self.training)

two_d, three_d = (nn.Dropout2d, nn.Dropout3d) if side == "torch" else (nn.Dropout2D, nn.Dropout3D)
own = Own()
dropout.follow_modules(own, shared, {"": "own"})
results["module and function"] = own(x)
own.eval()
results["eval"] = own(x)
results["function"] = F.dropout(x, p=0.3)
results["off"] = F.dropout(x, 0.3, training=False)
results["float64"] = F.dropout(wide, 0.3)
results["all"] = F.dropout(x, 1.0)
results["2d"] = two_d(0.5)(x)
results["3d"] = three_d(0.5)(x[None])
results["alpha"] = nn.AlphaDropout(0.3)(x)
results["alpha channels"] = F.feature_alpha_dropout(x, 0.3, True)

def attend(rate, function=None, **arguments):
    q, k, v = (np.random.default_rng(seed).standard_normal((2, 2, 5, 4)).astype("float32") for seed in range(3))
    turn = (lambda array: array) if side == "torch" else (lambda array: array.swapaxes(1, 2))
    called = function or F.scaled_dot_product_attention
    return turn(called(*(tensor(np.ascontiguousarray(turn(array))) for array in (q, k, v)), dropout_p=rate,
    **arguments))

keep = tensor(np.tril(np.ones((5, 5), bool)))
score = tensor(np.random.default_rng(9).standard_normal((5, 5)).astype("float32"))
masked = {"plain": {}, "mask": {"attn_mask": keep}, "score": {"attn_mask": score}, "causal": {"is_causal": True}}
for name, arguments in masked.items():
    results["attention " + name] = attend(0.3, **arguments)
    results["formula " + name] = attend(1e-12, **arguments) - attend(0.0, plain, **arguments)
if side == "torch":
    attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
else:
    attention = nn.MultiHeadAttention(4, 2, dropout=0.5)
dropout.follow_modules(attention, shared, {"": "attention"})
sequence = tensor(np.random.default_rng(0).standard_normal((3, 5, 4)).astype("float32"))
attention(sequence, sequence, sequence)
attention(sequence, sequence, sequence, **({"need_weights": False} if side == "torch" else {}))
for name, draw in shared.drawn.items():
    print(name, draw[0], int(np.prod(draw[1:])))
try:
    dropout.follow_modules(nn.Sequential(nn.LSTM(3, 3, 2, dropout=0.1)), shared, {})
except Exception as error:
    results["refused"] = np.array(type(error).__name__ + " " + str(error))
try:
    framework.dropout(x, 0.3, True) if side == "torch" else framework.incubate.nn.functional.fused_dropout_add(x, x,
    0.3)
except Exception as error:
    results["kernel"] = np.array(type(error).__name__ + " " + str(error))
results = {name: value if isinstance(value, np.ndarray) else value.detach().numpy() for name, value in results.items()}
"""

Results = tuple[dict[str, np.ndarray], dict[str, np.ndarray], tuple[str, str]]


@pytest.fixture(scope="module")
def both(torch_python: Path, paddle_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return torch's results, paddle's, and the masks that each says it drew."""
    arrays, printed = [], []
    for side, python in (("torch", torch_python), ("paddle", paddle_python)):
        text, saved = run_code(python, side, CODE, tmp_path_factory.mktemp(side))
        printed.append(text)
        with np.load(saved) as found:
            arrays.append(dict(found))
    return arrays[0], arrays[1], (printed[0], printed[1])


@pytest.mark.parametrize(
    "name", ["module and function", "eval", "function", "off", "float64", "all", "2d", "3d", "alpha", "alpha channels"]
)
def test_every_dropout_gives_the_same_numbers_on_both_sides(both: Results, name: str) -> None:
    torch, paddle = both[0][name], both[1][name]
    assert torch.dtype == paddle.dtype and np.array_equal(torch, paddle)


def test_elements_are_dropped_in_training_only(both: Results) -> None:
    original = np.arange(1, 49, dtype=np.float32).reshape(2, 3, 2, 4) / 10
    assert np.array_equal(both[0]["off"], original) and np.array_equal(both[0]["eval"], original * 2)
    assert 0 < np.count_nonzero(both[0]["function"]) < 48 and not both[0]["all"].any()
    assert np.array_equal(both[0]["2d"].any((2, 3)), both[0]["2d"].all((2, 3)))


@pytest.mark.parametrize("name", ["plain", "mask", "score", "causal"])
def test_attention_with_dropout_is_the_same_on_both_sides_and_the_formula_is_the_kernels(
    both: Results, name: str
) -> None:
    assert np.abs(both[0][f"attention {name}"] - both[1][f"attention {name}"]).max() < 1e-6
    assert max(np.abs(side[f"formula {name}"]).max() for side in both[:2]) < 1e-6


def test_both_sides_draw_the_same_masks_in_the_same_places(both: Results) -> None:
    torch, paddle = (text.splitlines() for text in both[2])
    assert torch == paddle
    assert torch[:2] == ["own#0 0.4 48", "own#1 0.4 48"]
    assert [line for line in torch if line.startswith("attention")] == ["attention#0 0.5 150", "attention#1 0.5 150"]


def test_what_drops_inside_a_kernel_is_refused_by_name(both: Results) -> None:
    for side, kernel in ((both[0], "torch.dropout"), (both[1], "fused_dropout_add")):
        assert "CaseError 0 (LSTM) drops elements between its layers" in str(side["refused"])
        assert "CaseError" in str(side["kernel"]) and kernel in str(side["kernel"])
