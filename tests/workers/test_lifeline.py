"""A worker ends with its coordinator, however that ended and whatever the worker is doing."""

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

DOUBLES = Path(__file__).parents[1] / "doubles"

DOING = {
    "sleeping in Python": "afterHello=hang",
    "sleeping in native code with the GIL held": "afterHello=hang_native",
    "a busy loop that holds the GIL": "afterHello=hang_busy",
    "stopped": "afterHello=SIGSTOP",
    "deaf to SIGTERM": "afterHello=hang_deaf",
    "in native code, with a child of its own": "afterHello=fork",
}


def is_gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


ENDS = [(doing, signal.SIGKILL) for doing in DOING] + [("stopped", signal.SIGTERM)]


@pytest.mark.parametrize(("doing", "end"), ENDS)
def test_a_worker_and_its_children_are_gone_two_seconds_after_the_coordinator(
    tmp_path: Path, wait_until: Any, doing: str, end: signal.Signals
) -> None:
    note, private = tmp_path / "note", tempfile.mkdtemp()
    command = [sys.executable, str(DOUBLES / "coordinator.py"), DOING[doing], str(note), private]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as coordinator:
        assert coordinator.stdout is not None
        worker = int(coordinator.stdout.readline())
        pids = [int(pid) for pid in note.read_text(encoding="ascii").split()]
        assert pids[0] == worker and len(pids) == (2 if "child" in doing else 1)
        assert not any(is_gone(pid) for pid in pids)
        coordinator.send_signal(end)
        died = time.monotonic()
        coordinator.wait()
    wait_until(lambda: all(is_gone(pid) for pid in pids), 2)
    assert time.monotonic() - died < 2
    shutil.rmtree(private)


def test_a_worker_that_closed_what_it_inherited_is_gone_too() -> None:
    code = (
        "import os, sys, time\nfrom stepalign.workers import lifeline\n"
        "lifeline.hold(0)\ntime.sleep(0.1)\nos.closerange(3, 256)\nos.close(0)\n"
        "print('closed', flush=True)\nwhile True: pass\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        assert worker.stdout.readline() == "closed\n"
        assert worker.poll() is None
        worker.stdin.close()
        assert worker.wait(2) == -signal.SIGKILL


def test_a_worker_that_starts_without_a_coordinator_ends_at_once(tmp_path: Path) -> None:
    code = (
        "import os, time\nfrom stepalign.workers import lifeline\n"
        "os.setsid() if os.getpgrp() != os.getpid() else None\n"
        "reader, writer = os.pipe()\nos.close(writer)\nlifeline.hold(reader)\ntime.sleep(1000)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], timeout=20, start_new_session=True)
    assert done.returncode == -signal.SIGKILL
    assert time.monotonic() - started < 10


def test_the_lifeline_is_not_inherited_by_programs_that_a_worker_starts(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\nfrom stepalign.workers import lifeline\n"
        "reader, writer = os.pipe()\nos.set_inheritable(reader, True)\nlifeline.hold(reader)\n"
        "command = [sys.executable, '-c', 'import os; os.fstat(%d)' % reader]\n"
        "print(subprocess.run(command, close_fds=False, stderr=subprocess.DEVNULL).returncode)\n"
        "sys.stdout.flush()\nos._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=20, start_new_session=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "1", done.stderr


def test_a_live_coordinator_keeps_its_worker(stage: Any) -> None:
    worker = stage.start()
    stage.switchboard.greet(30)
    time.sleep(0.2)
    assert worker.exit_code() is None and os.getpgid(worker.pid) == worker.pid
