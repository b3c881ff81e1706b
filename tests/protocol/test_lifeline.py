"""The kernel ends a worker's process group when its lifeline is hung up, with no thread of ours running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from stepalign.protocol import lifeline

HELD = (
    "import os\nfrom stepalign.protocol import lifeline\n"
    "lifeline.arm(0, os.getpgrp())\nos.dup2(0, 5)\nprint('held', flush=True)\nwhile True: pass\n"
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


def test_another_process_can_arm_it_for_the_group() -> None:
    reader, writer = os.pipe()
    command = [sys.executable, "-c", "print('here', flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, pass_fds=(reader,)) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == b"here\n"
        lifeline.arm(reader, worker.pid)
        os.close(reader)
        assert worker.poll() is None
        os.close(writer)
        assert worker.wait(2) == -signal.SIGKILL
