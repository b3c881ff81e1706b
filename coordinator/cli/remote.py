"""``stepalign worker``: hands the archive to the interpreter of an environment, and waits for its end."""

from __future__ import annotations

import argparse
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import List

from stepalign.coordinator.environments import managed
from stepalign.coordinator.processes.payload import write_payload
from stepalign.protocol.keys import find_key


def worker(options: argparse.Namespace) -> int:
    """Run an agent in the side's environment and return its exit code."""
    side = find_key(options.key).side
    interpreter = managed.find(options.python or side, side, Path.cwd())
    words: List[str] = ["--connect", options.connect, "--case", options.case]
    for name in ("key", "gpu", "wait"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name}", str(value)]
    with tempfile.TemporaryDirectory(prefix="stepalign-agent-") as folder:
        archive = Path(folder) / "stepalign-worker.pyz"
        write_payload(archive)
        agent = subprocess.Popen([str(interpreter.path), "-u", str(archive), *words])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: agent.send_signal(signal.SIGTERM))
        return agent.wait()
