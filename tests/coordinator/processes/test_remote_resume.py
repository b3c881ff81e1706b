"""A run with a side on another machine is continued: after its link went down, and after its coordinator was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ..real_cases import Ended
from ..running.test_resume import KEEP, NUMBERED, TOP, assert_same_run, trained_sides
from ..two_machines import OUR_LINK, Command, ip, steps_of, write_remote_case


def wait_for_steps(command: Command, out: Path, count: int) -> None:
    """Wait until a run has so many steps, and a checkpoint of one of the last."""
    while steps_of(out) < count or not any(int(path.name) > count - 4 for path in (out / "checkpoints").glob("[0-9]*")):
        assert command.process.poll() is None, command.errors()
        time.sleep(0.02)


def test_a_run_over_two_machines_goes_on_from_its_checkpoint(start: Callable[..., Command], tmp_path: Path) -> None:
    sides = trained_sides()
    slow = sides["torch"].replace("    interrupt(batch)\n", "    import time\n    time.sleep(0.4)\n")
    top = f'{TOP}mode = "train"\n[compare]\nresync = 5\ndropout = "shared"\n{KEEP}'
    case = write_remote_case(tmp_path / "case", top, torch=slow, paddle=sides["paddle"], data=NUMBERED)
    whole, out = tmp_path / "whole", tmp_path / "out"
    uninterrupted = start("run", case, "--quiet", "--json", "--out", whole)
    uninterrupted.start_agent(case)
    assert uninterrupted.result()["verdict"] == "aligned"

    cut_off = start("run", case, "--quiet", "--json", "--out", out)
    cut_off.start_agent(case)
    wait_for_steps(cut_off, out, 4)
    ip("link", "set", OUR_LINK, "down")
    try:
        assert "gave no sign of life" in cut_off.result()["error"]["message"]
    finally:
        ip("link", "set", OUR_LINK, "up")

    killed = start("run", case, "--quiet", "--json", "--resume", out)
    first_key = killed.key.read_text()
    killed.start_agent(case)
    complete = steps_of(out)
    wait_for_steps(killed, out, max(8, complete + 1))
    os.killpg(killed.process.pid, signal.SIGKILL)
    killed.process.wait()

    resumed = start("run", case, "--quiet", "--json", "--resume", out)
    assert resumed.key.read_text() != first_key
    complete = steps_of(out)
    resumed.start_agent(case)
    result = resumed.result()
    assert_same_run(Ended(resumed.process.returncode, result, "", resumed.errors(), out), out, whole)
    assert (result["resumed"]["at_step"], result["resumed"]["note"]) == (complete, "")
    assert complete - 6 < result["resumed"]["from_step"] <= complete
    assert not (out / "remote").exists()
    assert [command.agents[0].wait(30) for command in (uninterrupted, cut_off, killed, resumed)] == [0, 3, 3, 0]
