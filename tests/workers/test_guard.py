"""Nothing that a worker started outlives it or the coordinator, whatever it left behind: group, session, descriptors."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from stepalign.protocol.errors import WorkerFailure

DOUBLES = Path(__file__).parents[1] / "doubles"

DOING = {
    "sleeping in Python": "afterHello=hang",
    "sleeping in native code with the GIL held": "afterHello=hang_native",
    "a busy loop that holds the GIL": "afterHello=hang_busy",
    "stopped": "afterHello=SIGSTOP",
    "deaf to SIGTERM": "afterHello=hang_deaf",
    "in native code, with a child of its own": "afterHello=fork",
    "in native code, with a child that is a daemon, deaf to SIGTERM": "afterHello=daemon",
    "a busy loop, without its end of the lifeline": "afterHello=close_lifeline",
}


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def noted(path: Path) -> list[int]:
    return [int(pid) for pid in path.read_text(encoding="ascii").split()]


ENDS = [(doing, signal.SIGKILL) for doing in DOING] + [("stopped", signal.SIGTERM)]


@pytest.mark.parametrize(("doing", "end"), ENDS)
def test_a_worker_and_its_children_are_gone_two_seconds_after_the_coordinator(
    tmp_path: Path, wait_until: Any, doing: str, end: signal.Signals
) -> None:
    note, private = tmp_path / "note", tempfile.mkdtemp()
    command = [sys.executable, str(DOUBLES / "coordinator.py"), DOING[doing], str(note), private]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as coordinator:
        assert coordinator.stdout is not None
        worker, guard = (int(pid) for pid in coordinator.stdout.readline().split())
        pids = [*noted(note), guard]
        assert pids[0] == worker and len(pids) == (3 if "child" in doing else 2)
        assert not any(is_gone(pid) for pid in pids)
        coordinator.send_signal(end)
        died = time.monotonic()
        coordinator.wait()
    wait_until(lambda: all(is_gone(pid) for pid in pids), 2)
    assert time.monotonic() - died < 2
    shutil.rmtree(private)


def test_a_worker_that_starts_without_a_coordinator_ends_at_once() -> None:
    code = (
        "import os, time\nfrom stepalign.workers import guard\n"
        "reader, writer = os.pipe()\nos.close(writer)\nguard.stand(reader, '/nowhere/status')\ntime.sleep(1000)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], timeout=20)
    assert done.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("action", ["daemon_and_go", "daemon_and_die"])
def test_a_daemon_does_not_outlive_a_worker_that_ends_or_dies(stage: Any, action: str) -> None:
    worker = stage.start(fault=f"afterHello={action},onFinish=os._exit")
    stage.switchboard.greet(30)
    if action == "daemon_and_go":
        stage.switchboard.send("torch", _finish())
    assert worker.wait(20)
    pid, daemon = noted(stage.note())
    assert pid == worker.pid
    assert is_gone(daemon), "by the time that the worker's end is told"
    with pytest.raises(WorkerFailure, match=r"exit code 9" if action == "daemon_and_go" else r"SIGSEGV\(-11\)"):
        stage.switchboard.gather(["torch"], object, 5, "build")


def parent_of(pid: int) -> int:
    """Return the pid of a process's parent: of a worker, its guard; of that, the outer guard."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


@pytest.mark.parametrize("killed", ["guard", "outer guard"])
def test_neither_worker_nor_daemon_outlives_a_guard_that_is_killed(stage: Any, wait_until: Any, killed: str) -> None:
    worker = stage.start(fault="afterHello=daemon")
    wait_until(stage.note().exists)
    pids = noted(stage.note())
    guard = parent_of(worker.pid)
    assert pids[0] == worker.pid and len(pids) == 2 and parent_of(guard) == worker.process.pid
    os.kill(guard if killed == "guard" else worker.process.pid, signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in (*pids, guard)), 2)
    assert worker.wait(2) and worker.exit_code() == -signal.SIGKILL


def test_orphans_that_end_are_reaped_while_the_worker_runs(stage: Any, wait_until: Any) -> None:
    worker = stage.start(fault="afterHello=orphans")
    stage.switchboard.greet(30)
    wait_until(stage.note().exists)
    guard = parent_of(worker.pid)
    children = Path(f"/proc/{guard}/task/{guard}/children")
    wait_until(lambda: children.read_text(encoding="ascii").split() == [str(worker.pid)])
    assert worker.exit_code() is None


def test_a_child_that_ends_by_itself_is_not_killed(stage: Any, tmp_path: Path) -> None:
    worker = stage.start(fault="afterHello=tidy_child,onFinish=os._exit")
    stage.switchboard.greet(30)
    stage.switchboard.send("torch", _finish())
    assert worker.wait(20)
    assert Path(f"{stage.note()}.tidied").exists(), "it saw its pipe closed, tidied up and went"


def test_a_live_coordinator_keeps_its_worker(stage: Any) -> None:
    worker = stage.start()
    stage.switchboard.greet(30)
    time.sleep(0.2)
    assert worker.exit_code() is None
    assert os.getpgid(worker.pid) == worker.pid == os.getsid(worker.pid), "it leads a group and a session"
    assert len({os.getpgid(pid) for pid in (worker.pid, parent_of(worker.pid), worker.process.pid)}) == 3


def _finish() -> Any:
    from stepalign.protocol.messages import Finish

    return Finish()
