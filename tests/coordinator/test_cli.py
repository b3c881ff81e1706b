"""The other commands, as a user types them: init, schedule, compare, report, env, doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .real_cases import PADDLE_SIDE, TORCH_SIDE, run, stepalign, write_case

SCHEDULES = (
    TORCH_SIDE
    + """

def schedule(case):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5000)
""",
    PADDLE_SIDE
    + """

def schedule(case):
    scheduler = paddle.optimizer.lr.CosineAnnealingDecay(0.1, 5000)
    return paddle.optimizer.SGD(scheduler, parameters=[paddle.create_parameter([1], "float32")]), scheduler
""",
)


def test_init_writes_a_case_that_runs_as_it_is(tmp_path: Path) -> None:
    assert stepalign("init", tmp_path / "mine", cwd=tmp_path).code == 0
    ended = run(tmp_path / "mine")
    assert ended.code == 0, ended.stderr
    again = stepalign("init", tmp_path / "mine", cwd=tmp_path)
    assert again.code == 2 and "nothing in it was changed" in again.stderr


def test_five_thousand_rates_are_compared_without_a_model(tmp_path: Path) -> None:
    case = write_case(tmp_path / "rates", torch=SCHEDULES[0], paddle=SCHEDULES[1])
    ended = stepalign("schedule", case, cwd=tmp_path, out=tmp_path / "out")
    assert ended.code == 0, ended.stderr
    assert len(ended.result["series"]["lr"]["paddle"]) == 5000
    assert ended.result["series"]["loss"] == {"torch": [], "paddle": []}
    assert "step_4000_lr" in (tmp_path / "out" / "scheduler_diff.log").read_text()


def test_a_schedule_that_ends_elsewhere_is_found_at_its_first_step(tmp_path: Path) -> None:
    paddle = SCHEDULES[1].replace("CosineAnnealingDecay(0.1, 5000)", "CosineAnnealingDecay(0.1, 5000, eta_min=1e-4)")
    case = write_case(tmp_path / "floor", torch=SCHEDULES[0], paddle=paddle)
    ended = stepalign("schedule", case, cwd=tmp_path, out=tmp_path / "out")
    assert ended.code == 1
    assert ended.result["first_divergence"]["kind"] == "lr" and ended.result["first_divergence"]["step"] == 1
    assert ended.result["causes"][0]["category"] == "schedule"


def test_a_side_without_a_schedule_is_named(tmp_path: Path) -> None:
    ended = stepalign("schedule", write_case(tmp_path / "none"), cwd=tmp_path)
    assert ended.code == 2 and "define no schedule(case)" in ended.stderr


def test_two_runs_are_compared_by_what_they_recorded(tmp_path: Path) -> None:
    clean = run(write_case(tmp_path / "clean"))
    same = stepalign("compare", clean.folder, clean.folder, "--json", cwd=tmp_path)
    assert same.code == 0 and same.result["verdict"] == "aligned"
    other = run(write_case(tmp_path / "other", paddle=PADDLE_SIDE.replace("StepDecay(1e-2", "StepDecay(2e-2")))
    differs = stepalign("compare", clean.folder, other.folder, "--json", cwd=tmp_path)
    assert differs.code == 1 and differs.result["first_divergence"]["kind"] == "lr"
    pair = [clean.folder / f"bp_align_{side}.npy" for side in ("torch", "paddle")]
    assert stepalign("compare", *pair, cwd=tmp_path).code == 0
    assert stepalign("compare", pair[0], clean.folder, cwd=tmp_path).code == 2


def test_a_pickle_that_is_no_array_is_refused_before_it_runs(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> object:
            return (open, (str(tmp_path / "touched"), "w"))

    np.save(tmp_path / "bad.npy", np.array({"loss_0": Touch()}, dtype=object), allow_pickle=True)
    ended = stepalign("compare", tmp_path / "bad.npy", tmp_path / "bad.npy", cwd=tmp_path)
    assert ended.code == 2
    assert not (tmp_path / "touched").exists()


def test_the_views_of_a_run_are_rebuilt_with_the_same_verdict(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "views", paddle=PADDLE_SIDE.replace("weight_decay=0.01", "weight_decay=0.1")))
    (ended.folder / "report.html").unlink()
    (ended.folder / "losses.md").unlink()
    rebuilt = stepalign("report", ended.folder, "--json", cwd=tmp_path)
    assert rebuilt.code == ended.code == 1
    assert rebuilt.result == ended.result
    assert (ended.folder / "report.html").stat().st_size > 1000 and (ended.folder / "losses.md").is_file()
    shown = stepalign("report", ended.folder, cwd=tmp_path).stdout
    assert "DIVERGED" in shown and "weight decay" in shown


def test_both_environments_are_listed_and_the_doctor_finds_them(tmp_path: Path) -> None:
    listed = stepalign("env", "list", cwd=tmp_path).stdout
    assert "torch 2.13.0" in listed and "paddlepaddle 3.3.1" in listed
    examined = stepalign("doctor", cwd=tmp_path)
    assert examined.code == 0, examined.stdout


def test_verdicts_go_to_standard_output_and_the_rest_to_standard_error(tmp_path: Path) -> None:
    torch = "print('hello from the script')\n" + TORCH_SIDE
    case = write_case(tmp_path / "streams", "steps = 1", torch=torch)
    command = [sys.executable, "-m", "stepalign.coordinator.cli", "run", str(case), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0
    assert "ALIGNED" in done.stdout and "hello" not in done.stdout
    assert "[torch] hello from the script" in done.stderr and "ALIGNED" not in done.stderr
    quiet = subprocess.run(
        [*command[:-1], str(tmp_path / "quiet"), "--quiet"], capture_output=True, text=True, timeout=240, check=False
    )
    assert quiet.stderr == ""


@pytest.mark.parametrize(
    "arguments", [[], ["no_such_command"], ["run"], ["run", "x", "--dtype", "int8"], ["env", "create", "mine"]]
)
def test_wrong_usage_ends_with_exit_code_two(tmp_path: Path, arguments: list[str]) -> None:
    assert stepalign(*arguments, cwd=tmp_path).code == 2


def test_json_is_printed_even_when_there_is_no_case(tmp_path: Path) -> None:
    ended = stepalign("run", tmp_path / "nowhere", "--json", cwd=tmp_path)
    assert ended.code == 2
    assert json.loads(ended.stdout)["exit_code"] == 2


TWICE = """
import importlib, os, signal, sys
module = importlib.import_module("stepalign.coordinator.cli.main")

def interrupted(name):
    raise KeyboardInterrupt

parser = module.build_parser()
module.build_parser = lambda: parser
importlib.import_module = interrupted
sys.argv = ["stepalign", "doctor"]
code = module.main()
os.kill(os.getpid(), signal.SIGINT)
sys.exit(code)
"""


def test_a_second_interruption_while_the_process_ends_does_not_change_its_exit_code() -> None:
    ended = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 130, ended.stderr
