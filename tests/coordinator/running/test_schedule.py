"""`stepalign schedule` with both real frameworks, and what it says of rates: plain numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stepalign.coordinator.comparison.rates import as_lists, compare_rates
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.running.schedule import ScheduleOutcome, at_milestones, defines

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


SPARING = """
_schedule = schedule

def schedule(case):
    import sys
    parts = _schedule(case)
    print("torch's compiler is imported:", "torch._dynamo" in sys.modules)
    return parts
"""


def test_schedules_alone_import_no_compiler_of_torch(tmp_path: Path) -> None:
    torch = TORCH_SIDE + TORCH_PLATEAU + SPARING
    case = write_case(tmp_path / "case", torch=torch, paddle=PADDLE_SIDE + PADDLE_PLATEAU)
    ended = stepalign("schedule", case, "--steps", "40", cwd=tmp_path, out=tmp_path / "out")
    assert ended.code == 0, ended.stdout + ended.stderr
    assert "torch's compiler is imported: False" in (ended.folder / "torch.log").read_text(encoding="utf-8")


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


def outcome(torch: list[list[float]], paddle: list[list[float]]) -> ScheduleOutcome:
    arrays = np.array(torch), np.array(paddle)
    compared = compare_rates(*arrays, tolerances("float32", {})["lr"])
    return ScheduleOutcome((as_lists(arrays[0]), as_lists(arrays[1])), compared, {})


def test_a_schedule_passes_at_the_steps_at_which_every_group_does() -> None:
    same = outcome([[0.1, 0.2]] * 3, [[0.1, 0.2]] * 3)
    assert [same.passed_at(step) for step in range(3)] == [True] * 3 and same.causes() == []
    apart = outcome([[0.1, 0.2]] * 3, [[0.1, 0.2], [0.1, 0.3], [0.1, 0.2]])
    assert [apart.passed_at(step) for step in range(3)] == [True, False, True]
    lacking = outcome([[0.1, 0.2]] * 3, [[0.1]] * 3)
    assert [lacking.passed_at(step) for step in range(3)] == [False] * 3


def test_a_schedule_is_told_in_a_line_and_explained_group_by_group() -> None:
    apart = outcome([[0.4, 0.2], [0.0, 0.2]], [[0.4, 0.3], [0.1, 0.2]])
    assert apart.describe([0, 1]) == "2 steps, every group: greatest relative difference 0.5; torch's rate 0.4 at 0, 0 at 1"
    assert outcome([[0.1, 0.2]], [[0.1]]).describe([0]) == "1 steps, 2 groups on torch and 1 on paddle"
    scaled = outcome([[0.1, 0.2]] * 4, [[0.2, 0.4]] * 4)
    assert [cause.code for cause in scaled.causes()] == ["rate_scale"]


def test_milestones_beyond_the_schedule_are_left_out() -> None:
    assert at_milestones([[0.1], [0.2], [0.3]], [0, 2, 3, 100]) == {0: [0.1], 2: [0.3]}


@pytest.mark.parametrize(
    ("source", "defined"),
    [
        ("def schedule(case): ...", True),
        ("async def schedule(case): ...", True),
        ("from common import schedule", True),
        ("from common import make as schedule", True),
        ("import schedule", True),
        ("schedule = make", True),
        ("from common import schedule as other", False),
        ("def other():\n    def schedule(case): ...", False),
        ("class Other:\n    schedule = None", False),
        ("def schedules(case): ...", False),
        ("def schedule(case:", False),
    ],
)
def test_a_script_has_a_schedule_if_its_top_level_names_one(tmp_path: Path, source: str, defined: bool) -> None:
    script = tmp_path / "side.py"
    script.write_text(source, encoding="utf-8")
    assert defines(script, "schedule") == defined
