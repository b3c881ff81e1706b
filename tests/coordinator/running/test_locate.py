"""Where a divergence starts, from what both sides recorded: plain arrays, no worker."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional

import numpy as np
import pytest

from stepalign.coordinator.cases.case import Case, CaseFile, DataSection, SideSection
from stepalign.coordinator.diagnosis.place_causes import other_order
from stepalign.coordinator.running.activation_names import call_of, input_partners, module_of
from stepalign.coordinator.running.first_difference import Located, find_first
from stepalign.coordinator.running.locate import is_loss
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import StepResult

CASE = Case(Path("."), CaseFile(SideSection("t.py"), SideSection("p.py"), DataSection("data.npz")))
PATHS = ("embed", "layers", "layers.0", "layers.0.attn", "layers.0.attn.out", "layers.0.fc1", "layers.0.fc2", "head")
FORWARD = (
    "<model>@input",
    *("embed@input", "embed"),
    "layers.0@input",
    *("layers.0.attn@input", "layers.0.attn.out@input", "layers.0.attn.out", "layers.0.attn"),
    *("layers.0.fc1@input", "layers.0.fc1", "layers.0.fc2@input", "layers.0.fc2"),
    "layers.0",
    *("head@input", "head"),
    "<model>",
)


def recorded(order: tuple[str, ...] = FORWARD) -> Dict[str, np.ndarray]:
    """Return one array for each name, all different."""
    return {key: np.random.default_rng(number).standard_normal((2, 3), np.float32) for number, key in enumerate(order)}


def find(changed_from: Optional[str], *agreeing: str, renamed: str = "") -> Optional[Located]:
    """Return what is found when every array from one name on differs, save some."""
    torch, paddle = recorded(), recorded()
    differing = FORWARD[FORWARD.index(changed_from) :] if changed_from else ()
    for key in differing:
        if key not in agreeing:
            paddle[key] = paddle[key] + np.float32(0.5)
    theirs = {path: path.replace("layers", renamed) if renamed else path for path in PATHS}
    paddle = {key.replace("layers", renamed) if renamed else key: array for key, array in paddle.items()}
    return find_first(CASE, NameMap((), (("", ""), *theirs.items())), torch, paddle, 0)


def test_a_name_is_taken_apart_into_module_and_call() -> None:
    assert module_of("encoder.0#1:0@grad") == "encoder.0" and call_of("encoder.0#1:0@grad") == "encoder.0#1"
    assert module_of("<model>@input") == "" and call_of("<model>@input") == "<model>"


def test_nothing_is_found_where_everything_agrees() -> None:
    assert find(None) is None


def test_a_module_whose_input_agrees_is_to_blame() -> None:
    located = find("layers.0.fc1")
    assert located is not None and located.first is not None
    assert (located.module, located.input_agrees, located.container, located.stretch) == (
        "layers.0.fc1",
        True,
        None,
        "",
    )
    assert located.first.torch_name == "layers.0.fc1" and located.last_good == "layers.0.attn"
    assert located.inputs is not None and np.array_equal(*located.inputs)


def test_a_container_whose_own_code_goes_wrong_after_its_last_module_is_to_blame() -> None:
    located = find("layers.0.attn", "layers.0.attn.out")
    assert located is not None and (located.module, located.input_agrees) == ("layers.0.attn", True)


def test_an_input_that_differs_after_outputs_that_agree_blames_the_code_between_two_modules() -> None:
    located = find("layers.0.fc2@input")
    assert located is not None and located.first is not None
    assert (located.container, located.module, located.last_good) == ("layers.0", "layers.0.fc2", "layers.0.fc1")
    assert located.first.torch_name == "layers.0.fc2@input" and not located.input_agrees
    assert located.stretch == "in the code of layers.0, after layers.0.fc1 and before the call of layers.0.fc2"
    assert located.stretch in located.first.reason
    torch = recorded()
    assert located.inputs is not None and np.array_equal(located.inputs[0], torch["layers.0.fc1"])
    assert located.outputs is not None and not np.array_equal(*located.outputs)


def test_what_the_code_that_is_to_blame_had_before_is_known() -> None:
    order = (
        *("<model>@input", "embed@input", "embed", "attn@input", "attn@input:mask", "attn.q@input", "attn.q"),
        *("attn.k@input", "attn.k", "attn.out@input", "attn.out", "attn", "<model>"),
    )
    paths = ("embed", "attn", "attn.q", "attn.k", "attn.out")
    for changed in ("attn.out@input", "attn"):
        torch, paddle = recorded(order), recorded(order)
        for side in (torch, paddle):
            side["attn.q@input"] = side["attn@input"]
        for key in order[order.index(changed) :]:
            paddle[key] = paddle[key] + np.float32(0.5)
        located = find_in(torch, paddle, *paths)
        assert located is not None
        inside = ["attn.q", "attn.k"] if changed == "attn.out@input" else ["attn.q", "attn.k", "attn.out"]
        given = ["what goes into attn.k", *(["what goes into attn.out"] if changed == "attn" else [])]
        assert [name for name, _ in located.agreed] == ["what goes into attn", *given, *inside]
        assert [name for name, _ in located.given] == ["mask"]
        assert np.array_equal(dict(located.agreed)["attn.k"], torch["attn.k"])


def test_what_modules_inside_others_are_given_is_not_what_the_code_around_them_had() -> None:
    order = (
        *("<model>@input", "block@input", "block.norm@input", "block.norm", "block.fc@input", "block.fc", "block"),
        *("norm@input", "norm", "head@input", "head", "<model>"),
    )
    torch, paddle = recorded(order), recorded(order)
    for key in order[order.index("head@input") :]:
        paddle[key] = paddle[key] + np.float32(0.5)
    located = find_in(torch, paddle, "block", "block.norm", "block.fc", "norm", "head")
    assert located is not None and located.module == "head"
    names = [name for name, _ in located.agreed]
    assert names[:3] == ["what goes into the model itself", "what goes into block", "what goes into norm"]
    assert names[3:] == ["block.norm", "block.fc", "block", "norm"]


def test_the_outermost_input_that_differs_counts() -> None:
    located = find("layers.0@input")
    assert located is not None
    assert (located.container, located.module, located.last_good) == ("", "layers.0", "embed")
    assert located.stretch == "in the code of the model itself, after embed and before the call of layers.0"


def test_a_container_that_changes_its_input_before_its_first_module_is_named() -> None:
    located = find("layers.0.attn@input")
    assert located is not None
    assert (located.container, located.module, located.last_good) == ("layers.0", "layers.0.attn", "layers.0@input")
    assert located.stretch.startswith("in the code of layers.0, after what goes into layers.0 and before")


def test_a_container_that_has_ended_is_not_the_caller() -> None:
    located = find("head@input")
    assert located is not None and (located.container, located.last_good) == ("", "layers.0")


def test_a_model_that_is_given_something_else_blames_the_loss_function() -> None:
    located = find("<model>@input")
    assert located is not None
    assert located.container == "loss(model, batch)" and located.module == "" and located.last_good == ""
    assert (
        located.stretch
        == "in the code of loss(model, batch), from its beginning and before the call of the model itself"
    )


def test_the_place_is_told_by_paddles_names() -> None:
    located = find("layers.0.fc2@input", renamed="blocks")
    assert located is not None and located.first is not None
    assert (located.container, located.paddle_container) == ("layers.0", "blocks.0")
    assert (located.module, located.paddle_module) == ("layers.0.fc2", "blocks.0.fc2")
    assert located.first.paddle_name == "blocks.0.fc2@input"
    assert located.stretch == "in the code of blocks.0, after blocks.0.fc1 and before the call of blocks.0.fc2"


@pytest.mark.parametrize("change", ["dtype", "shape"])
def test_an_input_of_another_dtype_or_shape_says_nothing(change: str) -> None:
    torch, paddle = recorded(), recorded()
    for key in ("embed", "<model>"):
        paddle[key] = paddle[key] + np.float32(1.0)
    for key in ("<model>@input", "embed@input"):
        paddle[key] = paddle[key].astype(np.float64) if change == "dtype" else paddle[key].T
    located = find_first(CASE, NameMap((), (("", ""), ("embed", "embed"))), torch, paddle, 0)
    assert located is not None and (located.module, located.input_agrees, located.container) == ("embed", None, None)


def test_the_second_call_of_a_module_is_judged_by_its_own_input() -> None:
    order = ("<model>@input", "fc@input", "fc", "fc#1@input", "fc#1", "<model>")
    torch, paddle = recorded(order), recorded(order)
    for key in order[3:]:
        paddle[key] = paddle[key] * np.float32(2.0)
    located = find_first(CASE, NameMap((), (("", ""), ("fc", "fc"))), torch, paddle, 0)
    assert located is not None and located.first is not None
    assert (located.first.torch_name, located.container, located.last_good) == ("fc#1@input", "", "fc")


def test_gradients_are_searched_from_the_loss_back_where_outputs_agree() -> None:
    order = (*FORWARD, "head@grad", "layers.0.fc2@grad", "layers.0.fc1@grad")
    torch, paddle = recorded(order), recorded(order)
    for key in order[-2:]:
        paddle[key] = paddle[key] * np.float32(2.0)
    located = find_first(CASE, NameMap((), (("", ""), *((path, path) for path in PATHS))), torch, paddle, 0)
    assert located is not None and (located.module, located.backward, located.container) == ("layers.0.fc2", True, None)
    assert [name for name, _ in located.further] == ["head"] and np.array_equal(located.further[0][1], torch["head@grad"])


def test_an_output_of_another_layout_is_passed_over_if_a_later_one_agrees() -> None:
    torch, paddle = recorded(), recorded()
    paddle["embed"] = paddle["embed"].T.copy()
    paddle["head"] = paddle["head"] + np.float32(0.5)
    paddle["<model>"] = paddle["<model>"] + np.float32(0.5)
    located = find_first(CASE, NameMap((), tuple((path, path) for path in ("", *PATHS))), torch, paddle, 0)
    assert located is not None and located.module == "head"


def find_in(torch: Dict[str, np.ndarray], paddle: Dict[str, np.ndarray], *paths: str) -> Optional[Located]:
    """Return what is found where both sides have the same modules."""
    return find_first(CASE, NameMap((), (("", ""), *((path, path) for path in paths))), torch, paddle, 0)


def test_another_input_that_differs_blames_who_gives_it_and_not_the_code_inside() -> None:
    order = ("<model>@input", "<model>@input:t", "<model>@input:y", "time@input", "time", "label@input", "label", "<model>")
    torch, paddle = recorded(order), recorded(order)
    for key in ("<model>@input:y", "label@input", "label", "<model>"):
        paddle[key] = paddle[key] + np.float32(0.5)
    located = find_in(torch, paddle, "time", "label")
    assert located is not None and located.first is not None
    assert (located.first.torch_name, located.container) == ("<model>@input:y", "loss(model, batch)")
    assert located.stretch.startswith("in the code of loss(model, batch), from its beginning")


def test_a_module_that_is_given_another_mask_is_not_to_blame() -> None:
    order = ("<model>@input", "embed@input", "embed", "attn@input", "attn@input:mask", "attn", "<model>")
    torch, paddle = recorded(order), recorded(order)
    for key in ("attn@input:mask", "attn", "<model>"):
        paddle[key] = paddle[key] + np.float32(0.5)
    located = find_in(torch, paddle, "embed", "attn")
    assert located is not None and located.first is not None
    assert (located.first.torch_name, located.container, located.last_good) == ("attn@input:mask", "", "embed")


def test_inputs_belong_together_by_name_and_else_by_place() -> None:
    torch = ("fc@input", "fc@input:mask", "fc@input:length", "lstm@input", "lstm@input:hx:0", "lstm@input:hx:1")
    paddle = ("fc@input", "fc@input:length", "fc@input:mask", "lstm@input", "lstm@input:states:0")
    assert input_partners(torch, paddle, {"fc": "fc", "lstm": "lstm"}) == {
        "fc@input:mask": "fc@input:mask",
        "fc@input:length": "fc@input:length",
        "lstm@input:hx:0": "lstm@input:states:0",
    }


FLAGS = np.array([[True, False, False], [True, True, False]])
ADDED = np.where(FLAGS, np.float32(-np.inf), np.float32(0.0))


@pytest.mark.parametrize(
    ("masks", "unlike"),
    [
        ((FLAGS, ~FLAGS), ("mask",)),
        ((FLAGS.astype(np.float32), (~FLAGS).astype(np.float32)), ("mask",)),
        ((FLAGS, FLAGS[:, None]), ("mask",)),
        ((FLAGS, ADDED), ("mask",)),
        ((FLAGS, None), ("mask",)),
        ((None, FLAGS), ("mask",)),
        ((ADDED, np.maximum(ADDED, np.float32(-1e9))), ()),
        ((FLAGS, FLAGS), ()),
    ],
)
def test_a_mask_that_is_written_in_another_way_is_no_difference(masks: tuple[object, object], unlike: tuple[str, ...]) -> None:
    sides = []
    for mask in masks:
        side = recorded(("<model>@input", "attn@input", "mask", "attn", "<model>"))
        side = {("attn@input:mask" if key == "mask" else key): array for key, array in side.items()}
        side["attn@input:mask"] = mask  # type: ignore[assignment]
        sides.append({key: array for key, array in side.items() if array is not None})
    sides[1]["attn"] = sides[1]["attn"] * np.float32(2.0)
    sides[1]["<model>"] = sides[1]["<model>"] * np.float32(2.0)
    located = find_in(*sides, "attn")
    assert located is not None and (located.module, located.container, located.input_agrees) == ("attn", None, True)
    assert located.unlike == unlike


def test_another_mask_of_the_same_kind_is_a_difference() -> None:
    for mask in (FLAGS, ADDED):
        other = mask.copy()
        other[0, 0], other[0, 1] = mask[0, 1], mask[0, 0]
        torch, paddle = recorded(("attn@input", "attn")), recorded(("attn@input", "attn"))
        torch = {"attn@input": torch["attn@input"], "attn@input:mask": mask, "attn": torch["attn"]}
        paddle = {"attn@input": paddle["attn@input"], "attn@input:mask": other, "attn": paddle["attn"] * 2}
        located = find_in(torch, paddle, "attn")
        assert located is not None and located.first is not None and located.first.torch_name == "attn@input:mask"


def test_a_container_whose_modules_all_agree_goes_wrong_after_the_last_of_them() -> None:
    located = find("layers.0", renamed="blocks")
    assert located is not None and (located.module, located.last_inside) == ("layers.0", "blocks.0.fc2")
    located = find("<model>")
    assert located is not None and (located.module, located.last_inside, located.part) == ("", "head", "")
    located = find("layers.0.fc1")
    assert located is not None and located.last_inside == ""


GAN = (
    *("G@input", "G", "D@input", "D", "D@grad", "G@grad", "@update:1"),
    *("D#1@input", "D#1", "D#1@grad", "@update:0"),
)


def gan(*differing: str) -> Optional[Located]:
    torch, paddle = recorded(GAN), recorded(GAN)
    for key in differing:
        paddle[key] = paddle[key] * np.float32(2.0)
    return find_in(torch, paddle, "G", "D")


def test_what_is_called_after_an_update_in_the_same_step_is_marked() -> None:
    located = gan("D#1", "D#1@grad")
    assert located is not None and (located.module, located.updated, located.backward) == ("D", "D", False)
    located = gan("D", "D#1")
    assert located is not None and (located.last_good, located.updated) == ("G", None)


def test_a_gradient_that_differs_before_an_update_comes_before_outputs_after_it() -> None:
    located = gan("G@grad", "D#1", "D#1@grad")
    assert located is not None and (located.module, located.updated, located.backward) == ("G", "D", True)
    located = gan("G@grad")
    assert located is not None and (located.module, located.updated, located.backward) == ("G", None, True)


@pytest.mark.parametrize("silent", ["torch", "paddle"])
def test_a_gradient_that_one_side_alone_has_is_the_first_difference(silent: str) -> None:
    order = ("fc@input", "fc", "<model>:0", "<model>:1", "<model>:0@grad", "<model>:1@grad", "fc@grad")
    torch, paddle = recorded(order), recorded(order)
    paddle["fc@grad"] = paddle["fc@grad"] * np.float32(2.0)
    del (torch if silent == "torch" else paddle)["<model>:1@grad"]
    located = find_in(torch, paddle, "fc")
    assert located is not None and (located.silent, located.silent_output) == (silent, "<model>:1")
    assert located.way_back == f"going back from the loss, nothing flows back to the output <model>:1 on the {silent} side"


def test_of_modules_that_hand_one_output_on_the_outermost_is_named() -> None:
    order = ("body.fc@input", "body.fc", "body", "<model>", "body.fc@grad", "body@grad")
    torch = recorded(order)
    torch["body"] = torch["body.fc"]
    located = find_in(torch, {key: array for key, array in torch.items() if "@grad" not in key}, "body", "body.fc")
    assert located is not None and (located.module, located.silent) == ("body", "paddle")


def test_a_gradient_of_noise_and_one_that_another_call_has_are_not_missed() -> None:
    order = ("fc@input", "fc", "fc#1@input", "fc#1", "fc#1@grad", "fc@grad")
    torch, paddle = recorded(order), recorded(order)
    paddle["fc@grad"] = paddle["fc@grad"] * np.float32(2.0)
    noise = {**torch, "fc@grad": np.full((2, 3), 1e-9, np.float32)}
    assert find_in(noise, {key: array for key, array in torch.items() if key != "fc@grad"}, "fc") is None
    again = [{key: array for key, array in torch.items() if key != gone} for gone in ("fc@grad", "fc#1@grad")]
    assert find_in(*again, "fc") is None


def pair_of(torch: float, paddle: float) -> StepPair:
    results = [StepResult(0, [], np.array(loss, np.float32), "", {}, (), 0.0) for loss in (torch, paddle)]
    return StepPair(0, *results, "")


@pytest.mark.parametrize(
    ("key", "losses", "expected"),
    [("<model>", (0.5, 0.7), True), ("<model>:loss", (3.0, 4.0), True), ("<model>:3", (0.5, 0.7), False)],
)
def test_a_scalar_among_what_the_model_returns_is_its_loss_only_if_it_has_that_value(
    key: str, losses: tuple[float, float], expected: bool
) -> None:
    values = np.array([3.0], np.float32), np.array([4.0], np.float32)
    located = find_in({key: values[0]}, {key: values[1]})
    assert located is not None and is_loss(located, pair_of(*losses)) is expected


PRE_NORM = ("block@input", "block.norm@input", "block.norm", "block.fc@input", "block.fc", "block", "head@input", "head")
POST_NORM = ("block@input", "block.fc@input", "block.fc", "block.norm@input", "block.norm", "block", "head@input", "head")


def find_unlike(ours: tuple[str, ...], theirs: tuple[str, ...], agreeing: tuple[str, ...], *paths: str) -> Located:
    """Return what is found where the two sides call modules in other orders and only some of what they have agrees."""
    numbers = recorded((*ours, *(key for key in theirs if key not in ours)))
    torch = {key: numbers[key] for key in ours}
    paddle = {key: numbers[key] if key in agreeing else numbers[key] + np.float32(0.5) for key in theirs}
    located = find_in(torch, paddle, *paths)
    assert located is not None
    return located


def test_a_norm_that_the_port_calls_after_what_it_should_come_before_is_told() -> None:
    located = find_unlike(PRE_NORM, POST_NORM, ("block@input",), "block", "block.norm", "block.fc", "head")
    assert (located.container, located.paddle_module) == ("block", "block.norm")
    assert located.sooner == ((), ("block.fc",))
    (cause,) = other_order(located)
    assert cause.code == "call_order" and cause.evidence == (
        "in block, block.fc is called before block.norm in paddle and after it in torch"
    )


def test_another_order_in_torch_is_told_too_and_of_nested_modules_the_outermost() -> None:
    order = ("a@input", "a.b@input", "a.b", "a", "c@input", "c")
    located = find_unlike(order, (*order[4:], *order[:4]), order[:4], "a", "a.b", "c")
    assert located.paddle_module == "c" and located.sooner == (("a", "a.b"), ())
    (cause,) = other_order(located)
    assert "a is called before c in torch and after it in paddle" in cause.evidence and "a.b" not in cause.evidence


def test_modules_that_one_side_alone_calls_or_that_both_called_before_are_no_other_order() -> None:
    ours = ("block@input", "block.q@input", "block.q", "block.k@input", "block.k", "block.out@input", "block.out", "block")
    theirs = ("block@input", "block.k@input", "block.k", "block.act@input", "block.act", *ours[1:3], *ours[5:])
    agreeing = ("block@input", *ours[1:5])
    located = find_unlike(ours, theirs, agreeing, "block", "block.q", "block.k", "block.out")
    assert located.paddle_module == "block.out" and located.sooner == ((), ())
    assert other_order(located) == []


def test_what_stands_behind_the_code_that_is_to_blame_is_no_other_order() -> None:
    ours = ("a@input", "a.x@input", "a.x", "a", "b@input", "b")
    located = find_unlike(ours, ("b@input", "b", *ours[:4]), ("a@input", "b@input", "b"), "a", "a.x", "b")
    assert located.container == "a" and located.sooner == ((), ())
