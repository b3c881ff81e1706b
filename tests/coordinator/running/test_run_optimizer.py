"""`stepalign optimizer` with both real frameworks: given gradients, no model; the verdict and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.running.run_optimizer import defines_optimizer
from stepalign.protocol.errors import CaseError

from ..real_cases import PADDLE_SIDE, Ended, stepalign, write_case

TORCH_PARTS = """\
import torch

def optimizer(case, parameters):
    plain = [each for name, each in parameters.items() if "norm" in name or name.endswith("bias")]
    decayed = [each for each in parameters.values() if not any(each is other for other in plain)]
    made = torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0, "lr": 2e-3}], lr=1e-2, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(made, 3, 0.5)
    return made, schedule, lambda named: torch.nn.utils.clip_grad_value_(named.values(), 0.5)
"""
PADDLE_PARTS = """\
import paddle

def optimizer(case, parameters):
    assert "classifier.weight" in parameters and parameters["classifier.weight"].name == "classifier.weight"
    plain = [each for name, each in parameters.items() if "norm" in name or name.endswith("bias")]
    decayed = [each for each in parameters.values() if not any(each is other for other in plain)]
    schedule = paddle.optimizer.lr.StepDecay(1e-2, 3, 0.5)
    made = paddle.optimizer.AdamW(
        schedule,
        parameters=[{"params": decayed}, {"params": plain, "weight_decay": 0.0, "learning_rate": 0.2}],
        weight_decay=0.1,
        grad_clip=paddle.nn.ClipGradByValue(0.5),
    )
    return made, schedule
"""
REGIMES = ["normal", "small", "tiny", "mixed", "zeros", "missing"]


def drive(case: Path, *arguments: object) -> Ended:
    return stepalign("optimizer", case, *arguments, cwd=case.parent, out=case.parent / f"{case.name}-out")


def test_a_correct_port_with_groups_schedule_and_clip_is_aligned_under_every_regime(tmp_path: Path) -> None:
    toml = 'seed = 3\n[optimizer]\nsteps = 7\n[weights]\nrename = [["^head\\\\.", "classifier."]]\n'
    ended = drive(write_case(tmp_path / "parts", toml, TORCH_PARTS, PADDLE_PARTS))
    assert ended.code == 0, ended.stdout + ended.stderr
    assert ended.result["verdict"] == "aligned" and ended.result["steps_completed"] == 7
    assert [regime["name"] for regime in ended.result["regimes"]] == REGIMES
    for regime in ended.result["regimes"]:
        assert regime["passed"] and regime["steps"] == 7 and 0 < regime["difference"] < 2e-3, regime
    assert {"lr", "optimizer_state", "parameter"} == set(ended.result["worst"])
    lines = [json.loads(line) for line in (ended.folder / "updates.jsonl").read_text().splitlines()]
    assert [(line["regime"], line["step"]) for line in lines] == [(name, step) for name in REGIMES for step in range(7)]
    assert lines[3]["lr"]["torch"] == pytest.approx([5e-3, 1e-3]) == lines[3]["lr"]["paddle"]
    shown = stepalign("report", ended.folder, cwd=tmp_path)
    assert "ALIGNED: the optimizers do the same" in shown.stdout and "tiny: the same" in shown.stdout


def test_without_that_function_builds_optimizer_is_driven_and_a_wrong_epsilon_is_named(tmp_path: Path) -> None:
    paddle = PADDLE_SIDE.replace("weight_decay=0.01)", "weight_decay=0.01, epsilon=1e-6)")
    toml = '[optimizer]\nsteps = 4\nregimes = ["missing", "tiny"]\n'
    ended = drive(write_case(tmp_path / "epsilon", toml, paddle=paddle))
    assert ended.code == 1, ended.stdout + ended.stderr
    place, (cause, *_) = ended.result["first_divergence"], ended.result["causes"]
    assert (cause["category"], cause["code"]) == ("hyperparameter", "optimizer_epsilon")
    assert "epsilon=1e-08" in cause["fix"]
    tiny = next(regime for regime in ended.result["regimes"] if regime["name"] == "tiny")
    assert not tiny["passed"] and 0.5 < tiny["difference"] < 1.5
    assert place["kind"] == "parameter" and "gradients: departs from torch's rule" in place["reason"]
    assert "times torch's update of it apart" in place["reason"]


def test_what_no_argument_of_rmsprop_can_change_is_a_known_difference_with_its_formula(tmp_path: Path) -> None:
    torch = "import torch\ndef optimizer(case, parameters):\n    return torch.optim.RMSprop(parameters.values(), lr=1e-2)\n"
    paddle = (
        "import paddle\ndef optimizer(case, parameters):\n"
        "    return paddle.optimizer.RMSProp(1e-2, 0.99, 1e-16, parameters=list(parameters.values()))\n"
    )
    toml = 'dtype = "float64"\n[optimizer]\nsteps = 5\nregimes = ["tiny"]\nparameters = { "fc.weight" = [3, 2] }\n'
    ended = drive(write_case(tmp_path / "rmsprop", toml, torch, paddle))
    assert ended.code == 0, ended.stdout + ended.stderr
    known = next(item for item in ended.result["known_differences"] if item["code"] == "rmsprop_formula")
    assert "torch divides by sqrt(s) + eps, paddle by sqrt(s + epsilon)" in known["evidence"]
    assert "(tiny gradients)" in known["evidence"]
    (regime,) = ended.result["regimes"]
    assert "rmsprop_formula" in regime["known"] and 0.05 < regime["difference"] < 1


def test_a_function_that_one_script_alone_defines_is_refused(tmp_path: Path) -> None:
    case = write_case(tmp_path / "half", torch=TORCH_PARTS)
    with pytest.raises(CaseError, match=r"only torch_side\.py defines optimizer\(case, parameters\)"):
        defines_optimizer(load_case(case))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("steps = 0", "optimizer.steps: expected a whole number of at least 1"),
        ('regimes = ["huge"]', "unknown regime 'huge'; the regimes are normal, small"),
        ("regimes = []", "optimizer.regimes: expected at least one of normal"),
        ("parameters = {}", "optimizer.parameters: expected at least one"),
        ('parameters = { "a..b" = [2] }', "'a..b' is no parameter's name"),
        ('parameters = { "a.b" = [0] }', r"optimizer.parameters.a.b: expected sizes of at least 1, got \[0\]"),
    ],
)
def test_a_wrong_section_is_named(tmp_path: Path, section: str, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        load_case(write_case(tmp_path / "case", f"[optimizer]\n{section}\n"))
