"""Where a divergence starts, from what both sides recorded: plain arrays, no worker."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional

import numpy as np
import pytest

from stepalign.coordinator.cases.case import Case, CaseFile, DataSection, SideSection
from stepalign.coordinator.running.locate import Located, call_of, find_first, module_of
from stepalign.coordinator.sessions.naming import NameMap

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


def test_an_output_of_another_layout_is_passed_over_if_a_later_one_agrees() -> None:
    torch, paddle = recorded(), recorded()
    paddle["embed"] = paddle["embed"].T.copy()
    paddle["head"] = paddle["head"] + np.float32(0.5)
    paddle["<model>"] = paddle["<model>"] + np.float32(0.5)
    located = find_first(CASE, NameMap((), tuple((path, path) for path in ("", *PATHS))), torch, paddle, 0)
    assert located is not None and located.module == "head"
