"""Starts and ends one worker's process: the mechanism. When to end it is decided elsewhere.

What we start leads a group of its own and parts in three: two guards, and the worker below them (`workers/guard.py`). Only
the outer guard is ever signalled from here; it passes signals on, ends all that the worker started, and ends as the worker
did. It holds the reading end of a pipe whose writer is this process, so nothing of it can outlive us. The worker's output
goes straight to its log file. Of the paths that Python takes from its surroundings it gets none of ours, only what the
case names.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from stepalign.coordinator.processes.worker_log import WorkerLog
from stepalign.protocol import lifeline
from stepalign.protocol.errors import EnvironmentFailure, StepalignError
from stepalign.protocol.journal import open_journal
from stepalign.protocol.memory import Memory, open_memory
from stepalign.protocol.status import Status, create_status, is_guarded, read_pid, read_status

_GUARD_S = 7.0
"""A guard that was told to end all needs less, unless the kernel cannot end a process."""


@dataclass(frozen=True)
class WorkerSpec:
    """What it takes to start one worker. ``cores`` empty means: not pinned; ``memory_mib`` bounds the memory that it
    shares in either direction, 0: none.

    ``command`` are the words of a user's own command after its interpreter or program, run in ``folder``; without any the
    interpreter runs the payload.
    """

    role: str
    framework: str
    interpreter: Path
    log: Path
    env: Dict[str, str] = field(default_factory=dict)
    cores: Tuple[int, ...] = ()
    memory_mib: int = 0
    command: Optional[Tuple[str, ...]] = None
    folder: Optional[Path] = None


class WorkerProcess:
    """One running worker: its handle, its log, its status page."""

    def __init__(self, spec: WorkerSpec, payload: Path, endpoint: str, private: Path) -> None:
        self.spec = spec
        self._log = WorkerLog(spec.log)
        status_path = str(private / f"{spec.role}.status")
        self._status = create_status(status_path)
        reader, self._lifeline = os.pipe()
        self.memory: Optional[Memory] = None
        self.journal, journal = open_journal()
        inherited: Tuple[int, ...] = (reader, journal)
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
            "PYTHONNOUSERSITE": "1",
            **spec.env,
            **({} if spec.command is None else _command_environment(spec, payload)),
            "STEPALIGN_ROLE": spec.role,
            "STEPALIGN_FRAMEWORK": spec.framework,
            "STEPALIGN_ENDPOINT": endpoint,
            "STEPALIGN_STATUS": status_path,
            "STEPALIGN_LIFELINE": str(reader),
            "STEPALIGN_JOURNAL": str(journal),
            "PYTHONUNBUFFERED": "1",
        }
        if spec.memory_mib:
            with contextlib.suppress(OSError):  # the system gives none: everything travels as frames
                self.memory, shared = open_memory(spec.memory_mib << 20)
                environment["STEPALIGN_MEMORY"] = ",".join(str(number) for number in shared)
                inherited += shared
        try:
            log = open(spec.log, "ab")  # noqa: SIM115
        except OSError as error:
            _close_all(*inherited, self._lifeline, self._status)
            self.journal.close()
            raise StepalignError(f"the {spec.role} worker's log {spec.log} cannot be written: {error.strerror}") from None
        try:
            with log, _pinned(spec.cores):
                self.process = subprocess.Popen(
                    _words(spec, payload),
                    cwd=spec.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=inherited,
                    start_new_session=True,
                )
            lifeline.arm(reader, self.process.pid)
        except (OSError, ValueError, _CoresRefused) as error:
            _close_all(self._lifeline, self._status)
            self.journal.close()
            if isinstance(error, _CoresRefused):
                raise EnvironmentFailure(f"the {spec.role} worker cannot run on {error}") from None
            raise EnvironmentFailure(
                f"the {spec.role} worker's interpreter {spec.interpreter} does not start: {error}"
            ) from None
        finally:
            _close_all(*inherited)
        self.pidfd = os.pidfd_open(self.process.pid)

    @property
    def pid(self) -> int:
        """The worker's own pid; that of the process which becomes its guard, before there is a worker."""
        return read_pid(self._status) or self.process.pid

    def status(self) -> Status:
        """Return the step and the phase that the worker noted last."""
        return read_status(self._status)

    def exit_code(self) -> Optional[int]:
        """Return the exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def state(self) -> str:
        """Return the kernel's letter for what the worker's process does: R, S, T, D; empty where it is gone."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0].decode("ascii")
        except (OSError, IndexError):
            return ""

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came in time."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def terminate(self) -> None:
        """Send SIGTERM to the worker's group, by way of its guard; nothing happens if all are gone."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the worker's group; its guard then ends whatever else the worker started."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError):  # the reading end is gone: so is whoever held it
                os.write(self._lifeline, b"\0")
            if not is_guarded(self._status):  # not yet: the interpreter still starts, or is no Python
                os.killpg(self.process.pid, signal.SIGKILL)

    def dump_stacks(self, wait_s: float = 1.0) -> str:
        """Ask a living worker for the stack of each thread; return what it wrote to its log."""
        if self.process.poll() is not None or read_pid(self._status) is None:
            return ""
        before = self._log.size_bytes()
        os.kill(self.process.pid, signal.SIGUSR1)
        return self._log.written_after(before, wait_s)

    def log_tail(self) -> str:
        """Return the last lines that the worker wrote."""
        return self._log.tail()

    def describe_end(self) -> str:
        """Say how it ended."""
        return name_exit(self.process.returncode)

    def close(self) -> None:
        """Kill what is left, reap it and give its handles back."""
        self.kill()
        if not self.wait(_GUARD_S):
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.memory = None
        self.journal.close()
        _close_all(self.pidfd, self._lifeline, self._status)


def _close_all(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _CoresRefused(Exception):
    """The kernel does not let the worker run on its cores."""


@contextlib.contextmanager
def _pinned(cores: Tuple[int, ...]) -> Iterator[None]:
    """Bind this thread to ``cores`` for as long as it takes to start a process, which inherits them."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        listed = ", ".join(str(core) for core in cores)
        raise _CoresRefused(f"cores {listed}: {error.strerror}") from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _words(spec: WorkerSpec, payload: Path) -> List[str]:
    """Return what is started: the payload in the worker's interpreter, or in ours as the guard of a command."""
    if spec.command is None:
        return [str(spec.interpreter), "-u", str(payload)]
    return [sys.executable, "-I", "-u", str(payload), str(spec.interpreter), *spec.command]


def _command_environment(spec: WorkerSpec, payload: Path) -> Dict[str, str]:
    """Return what a command needs to find `stepalign`: PYTHONPATH has the payload first, then what the case names."""
    paths = filter(None, (str(payload), spec.env.get("PYTHONPATH", "")))
    return {"PYTHONPATH": os.pathsep.join(paths), "STEPALIGN_COMMAND": "1"}


def name_exit(code: int) -> str:
    """Return an exit code in words: ``SIGSEGV(-11)``, ``exit code 1``."""
    if code < 0:
        try:
            return f"{signal.Signals(-code).name}({code})"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
