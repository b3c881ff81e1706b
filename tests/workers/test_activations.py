"""What a forward leaves behind: inputs before modules run, outputs as they end, gradients from the loss back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .in_framework import run_code

CODE = """
class Net(Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(3, 3))

    def forward(self, scale, *, x):
        z = self.a(self.a(x))
        z.add_(tensor(np.ones((2, 3), "float32")))
        return self.last(z) * scale


net = Net()
with activations.record_activations(net, ("*",), gradients=True) as recorded:
    net(2.0, x=tensor(np.ones((2, 3), "float32"))).sum().backward()
print(" ".join(recorded))
print(recorded["a#1@input"] is recorded["a"], recorded["last.0@input"] is recorded["last@input"])
with activations.record_activations(net, ("last*",)) as some:
    net(2.0, x=tensor(np.ones((2, 3), "float32")))
print(" ".join(some))


class Given(Module):
    def forward(self, x, mask=None, *rest, **further):
        return x * 1.0


given = Given()
x, y = (tensor(np.full((2, 3), value, "float32")) for value in (1.0, 2.0))
ways = {
    "place": lambda: given(x, y),
    "name": lambda: given(x, mask=y),
    "names": lambda: given(mask=y, x=x),
    "none": lambda: given(x, None),
    "rest": lambda: given(x, None, (x, y), bias={"a": y, "b": 2.0}),
    "again": lambda: given(given(x, y), x),
}
for way, call in ways.items():
    with activations.record_activations(given, ("*",)) as taken:
        call()
    print(" ".join(key for key in taken if "@" in key))
    results.update({f"{way} {key}": array for key, array in taken.items()})
results.update(recorded)
"""

ORDER = (
    "<model>@input a@input a a#1@input a#1 last@input last.0@input last.0 last.1@input last.1 last <model> "
    "<model>@grad last.1@grad last@grad last.0@grad a#1@grad a@grad"
)


@pytest.fixture(scope="module", params=["torch", "paddle"])
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return what the code printed, by line, and the arrays that it recorded."""
    python: Path = request.getfixturevalue(f"{request.param}_python")
    printed, saved = run_code(python, request.param, CODE, tmp_path_factory.mktemp(request.param))
    with np.load(saved) as arrays:
        return printed.splitlines(), dict(arrays)


Recorded = tuple[list[str], dict[str, np.ndarray]]


def test_an_input_comes_before_what_is_inside_its_module_and_an_output_after_it(recorded: Recorded) -> None:
    forward = [key for key in recorded[0][0].split() if not key.endswith("@grad")]
    assert forward == ORDER.split()[: len(forward)]


def test_gradients_come_from_the_loss_back(recorded: Recorded) -> None:
    gradients = [key for key in recorded[0][0].split() if key.endswith("@grad")]
    assert sorted(gradients) == sorted(ORDER.split()[-len(gradients) :])
    assert gradients.index("<model>@grad") < gradients.index("last.0@grad") < gradients.index("a@grad")


def test_the_first_tensor_that_a_module_was_given_is_its_input_named_or_not(recorded: Recorded) -> None:
    assert np.array_equal(recorded[1]["<model>@input"], np.ones((2, 3), np.float32))
    assert np.array_equal(recorded[1]["a@input"], recorded[1]["<model>@input"])


def test_what_is_changed_in_place_on_its_way_shows_in_the_input_and_not_in_the_output(recorded: Recorded) -> None:
    assert np.allclose(recorded[1]["last@input"] - recorded[1]["a#1"], 1.0)


def test_what_one_module_returns_and_the_next_is_given_is_copied_once(recorded: Recorded) -> None:
    assert recorded[0][1] == "True True"


def test_only_modules_that_are_asked_for_are_recorded(recorded: Recorded) -> None:
    assert recorded[0][2] == "last@input last.0@input last.0 last.1@input last.1 last"


def test_every_tensor_that_a_module_was_given_is_recorded_by_its_argument_however_it_was_passed(recorded: Recorded) -> None:
    place, name, names, none, rest, again = recorded[0][3:9]
    assert place == name == names == "<model>@input <model>@input:mask"
    assert none == "<model>@input"
    assert rest == "<model>@input <model>@input:2:0 <model>@input:2:1 <model>@input:bias:a"
    assert again == "<model>@input <model>@input:mask <model>#1@input <model>#1@input:mask"
    for way in ("place", "name", "names"):
        assert np.all(recorded[1][f"{way} <model>@input"] == 1.0)
        assert np.all(recorded[1][f"{way} <model>@input:mask"] == 2.0)
