"""An interrupted run is continued, with both real frameworks: its result is the one of an uninterrupted run."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.results.reprod_npy import read_reprod_npy
from stepalign.coordinator.sessions.pace import TOGETHER_S

from ..real_cases import DATA, PADDLE_SIDE, TORCH_SIDE, Ended, stepalign, write_case

STEPS = 16
LONG = 900
INTERRUPT = '''

def interrupt(batch):
    """Send the signal that the file ``stop`` beside this script names, at the step that it names; if it names a run
    folder too, once that has a checkpoint. Each step takes so long that it is asked for alone.
    """
    import os
    import time
    from pathlib import Path
    time.sleep(PAUSE_S)
    note = Path(__file__).with_name("stop")
    if note.exists():
        step, whom, number, *out = note.read_text().split()
        if int(batch["step"]) == int(step):
            while out and not any(Path(out[0], "checkpoints").glob("[0-9]*")):
                time.sleep(0.01)
            pid = os.getpid()
            while whom == "coordinator" and b"stepalign.coordinator.cli" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(pid, int(number))


'''
INTERRUPT = INTERRUPT.replace("PAUSE_S", str(TOGETHER_S))
NUMBERED = DATA.replace("for _ in", "for n in").replace("yield {", 'yield {"step": np.array(n), ')
INTERRUPTED = TORCH_SIDE.replace("def loss(model, batch):\n", f"{INTERRUPT}def loss(model, batch):\n    interrupt(batch)\n")
PAUSED_PADDLE = PADDLE_SIDE.replace(
    "def loss(model, batch):\n", f"def loss(model, batch):\n    import time\n    time.sleep({TOGETHER_S})\n"
)
"""As slow as the torch side that is interrupted: a faster side is asked for many steps at once, and leads by as many."""

NORMED = (("nn.LayerNorm(6)", "nn.BatchNorm1D(6)"), ("nn.functional.relu(", "nn.functional.dropout(nn.functional.relu("))
TOP = f"steps = {STEPS}\n"
KEEP = "[resume]\nevery_s = 0.001\n"


def with_batch_norm_and_dropout(source: str, drop: str, norm: str) -> str:
    return (
        source.replace("nn.LayerNorm(6)", norm)
        .replace("torch.relu(self.norm(self.fc1(x)))", f"{drop}(torch.relu(self.norm(self.fc1(x))), 0.25, self.training)")
        .replace(
            "nn.functional.relu(self.norm(self.fc1(x)))",
            f"{drop}(nn.functional.relu(self.norm(self.fc1(x))), 0.25, training=self.training)",
        )
    )


def trained_sides() -> dict[str, str]:
    return {
        "torch": with_batch_norm_and_dropout(INTERRUPTED, "nn.functional.dropout", "nn.BatchNorm1d(6)"),
        "paddle": with_batch_norm_and_dropout(PAUSED_PADDLE, "nn.functional.dropout", "nn.BatchNorm1D(6)"),
    }


def run(case: Path, out: Path, *arguments: object) -> Ended:
    return stepalign("run", case, "--quiet", *arguments, cwd=case.parent, out=out)


def resume(case: Path, out: Path, *arguments: object) -> Ended:
    return stepalign("run", case, "--quiet", "--json", "--resume", out, *arguments, cwd=case.parent)


def stop_at(case: Path, step: int, whom: str, number: signal.Signals, out: Path | str = "") -> None:
    (case / "stop").write_text(f"{step} {whom} {int(number)} {out}")


def go_on(case: Path) -> None:
    (case / "stop").unlink()


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    sides = {side: {**facts, "pid": 0} for side, facts in result["sides"].items()}
    return {**{key: value for key, value in result.items() if key != "resumed"}, "sides": sides}


def log_lines(folder: Path, name: str) -> list[str]:
    """A STEP4 log without the times at the beginning of its lines."""
    return [line[21:] for line in (folder / name).read_text().splitlines()]


def details(folder: Path) -> dict[str, Any]:
    """What the report draws: the map of differences, the first failing step's tensors."""
    found: dict[str, Any] = json.loads((folder / "details.json").read_text())
    return found


def report_lines(folder: Path) -> list[str]:
    """The report but for the folder's name and process numbers."""
    text = (folder / "report.html").read_text().replace(str(folder), "FOLDER")
    return [line for line in text.splitlines() if "<td>pid</td>" not in line]


def assert_same_run(resumed: Ended, out: Path, whole: Path) -> None:
    expected = json.loads((whole / "result.json").read_text())
    assert comparable(resumed.result) == comparable(expected)
    assert resumed.code == expected["exit_code"]
    assert lines(out) == lines(whole)
    assert details(out) == details(whole)
    assert report_lines(out) == report_lines(whole)
    for name in ("bp_align_diff.log", "scheduler_diff.log", "losses.md"):
        assert log_lines(out, name) == log_lines(whole, name)
    for name in ("bp_align_torch.npy", "bp_align_paddle.npy", "lr_align_torch.npy", "lr_align_paddle.npy"):
        ours, theirs = read_reprod_npy(out / name), read_reprod_npy(whole / name)
        assert list(ours) == list(theirs)
        assert [(array.dtype, array.tobytes()) for array in ours.values()] == [
            (array.dtype, array.tobytes()) for array in theirs.values()
        ]
    assert not (out / "checkpoints").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[Path, Path]:
    """A case in train mode with batch norm, shared dropout and resync; the folder of its uninterrupted run."""
    top = f'{TOP}mode = "train"\n[compare]\nresync = 5\ndropout = "shared"\n{KEEP}'
    case = write_case(folder / "trained", top, data=NUMBERED, **trained_sides())
    run(case, folder / "trained-whole")
    return case, folder / "trained-whole"


@pytest.fixture(scope="module")
def interrupted(trained: tuple[Path, Path], folder: Path) -> Path:
    """The folder of a run of that case whose coordinator was killed in the midst of step 7."""
    case, out = trained[0], folder / "interrupted"
    stop_at(case, 7, "coordinator", signal.SIGKILL, out)
    try:
        assert run(case, out).code == -signal.SIGKILL
    finally:
        go_on(case)
    return out


def copy(out: Path, to: Path) -> Path:
    shutil.copytree(out, to)
    return to


def test_a_run_whose_coordinator_was_killed_and_then_interrupted_ends_as_a_whole_one(
    trained: tuple[Path, Path], interrupted: Path, tmp_path: Path
) -> None:
    case, whole = trained
    out = copy(interrupted, tmp_path / "out")
    with open(out / "steps.jsonl", "ab") as file:
        file.write(b'{"step": 6, "passed": tr')  # as a power failure leaves it
    stop_at(case, 9, "coordinator", signal.SIGINT)
    stopped = resume(case, out)
    go_on(case)
    assert (stopped.code, stopped.result["verdict"]) == (130, "failed")
    complete = stopped.result["steps_completed"]
    assert 9 <= complete < STEPS
    assert lines(out) == lines(whole)[:complete]
    resumed = resume(case, out)
    assert_same_run(resumed, out, whole)
    note = resumed.result["resumed"]
    assert (note["at_step"], note["note"]) == (complete, "")
    assert 0 < note["from_step"] <= complete


def test_a_damaged_checkpoint_is_left_for_an_older_one_or_step_0(
    trained: tuple[Path, Path], interrupted: Path, tmp_path: Path
) -> None:
    case, whole = trained
    out = copy(interrupted, tmp_path / "out")
    for arrays in (out / "checkpoints").glob("*/arrays.npz"):
        content = bytearray(arrays.read_bytes())
        content[len(content) // 2] ^= 0xFF
        arrays.write_bytes(bytes(content))
    resumed = resume(case, out)
    assert_same_run(resumed, out, whole)
    assert resumed.result["resumed"]["from_step"] == 0
    assert "damaged checkpoint" in resumed.result["resumed"]["note"]


def test_a_diverged_run_with_own_dropout_is_explained_as_a_whole_one(folder: Path, tmp_path: Path) -> None:
    """The checkpoint holds both frameworks' random state; whole tensors of the first steps come by a replay."""
    torch, paddle = (
        source.replace("AdamW(parameters, lr=1e-2, weight_decay=0.01)", "SGD(parameters, lr=1e-2, momentum=0.9)")
        .replace("AdamW(rate, parameters=parameters, weight_decay=0.01)", "Momentum(rate, 0.8, parameters=parameters)")
        .replace("def loss(model, batch):\n", "def loss(model, batch):\n    DRAW\n")
        for source in (INTERRUPTED, PAUSED_PADDLE)
    )
    torch = torch.replace("DRAW", 'batch["x"] = nn.functional.dropout(batch["x"], 0.3) * 0 + batch["x"] + 0 * torch.rand(1)')
    paddle = paddle.replace("DRAW", 'batch["x"] = nn.functional.dropout(batch["x"], 0.3) * 0 + batch["x"]')
    case = write_case(tmp_path / "case", f'{TOP}mode = "train"\n{KEEP}', torch=torch, paddle=paddle, data=NUMBERED)
    whole = run(case, tmp_path / "whole")
    assert whole.result["verdict"] == "diverged"
    assert whole.result["causes"]
    stop_at(case, 8, "worker", signal.SIGKILL, tmp_path / "out")
    died = run(case, tmp_path / "out")
    go_on(case)
    assert (died.code, died.result["error"]["signal"]) == (3, "SIGKILL(-9)")
    resumed = resume(case, tmp_path / "out")
    assert_same_run(resumed, tmp_path / "out", tmp_path / "whole")
    assert resumed.result["resumed"]["from_step"] > 0


def test_a_run_whose_failures_are_rounding_has_the_report_of_a_whole_one(tmp_path: Path) -> None:
    """The first step that failed is one whose whole tensors only the interrupted run had."""
    top = f"{TOP}{KEEP}[tolerance]\ngradient = {{ rtol = 1e-8, atol = 3e-9 }}\n"
    case = write_case(tmp_path / "case", top, torch=INTERRUPTED, paddle=PAUSED_PADDLE, data=NUMBERED)
    whole = run(case, tmp_path / "whole")
    assert whole.result["verdict"] in ("aligned", "inconclusive")
    assert details(tmp_path / "whole")["first_failure"]["tensors"]
    stop_at(case, 8, "worker", signal.SIGKILL, tmp_path / "out")
    assert run(case, tmp_path / "out").code == 3
    go_on(case)
    resumed = resume(case, tmp_path / "out")
    assert_same_run(resumed, tmp_path / "out", tmp_path / "whole")
    assert resumed.result["resumed"]["from_step"] > details(tmp_path / "out")["first_failure"]["step"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_whose_steps_are_asked_for_together_ends_as_a_whole_one(number: signal.Signals, tmp_path: Path) -> None:
    top = f"steps = {LONG}\n{KEEP.replace('0.001', '0.05')}[collect]\nkinds = []\n"
    torch = INTERRUPTED.replace(f"time.sleep({TOGETHER_S})", "pass")
    case = write_case(tmp_path / "case", top, torch=torch, data=NUMBERED)
    run(case, tmp_path / "whole")
    out = tmp_path / "out"
    stop_at(case, LONG * 2 // 3, "coordinator", number)
    stopped = run(case, out)
    go_on(case)
    assert stopped.code == (130 if number == signal.SIGINT else -number)
    recorded = len(lines(out))
    assert LONG // 3 < recorded < LONG
    assert lines(out) == lines(tmp_path / "whole")[:recorded]
    resumed = resume(case, out)
    assert_same_run(resumed, out, tmp_path / "whole")
    assert 0 < resumed.result["resumed"]["from_step"] <= resumed.result["resumed"]["at_step"] == recorded


def test_what_user_code_keeps_to_itself_makes_a_run_begin_at_step_0(tmp_path: Path) -> None:
    counting = INTERRUPTED.replace("def loss(model, batch):\n", "CALLS = []\n\n\ndef loss(model, batch):\n    CALLS.append(1)\n")
    case = write_case(tmp_path / "case", f"{TOP}{KEEP}", torch=counting, paddle=PAUSED_PADDLE, data=NUMBERED)
    stop_at(case, 9, "coordinator", signal.SIGKILL)
    run(case, tmp_path / "out")
    go_on(case)
    resumed = resume(case, tmp_path / "out")
    assert (resumed.code, resumed.result["verdict"]) == (0, "aligned")
    note = resumed.result["resumed"]
    assert note["from_step"] == 0
    assert "global CALLS, which loss uses, changes from step to step" in note["note"]


CHANGES: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "script": (lambda case, out: edit(case / "torch_side.py", "lr=1e-2", "lr=2e-2"), "torch_side.py has changed"),
    "data": (lambda case, out: edit(case / "data.py", "(8, 6)", "(9, 6)"), "data.py has changed"),
    "option": (lambda case, out: edit(case / "case.toml", "resync = 5", "resync = 4"), "compare.resync was 5, is 4"),
    "name": (lambda case, out: edit(case / "case.toml", "steps", 'name = "other"\nsteps'), "is a run of the case"),
    "steps.jsonl": (lambda case, out: edit(out / "steps.jsonl", '{"step":1,', '{"step":3,'), "line 2 is not that of step 1"),
    "case.json": (lambda case, out: (out / "case.json").unlink(), "has no case.json"),
    "complete": (lambda case, out: shutil.copy(case.parent / "trained-whole" / "result.json", out), "this run is complete"),
}


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_is_not_continued_where_that_would_not_be_the_same_run(
    name: str, trained: tuple[Path, Path], interrupted: Path, tmp_path: Path
) -> None:
    case, out = copy(trained[0], tmp_path / "trained"), copy(interrupted, tmp_path / "out")
    copy(trained[1], tmp_path / "trained-whole")
    change, message = CHANGES[name]
    change(case, out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    refused = resume(case, out)
    assert refused.code == 2
    assert message in refused.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_numbers_that_do_not_repeat_are_told_and_nothing_is_lost(
    trained: tuple[Path, Path], interrupted: Path, tmp_path: Path
) -> None:
    out = copy(interrupted, tmp_path / "out")
    shutil.rmtree(out / "checkpoints")
    recorded = lines(out)
    loss = recorded[3]["loss"]["torch"]
    edit(out / "steps.jsonl", repr(loss), repr(loss + 1e-7))
    before = (out / "steps.jsonl").read_bytes()
    refused = resume(trained[0], out)
    assert refused.code == 3
    assert "step 3, run again, did not give what was recorded: loss.torch was" in refused.stderr
    assert "does not repeat bit by bit" in refused.stderr
    assert (out / "steps.jsonl").read_bytes() == before


def test_another_version_or_setting_of_a_side_is_named(
    trained: tuple[Path, Path], interrupted: Path, tmp_path: Path
) -> None:
    out = copy(interrupted, tmp_path / "out")
    sides = json.loads((out / "sides.json").read_text())
    sides["sides"]["torch"]["version"] = "2.12.0"
    del sides["lines"]  # as before lines had a form
    (out / "sides.json").write_text(json.dumps(sides))
    refused = resume(trained[0], out)
    assert refused.code == 2
    assert "torch: version was 2.12.0, is 2." in refused.stderr
    assert "this stepalign writes steps.jsonl in another form" in refused.stderr
