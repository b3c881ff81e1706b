"""One framework's process, asked line by line; its death or silence is an answer too."""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import pythons
from stepalign.coordinator.processes.payload import write_payload

RUNNER = Path(__file__).parent / "runner.py"
ANSWER_S = 120.0


class Refused(Exception):
    """The framework raised; the message is its own."""


class Died(Exception):
    """The process ended or fell silent; the message says how."""


class FrameworkProcess:
    """A process that holds one framework, started when it is first asked and again after it died."""

    def __init__(self, framework: str, folder: Path) -> None:
        self.framework = framework
        self._folder = folder
        self._python = pythons()[framework]
        self._payload = folder / "payload.pyz"
        if not self._payload.exists():
            write_payload(self._payload)
        self._process: subprocess.Popen[str] | None = None

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        """Ask and return the answer. Raises Refused or Died."""
        process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"what": what, **request}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise self._ended(process) from None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(ANSWER_S):
                self.close()
                raise Died(f"no answer within {ANSWER_S:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise self._ended(process)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Refused(answer["error"])
        return dict(answer["ok"])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of the last answer."""
        with np.load(self._folder / f"{self.framework}.npz", allow_pickle=False) as stored:
            return dict(stored)

    def give(self, arrays: dict[str, np.ndarray]) -> None:
        """Lay the arrays of the next request down."""
        np.savez(self._folder / f"{self.framework}_in.npz", **arrays)  # type: ignore[arg-type]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        environment = {"PYTHONPATH": str(self._payload), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
        self._process = subprocess.Popen(
            [str(self._python), "-W", "ignore", str(RUNNER), self.framework, str(self._folder)],
            env={**environment, "HOME": str(self._folder), "TMPDIR": tempfile.gettempdir()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._process

    def _ended(self, process: subprocess.Popen[str]) -> Died:
        process.communicate()
        self._process = None
        code = process.returncode
        return Died(f"the process ended with {signal.Signals(-code).name if code < 0 else code}")
