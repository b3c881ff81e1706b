"""How often each side called the modules that hold weights, and what that says of a loss that differs."""

from __future__ import annotations

import numpy as np

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.diagnosis.place_causes import other_calls
from stepalign.coordinator.running.first_difference import Located
from stepalign.coordinator.running.module_calls import unlike_calls
from stepalign.coordinator.sessions.naming import match_names
from stepalign.protocol.specs import ModuleSpec, TensorSpec

PATHS = ("online", "online.conv", "online.fc", "average", "average.conv", "average.fc", "head")
TENSORS = [
    TensorSpec(f"{path}.weight", "parameter", (3,), "float32", True, path, "Conv2d", "weight") for path in PATHS if "." in path
] + [TensorSpec("head.weight", "parameter", (3,), "float32", True, "head", "Linear", "weight")]
MODULES = [ModuleSpec("", "Net", "Net", True), *(ModuleSpec(path, "M", "M", True) for path in PATHS)]
NAMES = match_names(TENSORS, TENSORS, WeightsSection(), MODULES, MODULES)
ONE = np.zeros(3, np.float32)


def recorded(*calls: str) -> dict[str, np.ndarray]:
    return {"<model>": ONE, **{key: ONE for call in calls for key in (f"{call}@input", call, f"{call}@grad")}}


ENCODER = ("online.conv", "online.fc", "online")
AVERAGE = ("average.conv", "average.fc", "average")
AGAIN = ("online.conv#1", "online.fc#1", "online#1")


def test_modules_that_are_called_as_often_are_not_told_whoever_calls_their_parts() -> None:
    assert unlike_calls(NAMES, recorded(*ENCODER, *AVERAGE, "head"), recorded("online.conv", "online.fc", *AVERAGE, "head")) == ()


def test_the_outermost_module_that_is_called_more_or_less_often_is_told_with_both_counts() -> None:
    found = unlike_calls(NAMES, recorded(*ENCODER, *AVERAGE, "head"), recorded(*ENCODER, *AGAIN, "head"))
    assert dict(found) == {"online": (1, 2), "average": (1, 0)}
    cause = other_calls(Located(None, calls=found))
    assert cause.code == "module_calls" and cause.confidence == 0.8
    assert "online is called once in torch and twice in paddle; average is called once in torch and never" in cause.evidence


def test_a_module_that_one_side_alone_calls_may_be_a_function_on_the_other() -> None:
    found = unlike_calls(NAMES, recorded(*ENCODER, "head"), recorded(*ENCODER))
    assert dict(found) == {"head": (1, 0)}
    assert other_calls(Located(None, calls=found)).confidence < 0.5
