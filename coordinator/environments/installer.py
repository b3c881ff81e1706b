"""Run an interpreter's own modules (``venv``, ``pip``) for us: their lines as they come, and never longer than we live.

The child leads its own process group and holds the reading end of a pipe that only we hold open: when we end, however
we end, the pipe does too, and the child kills its group. On our way out (Ctrl-C included) we kill that group ourselves.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stepalign.protocol.errors import DeadlineExceeded, EnvironmentFailure

OnLine = Callable[[str], None]

_SUPERVISED = r"""
import os, runpy, signal, sys, threading
lifeline = int(sys.argv[1])
os.set_inheritable(lifeline, False)
def watch():
    os.read(lifeline, 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
module, sys.argv = sys.argv[2], sys.argv[2:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""

_DIVERTING_VARIABLES = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_PYTHON",
    "PIP_DRY_RUN",
    "PIP_DOWNLOAD",
    "PIP_LOG",
    "__PYVENV_LAUNCHER__",
)
"""Variables that would make pip or venv write somewhere else than into the environment that is being made."""

_TAIL_LINES = 15


@dataclass(frozen=True)
class Outcome:
    """How a module ended: its exit status and the last lines it wrote."""

    status: int
    tail: tuple[str, ...]


def run_module(
    python: Path,
    module: str,
    arguments: tuple[str, ...],
    on_line: OnLine,
    deadline_s: float,
    temporary_folder: Path,
    watched_folder: Path,
    heartbeat_s: float = 10.0,
) -> Outcome:
    """Run ``python -m module arguments`` isolated, passing each line it writes to ``on_line``.

    After ``heartbeat_s`` without a line, one tells the time and the size of ``watched_folder``. The module's temporary
    files go below ``temporary_folder``. Raises EnvironmentFailure if the interpreter cannot be started and
    DeadlineExceeded after ``deadline_s``; whatever is raised, by ``on_line`` too, nothing is left running.
    """
    started = time.monotonic()
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [str(python), "-I", "-u", "-c", _SUPERVISED, str(reading), module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(reading,),
            start_new_session=True,
            env=_environment(os.environ, temporary_folder),
        )
    except OSError as error:
        os.close(writing)
        raise EnvironmentFailure(f"{python} cannot be started: {error.strerror or error}.") from None
    finally:
        os.close(reading)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        for line in _lines(process, heartbeat_s):
            elapsed_s = time.monotonic() - started
            if elapsed_s > deadline_s:
                raise DeadlineExceeded(
                    f"{module} was still running after {deadline_s:g} s and was stopped. Its last lines:\n{quote(tail)}"
                )
            if line is None:
                on_line(f"… {elapsed_s:.0f} s, {_size_bytes(watched_folder) / 1e6:.0f} MB so far")
            elif line:
                tail.append(line)
                on_line(line)
    finally:
        status = _kill(process)
        os.close(writing)
    return Outcome(status, tuple(tail))


def quote(lines: deque[str] | tuple[str, ...]) -> str:
    """Indent another program's lines for a message of ours."""
    return "\n".join(f"  | {line[:500]}" for line in lines) or "  | (no output)"


def _environment(base: Mapping[str, str], temporary_folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in base.items() if name not in _DIVERTING_VARIABLES}
    return {
        **kept,
        "PIP_USER": "0",
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_PROGRESS_BAR": "off",
        "TMPDIR": str(temporary_folder),
    }


def _lines(process: subprocess.Popen[bytes], heartbeat_s: float) -> Iterator[str | None]:
    """Yield the process's lines until it ends; None whenever ``heartbeat_s`` have passed since the last yield."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    unfinished = b""
    told = time.monotonic()
    with process.stdout, selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            ended = _has_ended(process)
            if selector.select(timeout=0.0 if ended else min(0.5, heartbeat_s)):
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    break
                *whole, unfinished = (unfinished + chunk).replace(b"\r", b"\n").split(b"\n")
                for line in whole:
                    yield line.decode("utf-8", "replace").rstrip()
                told = time.monotonic()
            elif ended:
                break
            elif time.monotonic() - told >= heartbeat_s:
                yield None
                told = time.monotonic()
    if unfinished:
        yield unfinished.decode("utf-8", "replace").rstrip()
    while not _has_ended(process):
        time.sleep(0.01)
        yield None if time.monotonic() - told >= heartbeat_s else ""


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Look without reaping: until the leader is reaped, its group's number cannot be given to anyone else."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill(process: subprocess.Popen[bytes]) -> int:
    """End whoever is left of the process's group, then reap its leader and give its exit status."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _size_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
