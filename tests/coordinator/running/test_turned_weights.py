"""Square matrices that paddle is given the wrong way round: found by turning them, with both real frameworks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stepalign.coordinator.cases.case import Case, CaseFile, DataSection, SideSection, WeightsSection
from stepalign.coordinator.running.turned_weights import glob_of, goes_further, own_matrices, trials, turned
from stepalign.coordinator.sessions.naming import NameMap, match_names
from stepalign.protocol.specs import Declaration, ModuleSpec, OptimizerSpec, TensorSpec

from ..real_cases import Ended, run, write_case

TORCH = """\
import torch
from torch import nn
from stepalign.workers import Training


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.mix = nn.Parameter(torch.randn(6, 6))
        self.gate = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        h = self.norm(x)
        return x + torch.tanh(h @ self.mix.T) * torch.sigmoid(h @ self.gate)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.blocks(x))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def build(case):
    model = Net()
    return Training(model=model, loss=loss, optimizer=torch.optim.Adam(model.parameters(), lr=1e-2))
"""

PADDLE = """\
import paddle
from paddle import nn
from stepalign.workers import Training


class Block(nn.Layer):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.mix = self.create_parameter([6, 6])
        self.gate = self.create_parameter([6, 6])

    def forward(self, x):
        h = self.norm(x)
        return x + paddle.tanh(h @ self.mix) * nn.functional.sigmoid(h @ self.gate) * SCALE


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.blocks(x))


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def build(case):
    model = Net()
    return Training(model=model, loss=loss, optimizer=paddle.optimizer.Adam(1e-2, parameters=model.parameters()))
"""


def run_with(folder: Path, transpose: str, scale: str = "1.0") -> Ended:
    return run(write_case(folder, f"steps = 2\n[weights]\ntranspose = {transpose}", TORCH, PADDLE.replace("SCALE", scale)))


def test_the_case_is_aligned_where_it_says_how_paddle_keeps_the_matrices(tmp_path: Path) -> None:
    ended = run_with(tmp_path / "case", '["blocks.*.mix"]')
    assert ended.code == 0, ended.stdout


@pytest.mark.parametrize(
    ("transpose", "evidence", "fix"),
    [
        ("[]", "blocks.0.mix is square, and paddle is given it as torch has it", 'add "blocks.*.mix" to [weights] transpose'),
        (
            '["blocks.*.mix", "blocks.*.gate"]',
            "blocks.0.gate is square, and paddle is given it transposed; in a replay with it given as it is, all outputs agree",
            'take "blocks.*.gate" out of [weights] transpose',
        ),
    ],
)
def test_the_one_matrix_that_is_the_wrong_way_round_is_told(tmp_path: Path, transpose: str, evidence: str, fix: str) -> None:
    ended = run_with(tmp_path / "case", transpose)
    cause = ended.result["causes"][0]
    assert ended.result["first_divergence"]["torch_name"] == "blocks.0"
    assert (cause["category"], cause["code"]) == ("initial_weights", "transposed"), ended.result["causes"]
    assert cause["evidence"].startswith(evidence) and cause["fix"].startswith(fix)


def test_matrices_that_are_right_are_not_blamed_for_another_mistake(tmp_path: Path) -> None:
    ended = run_with(tmp_path / "case", '["blocks.*.mix"]', "(1.0 + 0.1 * h)")
    assert ended.result["verdict"] == "diverged"
    assert "transposed" not in {cause["code"] for cause in ended.result["causes"]}, ended.result["causes"]


def tensor(name: str, shape: tuple[int, ...] = (4, 4), layout: str = "") -> TensorSpec:
    module, _, role = name.rpartition(".")
    return TensorSpec(name, "parameter", shape, "float32", True, module, "Net", role, layout)


def declared(*tensors: TensorSpec, framework: tuple[str, ...] = ()) -> Declaration:
    modules = tuple(ModuleSpec(path, "Linear", "torch.nn.Linear", True) for path in framework)
    return Declaration(tensors, modules, OptimizerSpec("SGD", "SGD", ()), None, None, False)


def own(torch: Declaration, paddle: Declaration, place: str) -> list[str]:
    names = match_names(torch.tensors, paddle.tensors, WeightsSection())
    return [piece.name for piece in own_matrices(names, torch, paddle, place)]


def test_only_square_matrices_of_the_place_itself_are_tried() -> None:
    side = declared(tensor("a.w"), tensor("a.v", (4, 3)), tensor("a.b", (4,)), tensor("a.in.w"), tensor("c.w"))
    assert own(side, side, "a") == ["a.w"]


@pytest.mark.parametrize(
    ("ours", "theirs", "tried"), [("out_in", "in_out", False), ("out_in", "", True), ("", "", False), ("", "in_out", False)]
)
def test_a_layer_of_the_framework_is_tried_only_where_the_port_keeps_its_weight_by_itself(
    ours: str, theirs: str, tried: bool
) -> None:
    torch = declared(tensor("fc.w", layout=ours), framework=("fc",))
    assert own(torch, declared(tensor("fc.w", layout=theirs)), "fc") == (["fc.w"] if tried else [])


def test_the_same_matrices_of_all_blocks_are_turned_and_others_stay_as_they_are() -> None:
    side = [tensor(f"blocks.{number}.{leaf}") for number in (0, 1) for leaf in ("mix", "gate")]
    weights = WeightsSection(transpose=("blocks.*.mix",))
    names: NameMap = match_names(side, side, weights)
    case = Case(Path("."), CaseFile(SideSection("t.py"), SideSection("p.py"), DataSection("data.npz")))
    case = replace(case, file=replace(case.file, weights=weights))
    for turning, expected in (("gate", ["mix", "gate", "mix", "gate"]), ("mix", [])):
        pieces = [piece for piece in names.pieces if piece.name == f"blocks.0.{turning}"]
        again = match_names(side, side, turned(case, names, pieces).file.weights)
        assert [piece.name.rpartition(".")[2] for piece in again.pieces if piece.paddle.transposed] == expected


def test_numbers_of_blocks_are_left_open_and_numbers_in_names_are_not() -> None:
    assert [glob_of(name) for name in ("blocks.0.mix", "0.mix", "w1", "a.w.2", "b2.0.1.w3")] == [
        "blocks.*.mix", "*.mix", "w1", "a.w.2", "b2.*.*.w3",
    ]  # fmt: skip


def test_a_trial_goes_further_if_what_differs_comes_later() -> None:
    order = ["a", "b@input", "b"]
    assert goes_further("a", "b", order) and goes_further("b@input", None, order)
    assert not any(goes_further(before, after, order) for before, after in (("b", "b"), ("b", "a"), ("x", None), ("a", "x")))


def test_matrices_that_paddle_has_unlike_are_tried_one_by_one() -> None:
    side = [tensor(f"a.{leaf}") for leaf in ("mix", "gate")]
    alike = match_names(side, side, WeightsSection()).pieces
    unlike = match_names(side, side, WeightsSection(transpose=("a.mix",))).pieces
    assert [[piece.name for piece in trial] for trial in trials(alike)] == [["a.mix", "a.gate"], ["a.mix"], ["a.gate"]]
    assert [[piece.name for piece in trial] for trial in trials(unlike)] == [["a.mix"], ["a.gate"]]
