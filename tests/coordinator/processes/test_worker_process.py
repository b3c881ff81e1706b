"""Starting and ending one worker's process: its group, its surroundings, its log, its handles."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.processes.stopping import stop_workers
from stepalign.coordinator.processes.worker_log import LOG_TAIL_LINES
from stepalign.coordinator.processes.worker_process import WorkerProcess, WorkerSpec, name_exit
from stepalign.protocol.errors import EnvironmentFailure, StepalignError
from stepalign.protocol.status import Status

SHOW_SURROUNDINGS = """
import json, os, sys
print(json.dumps({"env": dict(os.environ), "path": sys.path, "group": os.getpgrp() == os.getpid(),
                  "session": os.getsid(0) == os.getpid(), "cores": sorted(os.sched_getaffinity(0)),
                  "stdin": sys.stdin.read(), "files": sorted(int(n) for n in os.listdir("/proc/self/fd"))}))
"""


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Return a function that starts a script as a worker; the workers are closed with the test."""
    started: list[WorkerProcess] = []

    def begin(script: str = "", interpreter: str = sys.executable, **changes: Any) -> WorkerProcess:
        (tmp_path / "script.py").write_text(script, encoding="utf-8")
        spec = WorkerSpec("torch", "torch", Path(interpreter), changes.pop("log", tmp_path / "torch.log"), **changes)
        private = tmp_path / f"private{len(started)}"
        private.mkdir(exist_ok=True)
        worker = WorkerProcess(spec, tmp_path / "script.py", "ipc://nowhere", private)
        started.append(worker)
        request.addfinalizer(worker.close)
        return worker

    return begin


def surroundings(worker: WorkerProcess) -> Any:
    import json

    assert worker.wait(20) and worker.exit_code() == 0, worker.log_tail()
    return json.loads(worker.log_tail().splitlines()[-1])


def test_a_worker_leads_its_own_group_and_holds_only_its_pipe_and_journal(start: Any) -> None:
    found = surroundings(start(SHOW_SURROUNDINGS))
    assert found["group"] and found["session"]
    assert found["stdin"] == ""
    assert int(found["env"]["STEPALIGN_LIFELINE"]) in found["files"]
    assert int(found["env"]["STEPALIGN_JOURNAL"]) in found["files"]
    assert len(found["files"]) == 6, "three standard files, the lifeline, the journal, and the listing itself"


def test_an_interpreter_that_hangs_before_it_is_a_worker_ends_with_the_coordinator(start: Any) -> None:
    worker = start("while True: pass")
    os.close(worker._lifeline)
    worker._lifeline = os.open(os.devnull, os.O_WRONLY)
    assert worker.wait(2) and worker.exit_code() == -signal.SIGKILL


def test_a_worker_gets_the_environment_without_our_python_paths_and_with_what_the_case_names(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("PYTHONHOME", "/somewhere")
    monkeypatch.setenv("KEPT", "1")
    env = surroundings(start(SHOW_SURROUNDINGS, env={"OWN": "2", "PYTHONUNBUFFERED": "0", "STEPALIGN_ROLE": "liar"}))[
        "env"
    ]
    assert "PYTHONPATH" not in env and "PYTHONHOME" not in env
    assert (env["KEPT"], env["OWN"], env["PYTHONNOUSERSITE"]) == ("1", "2", "1")
    assert (env["STEPALIGN_ROLE"], env["STEPALIGN_FRAMEWORK"], env["STEPALIGN_ENDPOINT"]) == (
        "torch",
        "torch",
        "ipc://nowhere",
    )


def test_a_python_path_that_the_case_names_is_given(start: Any, tmp_path: Path) -> None:
    assert str(tmp_path) in surroundings(start(SHOW_SURROUNDINGS, env={"PYTHONPATH": str(tmp_path)}))["path"]


def test_the_working_directory_is_not_on_the_path(start: Any, tmp_path: Path) -> None:
    path = surroundings(start(SHOW_SURROUNDINGS))["path"]
    assert "" not in path and os.getcwd() not in path[:1]


def test_a_worker_is_pinned_to_its_cores(start: Any) -> None:
    core = min(os.sched_getaffinity(0))
    assert surroundings(start("import time; time.sleep(0.3)\n" + SHOW_SURROUNDINGS, cores=(core,)))["cores"] == [core]


def test_cores_that_are_not_there_end_the_worker_with_a_message(start: Any) -> None:
    with pytest.raises(EnvironmentFailure, match="the torch worker cannot run on cores 1000: Invalid argument"):
        start("import time; time.sleep(1000)", cores=(1000,))


def test_a_worker_that_ended_before_it_was_pinned_is_no_error_here(start: Any) -> None:
    worker = start(interpreter="/bin/false", cores=tuple(os.sched_getaffinity(0)))
    assert worker.wait(10) and worker.exit_code() == 1


@pytest.mark.parametrize("interpreter", ["/nowhere/python", "/etc/hostname", "/tmp"])
def test_an_interpreter_that_does_not_start_is_named(start: Any, interpreter: str) -> None:
    with pytest.raises(EnvironmentFailure, match=f"the torch worker's interpreter {interpreter} does not start"):
        start(interpreter=interpreter)


def test_a_log_that_cannot_be_written_is_named(start: Any, tmp_path: Path) -> None:
    with pytest.raises(
        StepalignError, match="the torch worker's log .*/nowhere/torch.log cannot be written: No such file"
    ):
        start(log=tmp_path / "nowhere" / "torch.log")


def test_an_impossible_environment_variable_is_an_error_that_leaves_nothing_open(start: Any) -> None:
    with pytest.raises(EnvironmentFailure, match="does not start"):
        start(env={"A": "nul \0"})


def test_the_log_keeps_both_streams_and_the_tail_is_its_last_lines(start: Any) -> None:
    worker = start("import sys\nfor i in range(100):\n    print(i, file=sys.stderr if i % 2 else sys.stdout)")
    assert worker.wait(20)
    assert worker.spec.log.read_text(encoding="utf-8").splitlines()[:100] == [str(i) for i in range(100)]
    assert len(worker.log_tail().splitlines()) == LOG_TAIL_LINES


def test_bytes_that_are_no_text_do_not_hide_the_log(start: Any) -> None:
    worker = start("import os\nos.write(1, b'before \\xff\\xfe after\\n')")
    assert worker.wait(20)
    assert worker.log_tail() == "before \ufffd\ufffd after"


def test_one_endless_line_is_cut(start: Any) -> None:
    worker = start("import os\nfor _ in range(64): os.write(1, b'x' * 65536)")
    assert worker.wait(20)
    assert len(worker.log_tail()) <= 1 << 14


def test_the_status_is_start_until_the_worker_says_otherwise(start: Any) -> None:
    worker = start("")
    assert worker.status() == Status(None, "start")
    worker.wait(20)
    assert worker.status() == Status(None, "start")


def test_the_stacks_of_all_threads_are_dumped_whole(stage: Any, wait_until: Any) -> None:
    worker = stage.start(fault="afterHello=hang")
    wait_until(stage.note().exists)
    stacks = worker.dump_stacks()
    assert "in hang_in_python" in stacks and "in watch_the_clock" in stacks
    assert stacks.rstrip().splitlines()[-1].endswith(("in <module>", "_bootstrap")), "the outermost frame is there"


def test_a_stopped_worker_gives_no_stacks_in_bounded_time(stage: Any, wait_until: Any) -> None:
    worker = stage.start(fault="afterHello=SIGSTOP")
    wait_until(stage.note().exists)
    started = time.monotonic()
    assert worker.dump_stacks(0.3) == ""
    assert time.monotonic() - started < 1


def test_closing_kills_the_worker_and_its_children(stage: Any, wait_until: Any) -> None:
    worker = stage.start(fault="afterHello=fork")
    wait_until(stage.note().exists)
    pids = [int(pid) for pid in stage.note().read_text(encoding="ascii").split()]
    assert len(pids) == 2 and pids[0] == worker.pid
    worker.kill()
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), 2)


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def test_the_ladder_asks_then_terminates_then_kills(stage: Any, wait_until: Any) -> None:
    willing = stage.start("torch")
    deaf = stage.start("paddle", fault="onConfigure=hang_deaf,afterHello=hang_deaf")
    wait_until(stage.note("paddle").exists)
    stage.switchboard.gather(("torch", "paddle"), object, 20, "start")
    started = time.monotonic()
    stop_workers(stage.workers.values(), stage.switchboard, 0.5)
    took_s = time.monotonic() - started
    assert deaf.exit_code() == -signal.SIGKILL
    assert willing.exit_code() is not None
    assert 1.0 < took_s < 4


def test_stopping_what_has_ended_takes_no_time(start: Any) -> None:
    worker = start("")
    worker.wait(20)
    started = time.monotonic()
    stop_workers([worker], None, 100.0)
    assert time.monotonic() - started < 0.5
    assert worker.exit_code() == 0


@pytest.mark.parametrize(
    ("code", "name"),
    [(-9, "SIGKILL(-9)"), (-11, "SIGSEGV(-11)"), (1, "exit code 1"), (78, "exit code 78"), (-63, "signal 63")],
)
def test_exit_codes_have_names(code: int, name: str) -> None:
    assert name_exit(code) == name
