"""What the machine refuses is one message: what, where, and what to do."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from stepalign.coordinator.processes.machine_trouble import (
    machine_trouble,
    require_open_files,
    require_threads,
    thread_hint,
)
from stepalign.coordinator.processes.private_folder import PrivateFolder
from stepalign.coordinator.results.deliverables import attempt
from stepalign.protocol.errors import EnvironmentFailure


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x", "/run/a"), "/run/a: No space left on device. Free some space"),
        (OSError(errno.EMFILE, "x"), "Too many open files. Raise the limit on open files: ulimit -n"),
        (zmq.ZMQError(errno.EMFILE), "Too many open files. Raise"),
        (OSError("strange"), "strange."),
        (MemoryError(), "no more memory"),
        (RuntimeError("can't start new thread"), "start no more threads. Raise the limit on processes and threads: ulimit -u"),
    ],
)
def test_a_refusal_says_what_to_do(error: OSError, message: str) -> None:
    failure = machine_trouble(error)
    assert message in str(failure) and failure.exit_code == 3


def no_memory(*arguments: object) -> None:
    raise MemoryError


REFUSES = """
import sys
from types import SimpleNamespace
from stepalign.coordinator.cli.main import main
def refuse(*arguments):
    raise {refusal}
sys.modules["stepalign.coordinator.cli.main"].importlib = SimpleNamespace(import_module=refuse)
sys.exit(main(["report", "run"]))
"""


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ("MemoryError", "gave the coordinator no more memory. Free some"),
        ("RuntimeError(\"can't start new thread\")", "let the coordinator start no more threads. Raise the limit"),
    ],
)
def test_what_is_refused_anywhere_is_no_mistake_of_ours(refusal: str, message: str) -> None:
    code = REFUSES.format(refusal=refusal)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "Traceback" not in done.stderr
    assert f"stepalign: this machine {message}" in done.stderr


def test_another_error_of_that_kind_is_still_a_mistake_of_ours() -> None:
    code = REFUSES.format(refusal="RuntimeError('dictionary changed size during iteration')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "Traceback" in done.stderr and "mistake of stepalign's own" in done.stderr
    with pytest.raises(RuntimeError, match="changed size"):
        machine_trouble(RuntimeError("dictionary changed size"))


def test_too_few_threads_are_told_before_anything_is_started() -> None:
    pid = os.fork()
    if not pid:
        try:
            if not os.getuid():
                os.setresuid(64321, 64321, 64321)  # the limit is not root's
            resource.setrlimit(resource.RLIMIT_NPROC, (5, 5))
            require_threads()
        except EnvironmentFailure as failure:
            os._exit(7 if "too few threads" in str(failure) and "ulimit -u" in str(failure) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    before = threading.active_count()
    require_threads()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "words",
    [
        "Resource temporarily unavailable (src/thread.cpp:241)\nFatal Python error: Aborted",
        "libgomp: Thread creation failed: Resource temporarily unavailable",
        "RuntimeError: can't start new thread",
    ],
)
def test_a_worker_that_was_refused_a_thread_is_told_with_what_to_do(words: str) -> None:
    assert "ulimit -u" in thread_hint(words) and thread_hint("Segmentation fault") == ""


def test_a_file_for_which_memory_is_refused_does_not_keep_the_others_from_being_written() -> None:
    written: list[int] = []
    failure = attempt(no_memory, lambda: written.append(1))
    assert written and "no more memory" in str(failure)


def test_too_few_open_files_are_told_before_anything_is_started() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/proc/self/fd"))
    pid = os.fork()
    if not pid:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (held + 5, held + 5))
            require_open_files()
        except EnvironmentFailure as failure:
            os._exit(7 if "ulimit -n" in str(failure) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held + 5, hard))
        require_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > held + 30, "the soft limit is ours to raise"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_private_folder_is_nobody_elses_and_its_socket_fits_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep" * 40)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    private = PrivateFolder()
    try:
        assert private.path.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(private.path / "s")) <= 107
        assert not list(deep.iterdir())
    finally:
        private.remove()
    assert not private.path.exists()


HOLDS_A_FOLDER = """
import sys
from pathlib import Path
from stepalign.coordinator.processes.private_folder import PrivateFolder
private = PrivateFolder()
(private.path / "below").mkdir()
(private.path / "below" / "file").touch()
print(private.path, flush=True)
sys.stdin.read()
"""


def test_a_private_folder_of_a_killed_owner_is_deleted_where_no_worker_runs(
    tmp_path: Path, wait_until: Callable[..., Any]
) -> None:
    other = tmp_path / "stepalign-run-other"
    other.mkdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLDS_A_FOLDER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().rstrip())
        assert (folder / "below" / "file").exists() and folder.parent == tmp_path
        owner.kill()
    wait_until(lambda: not folder.exists())
    assert other.exists()
