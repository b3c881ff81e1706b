"""What the frameworks themselves do differently is recognised in real runs of both, and is not the port's fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.ports.catalogue import select
from benchmarks.ports.writing import write_case as write_port

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, Ended, run, write_case


def _run_port(name: str, folder: Path, *arguments: str) -> Ended:
    (port,) = select(name, False)
    return run(write_port(port, folder / name), *arguments)


def _codes(ended: Ended) -> set[str]:
    return {difference["code"] for difference in ended.result["known_differences"]}


@pytest.mark.parametrize(
    ("port", "codes"),
    [
        (
            "conv_bias_before_batch_norm",
            {"batch_norm_running_variance", "noise_driven_running_mean", "rounding_noise_update"},
        ),
        ("mlp_clip_in_the_optimizer", {"clip_norm_epsilon"}),
        ("mlp_saturated_logits", {"softmax_clipping"}),
        ("mlp_momentum_float64", {"float32_hyperparameters"}),
    ],
)
def test_a_correct_port_with_a_known_difference_is_aligned_and_the_difference_is_listed(
    tmp_path: Path, port: str, codes: set[str]
) -> None:
    ended = _run_port(port, tmp_path)
    assert ended.code == 0, json.dumps(ended.result.get("first_divergence"))
    assert codes <= _codes(ended)


def test_the_biased_batch_variance_names_the_number_of_elements_and_counts_when_strict(tmp_path: Path) -> None:
    ended = _run_port("conv_train_momentum", tmp_path)
    variance = next(item for item in ended.result["known_differences"] if item["code"] == "batch_norm_running_variance")
    assert "paddle / torch = (n-1)/n, n = " in variance["evidence"] and "residual" in variance["evidence"]
    strict = _run_port("conv_train_momentum", tmp_path / "strict", "--set", "compare.strict=true")
    assert strict.code == 1
    assert strict.result["first_divergence"]["kind"] == "buffer"


def test_what_a_teacher_in_evaluation_mode_carries_of_the_biased_variance_is_no_fault_and_hides_none(tmp_path: Path) -> None:
    ended = _run_port("averaged_teacher_in_eval", tmp_path)
    assert ended.code == 0, json.dumps(ended.result.get("first_divergence"))
    assert any("average.bn1, average.bn2 normalises in evaluation mode" in warning for warning in ended.result["warnings"])
    wrong = _run_port("averaged_ramp_length", tmp_path)
    assert wrong.code == 1 and wrong.result["first_divergence"]["step"] == 1


@pytest.mark.parametrize(
    ("torch", "paddle", "code"),
    [
        ("torch.optim.RMSprop(parameters, lr=1e-3)",
         "paddle.optimizer.RMSProp(1e-3, 0.99, 1e-16, parameters=parameters)", "rmsprop_formula"),
        ("torch.optim.Adamax(parameters, lr=1e-3)", "paddle.optimizer.Adamax(1e-3, parameters=parameters)", "adamax_formula"),
    ],
)  # fmt: skip
def test_a_rule_that_paddle_writes_otherwise_is_known_and_not_blamed(
    tmp_path: Path, torch: str, paddle: str, code: str
) -> None:
    ours = TORCH_SIDE.replace("torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)", torch)
    theirs = PADDLE_SIDE.replace("paddle.optimizer.AdamW(rate, parameters=parameters, weight_decay=0.01)", paddle)
    ours = ours.replace("scheduler=make_scheduler(optimizer)", "scheduler=None")
    theirs = theirs.replace("scheduler=scheduler", "scheduler=None").replace(
        "scheduler = make_scheduler()", "scheduler = None"
    )
    ended = run(write_case(tmp_path / "rule", "steps = 3\n", torch=ours, paddle=theirs))
    assert ended.code == 0, json.dumps(ended.result.get("first_divergence"))
    assert code in _codes(ended)


AVERAGED_TORCH = """\
import copy
import torch
from torch import nn
from stepalign.workers import Training


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
        self.average = copy.deepcopy(self.body)
        self.average.requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            for ours, theirs in zip(self.average.parameters(), self.body.parameters()):
                ours.lerp_(theirs, 0.05)
            for ours, theirs in zip(self.average.buffers(), self.body.buffers()):
                ours.copy_(theirs)
        return self.body(x)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def build(case):
    model = Net()
    return Training(model=model, loss=loss, optimizer=torch.optim.Adam(model.body.parameters(), lr=1e-2))
"""

AVERAGED_PADDLE = """\
import copy
import paddle
from paddle import nn
from stepalign.workers import Training


class Net(nn.Layer):
    def __init__(self, decay):
        super().__init__()
        self.decay = decay
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1D(16), nn.ReLU(), nn.Linear(16, 3))
        self.average = copy.deepcopy(self.body)
        for parameter in self.average.parameters():
            parameter.stop_gradient = True

    def forward(self, x):
        with paddle.no_grad():
            held = self.average.state_dict()
            for name, theirs in self.body.state_dict().items():
                keep = 0.0 if name.endswith(("_mean", "_variance")) else self.decay
                held[name].set_value(keep * held[name] + (1 - keep) * theirs)
        return self.body(x)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def build(case):
    model = Net(case.options["decay"])
    return Training(model=model, loss=loss, optimizer=paddle.optimizer.Adam(1e-2, parameters=model.body.parameters()))
"""


def test_the_average_of_a_bias_that_only_noise_moves_is_known_and_another_decay_is_named(tmp_path: Path) -> None:
    toml = 'steps = 4\nmode = "train"\n\n[options]\ndecay = 0.95\n'
    ended = run(write_case(tmp_path / "same", toml, torch=AVERAGED_TORCH, paddle=AVERAGED_PADDLE))
    assert ended.code == 0, json.dumps(ended.result.get("first_divergence"))
    known = {item["torch_name"]: item for item in ended.result["known_differences"] if item["code"] == "moving_average"}
    assert {name.rsplit(".", 1)[0] for name in known} <= {"average.0", "average.1"}
    assert "0.95 before + 0.05 body.0.bias, and the gradient of body.0.bias" in known["average.0.bias"]["evidence"]
    toml = toml.replace("0.95", "0.99")
    wrong = run(write_case(tmp_path / "other", toml, torch=AVERAGED_TORCH, paddle=AVERAGED_PADDLE))
    first, cause = wrong.result["first_divergence"], wrong.result["causes"][0]
    assert (first["step"], first["kind"], first["torch_name"]) == (1, "parameter", "average.0.weight")
    assert (cause["category"], cause["code"]) == ("buffer", "moving_average_decay")
    assert "torch keeps 0.95 of the average at each step, paddle 0.99" in cause["evidence"]
