"""What fails in a long run whose whole tensors are compared at some steps only is found where a whole comparison finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepalign.coordinator.cases.collection import EVERY

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, Ended, stepalign, write_case

STEPS = EVERY + 6
THIN = f"steps = {STEPS}\n[collect]\nbudget_mib = 1\n"
WHOLE = f"steps = {STEPS}\n"
WIDE = (
    ("nn.Linear(6, 6)", "nn.Linear(6, 8192)"),
    ("LayerNorm(6)", "LayerNorm(8192)"),
    ("nn.Linear(6, 3)", "nn.Linear(8192, 3)"),
)
"""A step of this model moves more than a MiB, so that only the first three steps are within a budget of one."""

HOOK = """

calls = [0]


def after_backward(model):
    calls[0] += 1
    if calls[0] == {number}:
        model.fc1.bias.grad{change}


def build(case):"""


def side(source: str, number: int, change: str) -> str:
    for old, new in WIDE:
        source = source.replace(old, new)
    assert "8192" in source
    source = source.replace("\n\ndef build(case):", HOOK.format(number=number, change=change))
    source = source.replace("loss=loss,", "loss=loss, after_backward=after_backward,")
    return source.replace("lr=1e-2", "lr=1e-4").replace("StepDecay(1e-2", "StepDecay(1e-4")


def sides(wrong_at: int) -> tuple[str, str]:
    """Return both sides; the port uses a wrong gradient at step ``wrong_at`` alone, -1: never."""
    wrong = ".set_value(model.fc1.bias.grad * 1.5)"
    return side(TORCH_SIDE, wrong_at + 1, ".mul_(1.0)"), side(PADDLE_SIDE, wrong_at + 1, wrong)


def run(folder: Path, toml: str, wrong_at: int, *more: object) -> Ended:
    """Run such a case."""
    case = folder / "case"
    if not case.exists():
        write_case(case, toml, *sides(wrong_at))
    return stepalign("run", case, *more, cwd=folder, out=folder / "run")


@pytest.mark.parametrize("wrong_at", [8, EVERY - 1])
def test_a_mistake_between_whole_steps_is_found_at_its_own_step_and_explained_alike(
    tmp_path: Path, wrong_at: int
) -> None:
    thin, whole = run(tmp_path / "thin", THIN, wrong_at), run(tmp_path / "whole", WHOLE, wrong_at)
    assert (thin.code, whole.code) == (1, 1), thin.stderr
    assert whole.result["first_divergence"]["step"] == wrong_at
    assert thin.result["first_divergence"] == whole.result["first_divergence"]
    assert [cause["code"] for cause in thin.result["causes"]] == [cause["code"] for cause in whole.result["causes"]]
    assert thin.result["compared"]["repeated steps"].startswith("3 to ")
    assert "repeated steps" not in whole.result["compared"]
    assert not [text for text in thin.result.get("warnings", []) if "repeated" in text]


def test_a_correct_port_is_aligned_and_nothing_is_repeated(tmp_path: Path) -> None:
    ended = run(tmp_path, THIN, -1)
    assert ended.code == 0, ended.stderr
    assert f"steps 0 to 2, every {EVERY}th and the last" in ended.result["compared"]["tensors"]
    assert "repeated steps" not in ended.result["compared"]


def test_a_recorded_side_that_lacks_the_tensors_is_named(tmp_path: Path) -> None:
    write_case(tmp_path / "case", THIN, *sides(8))
    made = stepalign("record", tmp_path / "case", "--no-noise", "--out", tmp_path / "torch.zip", cwd=tmp_path)
    assert made.code == 0, made.stderr
    ended = run(tmp_path, THIN, 8, "--against", tmp_path / "torch.zip")
    assert ended.code == 1, ended.stderr
    assert any("the recorded side keeps no whole tensors of step 3" in text for text in ended.result["warnings"])
