"""What the machine refuses is one message: what, where, and what to do."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
import zmq

from stepalign.coordinator.processes.machine_trouble import machine_trouble, require_open_files
from stepalign.coordinator.processes.private_folder import PrivateFolder
from stepalign.protocol.errors import EnvironmentFailure


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "x", "/run/a"), "/run/a: No space left on device. Free some space"),
        (OSError(errno.EMFILE, "x"), "Too many open files. Raise the limit on open files: ulimit -n"),
        (zmq.ZMQError(errno.EMFILE), "Too many open files. Raise"),
        (OSError("strange"), "strange."),
        (MemoryError(), "no more memory"),
    ],
)
def test_a_refusal_says_what_to_do(error: OSError, message: str) -> None:
    failure = machine_trouble(error)
    assert message in str(failure) and failure.exit_code == 3


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
