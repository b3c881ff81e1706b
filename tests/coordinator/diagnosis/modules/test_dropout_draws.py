"""What two sides' shared dropout masks say about each other."""

from __future__ import annotations

import pytest

from stepalign.coordinator.diagnosis.modules.dropout_draws import compare_draws
from stepalign.protocol.errors import CaseError

TORCH = {"layers.0#0": (0.1, 8.0, 5.0, 5.0), "layers.0#1": (0.1, 4.0, 5.0, 16.0), "#0": (0.2, 4.0, 16.0)}


def test_equal_masks_are_no_finding() -> None:
    assert compare_draws(TORCH, dict(TORCH)) == []
    assert compare_draws({}, {}) == []


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [
        ((8, 5, 5), (4, 2, 5, 5)),
        ((20, 16), (4, 5, 16)),
        ((4, 80), (4, 5, 16)),
        ((4, 3, 1, 1), (4, 3)),
        ((1, 3, 1), (3, 1)),
    ],
)
def test_axes_that_are_merged_on_one_side_are_no_finding(torch: tuple[float, ...], paddle: tuple[float, ...]) -> None:
    assert compare_draws({"a#0": (0.1, *torch)}, {"a#0": (0.1, *paddle)}) == []
    assert compare_draws({"a#0": (0.1, *paddle)}, {"a#0": (0.1, *torch)}) == []


def test_a_rate_that_paddle_holds_as_float32_is_no_finding() -> None:
    assert compare_draws({"a#0": (0.1, 4.0)}, {"a#0": (0.10000000149, 4.0)}) == []


def test_a_dropout_that_the_port_lacks_is_named_with_its_place_and_rate() -> None:
    found = compare_draws(TORCH, {name: draw for name, draw in TORCH.items() if name != "layers.0#1"})
    assert [(each.cause.category.value, each.cause.code, each.matters) for each in found] == [
        ("randomness", "dropout_calls", True)
    ]
    assert found[0].cause.evidence == "the code of layers.0 drops 2 tensors in torch and 1 in paddle, at rate 0.1"
    assert "add the dropout of rate 0.1" in found[0].cause.fix
    assert (found[0].torch_name, found[0].paddle_name) == ("layers.0", "")


def test_a_dropout_that_the_port_adds_is_named() -> None:
    found = compare_draws({}, {"#0": (0.2, 4.0), "fc#0": (0.2, 4.0)})
    assert found[0].cause.evidence == (
        "the code of the model itself drops 1 tensor in paddle and 0 in torch, at rate 0.2; "
        "altogether 2 dropouts of paddle that torch does not have"
    )
    assert "remove the dropout of rate 0.2" in found[0].cause.fix


def test_another_rate_is_named() -> None:
    found = compare_draws({"fc#0": (0.1, 4.0)}, {"fc#0": (0.5, 4.0)})
    assert [(each.cause.code, each.torch_value, each.paddle_value) for each in found] == [
        ("dropout_rate", "0.1", "0.5")
    ]


def test_another_tensor_is_named() -> None:
    found = compare_draws({"fc#0": (0.1, 4.0, 16.0)}, {"fc#0": (0.1, 4.0, 32.0)})
    assert [each.cause.code for each in found] == ["dropout_calls"]


def test_elements_in_another_order_are_refused_with_what_to_do() -> None:
    with pytest.raises(CaseError, match=r"batch_first=True in torch, or mode = \"eval\""):
        compare_draws({"fc#0": (0.1, 10.0, 8.0, 16.0)}, {"fc#0": (0.1, 8.0, 10.0, 16.0)})
