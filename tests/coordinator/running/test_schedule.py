"""`stepalign schedule` with both real frameworks."""

from __future__ import annotations

from pathlib import Path

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, stepalign, write_case

TORCH_PLATEAU = """
def schedule(case):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
"""
PADDLE_PLATEAU = """
def schedule(case):
    schedule = paddle.optimizer.lr.ReduceOnPlateau(0.1, factor=0.5, patience=5)
    return paddle.optimizer.SGD(schedule, parameters=[paddle.create_parameter([1], "float32")]), schedule
"""


def test_a_schedule_that_watches_the_loss_is_stepped_with_the_same_losses_on_both_sides(tmp_path: Path) -> None:
    case = write_case(tmp_path / "plateau", torch=TORCH_SIDE + TORCH_PLATEAU, paddle=PADDLE_SIDE + PADDLE_PLATEAU)
    ended = stepalign("schedule", case, "--steps", "600", cwd=tmp_path, out=tmp_path / "out")
    assert ended.code == 0, ended.stdout + ended.stderr
    rates = [step[0] for step in ended.result["series"]["lr"]["torch"]]
    assert rates[0] == 0.1 and rates[100] > rates[-1] and len(set(rates)) > 3


SPOKEN = "import os\nprint('this module is imported in process', os.getpid())\n"


def test_a_run_compares_the_schedules_in_the_workers_that_have_trained_and_imports_nothing_twice(
    tmp_path: Path,
) -> None:
    case = write_case(
        tmp_path / "case", torch=SPOKEN + TORCH_SIDE + TORCH_PLATEAU, paddle=SPOKEN + PADDLE_SIDE + PADDLE_PLATEAU
    )
    ended = stepalign("run", case, "--set", "schedule.steps=40", cwd=tmp_path, out=tmp_path / "out")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert "40 steps, every group" in ended.result["compared"]["schedules"]
    for side in ("torch", "paddle"):
        log = (ended.folder / f"{side}.log").read_text(encoding="utf-8")
        pid = ended.result["sides"][side]["pid"]
        assert log.count("this module is imported") == log.count(f"imported in process {pid}") == 1


def test_a_schedule_that_fails_after_the_steps_leaves_them_judged(tmp_path: Path) -> None:
    wrong = "\ndef schedule(case):\n    raise RuntimeError('no schedule today')\n"
    case = write_case(tmp_path / "case", torch=TORCH_SIDE + TORCH_PLATEAU, paddle=PADDLE_SIDE + wrong)
    ended = stepalign("run", case, cwd=tmp_path, out=tmp_path / "out")
    assert ended.code == 2, ended.stdout + ended.stderr
    assert ended.result["verdict"] == "failed" and ended.result["steps_completed"] == 3
    assert "no schedule today" in ended.result["error"]["message"]
    assert any("3 steps finished before the failure are aligned" in text for text in ended.result["warnings"])
