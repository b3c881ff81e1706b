"""A second machine for tests: a network namespace with a link to ours. Packets of a test never leave the two.

`python` and `stepalign` there are started with a host name of their own, and where a test asks for it without sight of
this machine's folders.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.environments import managed

from .real_cases import TORCH_SIDE, write_case

_NUMBER = os.getpid() % (1 << 14)
OTHER = f"stepalign-{_NUMBER}"
OUR_LINK, THEIR_LINK = f"sato{_NUMBER}", f"satt{_NUMBER}"
OURS, THEIRS = (f"10.213.{_NUMBER >> 6}.{(_NUMBER & 63) * 4 + host}" for host in (1, 2))
SLOW = TORCH_SIDE.replace("def loss(model, batch):\n", "def loss(model, batch):\n    import time\n    time.sleep(0.5)\n")


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `ip` and return how it ended."""
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


def make_other_machine() -> Iterator[str]:
    """Make the second machine's namespace, and remove it after the yield; a test is skipped where none can be made."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making a network namespace needs root and ip")
    if (made := ip("netns", "add", OTHER)).returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        for words in (
            ["link", "add", OUR_LINK, "type", "veth", "peer", "name", THEIR_LINK],
            ["link", "set", THEIR_LINK, "netns", OTHER],
            ["addr", "add", f"{OURS}/30", "dev", OUR_LINK],
            ["link", "set", OUR_LINK, "up"],
            ["-n", OTHER, "addr", "add", f"{THEIRS}/30", "dev", THEIR_LINK],
            ["-n", OTHER, "link", "set", THEIR_LINK, "up"],
            ["-n", OTHER, "link", "set", "lo", "up"],
        ):
            if (done := ip(*words)).returncode:
                pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")
        yield OTHER
    finally:
        ip("link", "del", OUR_LINK)
        ip("netns", "del", OTHER)


def write_remote_case(folder: Path, top: str, side: str = "torch", **sources: str) -> Path:
    """Write a case with one side on the other machine."""
    case = write_case(folder, top, **sources)
    text = (case / "case.toml").read_text().replace(f"[{side}]\n", f'[{side}]\nhost = "other"\n')
    (case / "case.toml").write_text(f'{text}\n[network]\nbind = "{OURS}"\n')
    return case


def start_there(words: Sequence[str], hidden: Sequence[Path] = (), **variables: str) -> subprocess.Popen[str]:
    """Start a program on the other machine, where nothing of the folders ``hidden`` can be seen."""
    covers = "".join(f"mount -t tmpfs none '{folder}' && " for folder in hidden)
    script = f'hostname other && {covers}exec "$@"'
    return subprocess.Popen(
        ["ip", "netns", "exec", OTHER, "unshare", "--uts", "--mount", "sh", "-c", script, "sh", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **variables},
    )


class Command:
    """`stepalign WORDS` in this namespace, and what it said to start on the other machine."""

    def __init__(self, folder: Path, words: Sequence[object], **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._errors = open(folder / "stderr", "w+")  # noqa: SIM115
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stepalign.coordinator.cli", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**environment, **variables},
            cwd=folder,
            start_new_session=True,
        )
        self.agents: list[subprocess.Popen[str]] = []
        self.endpoint, self.archive, self.key = self._wait_for_instructions()

    def _wait_for_instructions(self) -> tuple[str, Path, Path]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            said = self.errors()
            if "\n  stepalign worker --connect" in said:
                endpoint = re.search(r"python stepalign-worker.pyz --connect (\S+)", said)
                files = re.findall(r"^  (\S+(?:\.pyz|\.key))$", said, re.MULTILINE)
                assert endpoint and len(files) == 2, said
                folder = Path(self._errors.name).parent
                return endpoint[1], folder / files[0], folder / files[1]
            time.sleep(0.05)
        raise AssertionError(self.errors())

    def errors(self) -> str:
        """What it wrote on standard error until now."""
        return Path(self._errors.name).read_text()

    def start_agent(self, case: Path, key: Path | None = None, *options: str) -> subprocess.Popen[str]:
        """Start the archive on the other machine, as the instructions say."""
        python = str(managed.find("torch", "torch", Path.cwd()).path)
        words = [python, str(self.archive), "--connect", self.endpoint, "--key", str(key or self.key), "--case", str(case)]
        return self.take(start_there([*words, *options]))

    def take(self, agent: subprocess.Popen[str]) -> subprocess.Popen[str]:
        """See to it that an agent is ended with the command."""
        self.agents.append(agent)
        return agent

    def result(self) -> dict[str, Any]:
        """What it printed as JSON, once it has ended."""
        text, _ = self.process.communicate(timeout=200)
        assert text, self.errors()
        found: dict[str, Any] = json.loads(text)
        return found

    def close(self) -> None:
        """End all of it."""
        for process in (self.process, *self.agents):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        self._errors.close()


def steps_of(out: Path) -> int:
    """Return how many steps a run folder has."""
    try:
        return (out / "steps.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0
