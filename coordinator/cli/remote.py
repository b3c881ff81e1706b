"""``stepalign worker``: hands the archive to the interpreter of an environment, and waits for its end."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import List

from stepalign.coordinator.environments import managed
from stepalign.coordinator.processes.payload import write_payload
from stepalign.protocol.keys import KEY_VARIABLE, read_key, read_key_file


def worker(options: argparse.Namespace) -> int:
    """Run an agent in the side's environment and return its exit code."""
    if options.key:
        side = read_key_file(Path(options.key)).side
    else:
        side = read_key(os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE).side
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
