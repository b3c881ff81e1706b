"""A worker on another machine, as the rest of the coordinator sees it: the same handle as of one on this machine.

Its agent's reports stand for what the kernel tells of a local process: where it is, what it wrote, how it ended. The
descriptor `pidfd` becomes readable at its end, also when its machine gives no more sign of life.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Callable, Optional

from stepalign.coordinator.processes.worker_log import WorkerLog
from stepalign.coordinator.processes.worker_process import WorkerSpec, name_exit
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.journal import JournalReader
from stepalign.protocol.memory import Memory
from stepalign.protocol.messages import RemoteStatus
from stepalign.protocol.status import Status

_STACKS_WAIT_S = 4.0
_CLOSE_WAIT_S = 3.0
EXIT_LOST = 255


class RemoteWorker:
    """One worker that an agent runs. ``tell`` passes on what its agent shall do with it: a word of `EndWorker`."""

    def __init__(self, spec: WorkerSpec, machine: str, tell: Callable[[str], None]) -> None:
        self.spec = spec
        self.memory: Optional[Memory] = None
        self.journal: Optional[JournalReader] = None
        self.pidfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._machine = machine
        self._tell = tell
        self._log = WorkerLog(spec.log)
        self._status = Status(None, "start")
        self._pid: Optional[int] = None
        self._code: Optional[int] = None
        self._lost = ""
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._file = open(spec.log, "ab", buffering=0)  # noqa: SIM115 (closed by close)
        except OSError as error:
            os.close(self.pidfd)
            raise StepalignError(f"the {spec.role} worker's log {spec.log} cannot be written: {error.strerror}") from None

    def take_report(self, report: RemoteStatus) -> None:
        """Note what its agent says of it."""
        with self._lock:
            if self._closed or self._ended.is_set():
                return
            self._status, self._pid = Status(report.step, report.phase), report.pid
            if report.log:
                with contextlib.suppress(OSError):  # a full disk ends the run elsewhere, with its message
                    self._file.write(report.log.encode("utf-8", "replace"))
            if report.exit_code is not None:
                self._end(report.exit_code)

    def lose(self, why: str) -> None:
        """Note that nothing more will be heard of it."""
        with self._lock:
            if not self._closed and not self._ended.is_set():
                self._lost = why
                self._end(EXIT_LOST)

    def _end(self, code: int) -> None:
        self._code = code
        self._ended.set()
        os.eventfd_write(self.pidfd, 1)

    @property
    def pid(self) -> Optional[int]:
        """Its pid on its machine; None until that is known here."""
        return self._pid

    def status(self) -> Status:
        """Return the step and the phase that its agent told last."""
        return self._status

    def exit_code(self) -> Optional[int]:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._code

    def state(self) -> str:
        """Return nothing: what the kernel of another machine says of it is not known here."""
        return ""

    def describe_end(self) -> str:
        """Say how it ended."""
        return self._lost or name_exit(self._code or 0)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; return whether it came in time."""
        return self._ended.wait(timeout_s)

    def terminate(self) -> None:
        """Have SIGTERM sent to it."""
        self._tell("terminate")

    def kill(self) -> None:
        """Have it killed, with whatever it started."""
        self._tell("kill")

    def dump_stacks(self) -> str:
        """Have it write the stack of each thread into its log; return what came of that."""
        before = self._log.size_bytes()
        self._tell("stacks")
        return self._log.written_after(before, _STACKS_WAIT_S)

    def log_tail(self) -> str:
        """Return the last lines that it wrote."""
        return self._log.tail()

    def close(self) -> None:
        """Have it ended and forgotten; give the handles back."""
        if not self._ended.is_set():
            self._tell("kill")
            self._ended.wait(_CLOSE_WAIT_S)
        self._tell("forget")
        with self._lock:
            self._closed = True
            os.close(self.pidfd)
            self._file.close()
