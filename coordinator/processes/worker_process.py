"""Starts and ends one worker's process: the mechanism. When to end it is decided elsewhere.

The process leads a group of its own; only that group is ever signalled. It holds the reading end of a pipe whose writer
is this process, so it cannot outlive us. Its output goes straight to its log file. Of the paths that Python takes from
its surroundings it gets none of ours, only what the case names.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Optional, Tuple

from stepalign.protocol.errors import EnvironmentFailure, StepalignError
from stepalign.protocol.status import Status, create_status, read_status

LOG_TAIL_LINES = 25
_MAX_TAIL_SIZE_BYTES = 16 << 10
_MAX_STACKS_SIZE_BYTES = 64 << 10


@dataclass(frozen=True)
class WorkerSpec:
    """What it takes to start one worker. ``cores`` empty means: not pinned."""

    role: str
    framework: str
    interpreter: Path
    log: Path
    env: Dict[str, str] = field(default_factory=dict)
    cores: Tuple[int, ...] = ()


class WorkerProcess:
    """One running worker: its handle, its log, its status page."""

    def __init__(self, spec: WorkerSpec, payload: Path, endpoint: str, private: Path) -> None:
        self.spec = spec
        status_path = str(private / f"{spec.role}.status")
        self._status = create_status(status_path)
        reader, self._lifeline = os.pipe()
        os.set_inheritable(reader, True)
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
            "PYTHONNOUSERSITE": "1",
            **spec.env,
            "STEPALIGN_ROLE": spec.role,
            "STEPALIGN_FRAMEWORK": spec.framework,
            "STEPALIGN_ENDPOINT": endpoint,
            "STEPALIGN_STATUS": status_path,
            "STEPALIGN_LIFELINE": str(reader),
            "PYTHONUNBUFFERED": "1",
        }
        try:
            log = open(spec.log, "ab")  # noqa: SIM115
        except OSError as error:
            os.close(reader)
            os.close(self._lifeline)
            os.close(self._status)
            raise StepalignError(f"the {spec.role} worker's log {spec.log} cannot be written: {error.strerror}") from None
        try:
            with log:
                self.process = subprocess.Popen(
                    [str(spec.interpreter), "-u", str(payload)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    pass_fds=(reader,),
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            os.close(self._lifeline)
            os.close(self._status)
            raise EnvironmentFailure(
                f"the {spec.role} worker's interpreter {spec.interpreter} does not start: {error}"
            ) from None
        finally:
            os.close(reader)
        self.pidfd = os.pidfd_open(self.process.pid)
        if spec.cores:
            self._pin(spec.cores)

    def _pin(self, cores: Tuple[int, ...]) -> None:
        try:
            os.sched_setaffinity(self.process.pid, cores)
        except ProcessLookupError:
            return  # it has ended already, which whoever waits for its first word will be told
        except OSError as error:
            self.close()
            listed = ", ".join(str(core) for core in cores)
            raise EnvironmentFailure(f"the {self.spec.role} worker cannot run on cores {listed}: {error.strerror}") from None

    @property
    def pid(self) -> int:
        return self.process.pid

    def status(self) -> Status:
        """Return the step and the phase that the worker noted last."""
        return read_status(self._status)

    def exit_code(self) -> Optional[int]:
        """Return the exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came in time."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the worker and its children; nothing happens if all are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def dump_stacks(self, wait_s: float = 1.0) -> str:
        """Ask a living worker for the stack of each thread; return what it wrote to its log."""
        before = size = self._log_size_bytes()
        try:
            os.kill(self.process.pid, signal.SIGUSR1)
        except ProcessLookupError:
            return ""
        deadline = time.monotonic() + wait_s
        settled = False
        while time.monotonic() < deadline and not settled:
            time.sleep(0.05)
            settled = size != before and self._log_size_bytes() == size
            size = self._log_size_bytes()
        return self._read_log(before, _MAX_STACKS_SIZE_BYTES)

    def log_tail(self) -> str:
        """Return the last lines that the worker wrote."""
        size_bytes = self._log_size_bytes()
        text = self._read_log(max(0, size_bytes - _MAX_TAIL_SIZE_BYTES), _MAX_TAIL_SIZE_BYTES)
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:])

    def _log_size_bytes(self) -> int:
        try:
            return self.spec.log.stat().st_size
        except OSError:
            return 0

    def _read_log(self, offset: int, size_bytes: int) -> str:
        """Return a part of the log; nothing where the run folder has vanished, which must not hide what went wrong."""
        try:
            with open(self.spec.log, "rb") as log:
                log.seek(offset)
                return log.read(size_bytes).decode("utf-8", "replace")
        except OSError:
            return ""

    def close(self) -> None:
        """Kill what is left of the group, reap it and give its handles back."""
        if self.process.poll() is None:
            self.signal_group(signal.SIGKILL)
            self.process.wait()
        self.signal_group(signal.SIGKILL)
        os.close(self.pidfd)
        os.close(self._lifeline)
        os.close(self._status)


def name_exit(code: int) -> str:
    """Return an exit code in words: ``SIGSEGV(-11)``, ``exit code 1``."""
    if code < 0:
        try:
            return f"{signal.Signals(-code).name}({code})"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
