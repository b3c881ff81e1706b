"""The kernel ends a worker's process group when its lifeline is hung up, with no thread of ours running."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

HELD = (
    "import os, time\nfrom stepalign.workers import lifeline\n"
    "lifeline.hold(0)\nos.dup2(0, 5)\nprint('held', flush=True)\nwhile True: pass\n"
)


@pytest.mark.parametrize("end", ["hung up", "written to"])
def test_a_busy_process_is_gone_once_its_lifeline_is(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        assert worker.stdout.readline() == b"held\n"
        assert worker.poll() is None
        if end == "written to":
            worker.stdin.write(b"\0")
            worker.stdin.flush()
        else:
            worker.stdin.close()
        assert worker.wait(2) == -signal.SIGKILL


def test_the_lifeline_is_not_inherited_by_programs_that_a_worker_starts() -> None:
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
