"""One worker that an agent starts on its machine: its process, its socket, its status page, its log.

Nothing of it has a name outside of a private folder. It is tied to the agent by a pipe, as a worker is to a coordinator.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Dict, Mapping, Optional

import zmq

from stepalign.protocol import lifeline
from stepalign.protocol.messages import RemoteStatus
from stepalign.protocol.sockets import bind_router, ipc_endpoint
from stepalign.protocol.status import create_status, is_guarded, read_pid, read_status

_LOG_PART = 1 << 16
_MOST_BEHIND = 1 << 20


class Child:
    """A running worker. ``tag`` names this start of it; ``router`` is where it speaks."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", archive: str, tag: str, framework: str, env: Mapping[str, str]
    ) -> None:
        self.tag = tag
        self.role = tag.partition("#")[0]
        self._folder = tempfile.mkdtemp(prefix="stepalign-worker-")
        endpoint = ipc_endpoint(os.path.join(self._folder, "s"))
        self.router = bind_router(context, endpoint)
        status_path = os.path.join(self._folder, "status")
        self._status = create_status(status_path)
        self._log = open(os.path.join(self._folder, "log"), "w+b", buffering=0)  # noqa: SIM115 (closed by close)
        self._told = 0
        self._code: Optional[int] = None
        reader, self._lifeline = os.pipe()
        os.set_inheritable(reader, True)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-u", archive],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=self._environment(framework, endpoint, status_path, reader, env),
                pass_fds=(reader,),
                start_new_session=True,
            )
            lifeline.arm(reader, self._process.pid)
        finally:
            os.close(reader)

    def _environment(
        self, framework: str, endpoint: str, status_path: str, pipe: int, env: Mapping[str, str]
    ) -> Dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        return {
            **kept,
            "PYTHONNOUSERSITE": "1",
            **env,
            "STEPALIGN_ROLE": self.role,
            "STEPALIGN_FRAMEWORK": framework,
            "STEPALIGN_ENDPOINT": endpoint,
            "STEPALIGN_STATUS": status_path,
            "STEPALIGN_LIFELINE": str(pipe),
            "PYTHONUNBUFFERED": "1",
        }

    def report(self) -> RemoteStatus:
        """Say where the worker stands, with what it wrote since the last report; its end comes after its last words."""
        ended = self._process.poll()
        text = self._new_text()
        if ended is not None and not text:
            self._code = ended
        status = read_status(self._status)
        return RemoteStatus(self.tag, read_pid(self._status), status.phase, status.step, text, self._code)

    @property
    def ended(self) -> bool:
        """Whether its end has been reported."""
        return self._code is not None

    def report_due(self) -> bool:
        """Whether it has ended and that is not reported yet."""
        return not self.ended and self._process.poll() is not None

    def _new_text(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        left_out = ""
        if size - self._told > _MOST_BEHIND:
            left_out = f"\n... {size - self._told - _LOG_PART} bytes left out ...\n"
            self._told = size - _LOG_PART
        part = os.pread(self._log.fileno(), _LOG_PART, self._told)
        self._told += len(part)
        return left_out + part.decode("utf-8", "replace")

    def signal(self, how: str) -> None:
        """End the worker by SIGTERM or SIGKILL, or have it write its threads' stacks into its log."""
        if self._process.poll() is not None:
            return
        if how == "stacks":
            if is_guarded(self._status):
                os.kill(self._process.pid, signal.SIGUSR1)
        elif how == "terminate":
            os.killpg(self._process.pid, signal.SIGTERM)
        elif not is_guarded(self._status):
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            os.write(self._lifeline, b"\0")  # its guard ends it, and whatever it has started

    def close(self) -> None:
        """End what is left and give everything back."""
        self.signal("kill")
        try:
            self._process.wait(7.0)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.router.close(linger=0)
        self._log.close()
        os.close(self._lifeline)
        os.close(self._status)
        shutil.rmtree(self._folder, ignore_errors=True)
