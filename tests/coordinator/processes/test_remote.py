"""Several machines, tried between two network namespaces: packets of this test never leave them."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from stepalign.coordinator.environments import managed
from stepalign.protocol.keys import SideKey, make_pair, read_key_file, secure_side, write_key
from stepalign.protocol.sockets import connect_dealer

from ..real_cases import TORCH_SIDE, write_case

OTHER, OURS, THEIRS = "stepalign-test", "10.213.77.1", "10.213.77.2"
LOST_S = 10.0
GRACE_S = 30.0
SLOW = TORCH_SIDE.replace("def loss(model, batch):\n", "def loss(model, batch):\n    import time\n    time.sleep(0.5)\n")


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def other_machine() -> Iterator[str]:
    """A network namespace with a link to ours."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making a network namespace needs root and ip")
    if (made := ip("netns", "add", OTHER)).returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
    try:
        for words in (
            ["link", "add", "sat0", "type", "veth", "peer", "name", "sat1"],
            ["link", "set", "sat1", "netns", OTHER],
            ["addr", "add", f"{OURS}/30", "dev", "sat0"],
            ["link", "set", "sat0", "up"],
            ["-n", OTHER, "addr", "add", f"{THEIRS}/30", "dev", "sat1"],
            ["-n", OTHER, "link", "set", "sat1", "up"],
            ["-n", OTHER, "link", "set", "lo", "up"],
        ):
            if (done := ip(*words)).returncode:
                pytest.skip(f"ip {' '.join(words)}: {done.stderr.strip()}")
        yield OTHER
    finally:
        ip("link", "del", "sat0")
        ip("netns", "del", OTHER)


def write_remote_case(folder: Path, steps: int, **sources: str) -> Path:
    case = write_case(folder, f"steps = {steps}\n", **sources)
    text = (case / "case.toml").read_text().replace("[torch]\n", '[torch]\nhost = "other"\n')
    (case / "case.toml").write_text(f'{text}\n[network]\nbind = "{OURS}"\n')
    return case


class Run:
    """A coordinator in this namespace, and what it said to start on the other machine."""

    def __init__(self, case: Path, out: Path) -> None:
        self.case, self.out = case, out
        self._errors = open(out.with_suffix(".err"), "w+")  # noqa: SIM115
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-m", "stepalign.coordinator.cli", "run", str(case), "--quiet", "--json", "--out", str(out)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environment, start_new_session=True
        )
        self.agents: list[subprocess.Popen[str]] = []
        self.endpoint = self._wait_for_endpoint()

    def _wait_for_endpoint(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r"python stepalign-worker.pyz --connect (\S+)", self.errors())
            if found:
                return found[1]
            time.sleep(0.05)
        raise AssertionError(self.errors())

    def errors(self) -> str:
        return Path(self._errors.name).read_text()

    @property
    def key(self) -> Path:
        return self.out / "remote" / "torch.key"

    def start_agent(self, key: Path | None = None, case: Path | None = None) -> subprocess.Popen[str]:
        """Start an agent on the other machine, with what the run has made."""
        python = managed.find("torch", "torch", Path.cwd()).path
        words = [str(self.out / "remote" / "stepalign-worker.pyz"), "--connect", self.endpoint]
        words += ["--key", str(key or self.key), "--case", str(case or self.case)]
        agent = subprocess.Popen(
            ["ip", "netns", "exec", OTHER, str(python), *words], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.agents.append(agent)
        return agent

    def steps(self) -> int:
        try:
            return (self.out / "steps.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def result(self) -> dict[str, Any]:
        text, _ = self.process.communicate(timeout=200)
        found: dict[str, Any] = json.loads(text)
        return found

    def close(self) -> None:
        for process in (self.process, *self.agents):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        self._errors.close()


@pytest.fixture
def start(other_machine: str, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def begin(steps: int = 3, **sources: str) -> Run:
        started.append(Run(write_remote_case(tmp_path / "case", steps, **sources), tmp_path / "out"))
        return started[-1]

    yield begin
    for run in started:
        run.close()


def knock(endpoint: str, prepare: Callable[[zmq.Socket[bytes]], None]) -> bool:
    """Say something to the coordinator as a stranger; return whether anything came back."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = connect_dealer(context, endpoint, "torch/control", prepare)
        with contextlib.suppress(zmq.Again):
            socket.send_multipart([b"\x94\x02\xa4Heard"], flags=zmq.DONTWAIT)
        return bool(socket.poll(1500))
    finally:
        context.destroy(linger=0)


def test_a_side_on_another_machine_is_compared_and_strangers_are_refused(
    start: Callable[..., Run], tmp_path: Path
) -> None:
    run = start()
    key = read_key_file(run.key)
    assert run.key.stat().st_mode & 0o777 == 0o600
    assert f"tcp://{OURS}:" in run.endpoint
    own = SideKey("torch", key.coordinator_public, *make_pair())
    assert not knock(run.endpoint, lambda socket: None)
    assert not knock(run.endpoint, lambda socket: secure_side(socket, own))
    write_key(tmp_path / "wrong.key", own)
    stranger = run.start_agent(tmp_path / "wrong.key")
    assert "refused this key" in stranger.communicate(timeout=60)[1]
    assert stranger.returncode == 3
    agent = run.start_agent()
    result = run.result()
    assert (result["verdict"], result["steps_completed"]) == ("aligned", 3)
    assert agent.wait(30) == 0
    assert not (run.out / "remote").exists()
    assert key.secret not in run.errors()
    assert all(key.secret.encode() not in path.read_bytes() for path in run.out.iterdir() if path.is_file())


def test_a_link_that_goes_down_is_a_failed_run_with_what_was_collected(start: Callable[..., Run]) -> None:
    run = start(60, torch=SLOW)
    agent = run.start_agent()
    while run.steps() < 2:
        assert run.process.poll() is None, run.errors()
        time.sleep(0.05)
    ip("link", "set", "sat0", "down")
    down = time.monotonic()
    try:
        result = run.result()
        assert time.monotonic() - down < LOST_S + GRACE_S
        assert (run.process.returncode, result["verdict"]) == (3, "failed")
        assert "gave no sign of life for 10 s" in result["error"]["message"]
        assert result["error"]["side"] == "torch"
        assert result["steps_completed"] == run.steps() >= 2
        assert "its workers here were ended" in agent.communicate(timeout=LOST_S + GRACE_S)[1]
        assert agent.returncode == 3
    finally:
        ip("link", "set", "sat0", "up")


def test_the_coordinators_death_ends_the_workers_on_the_other_machine(start: Callable[..., Run]) -> None:
    hanging = TORCH_SIDE.replace(
        "def loss(model, batch):\n",
        "def loss(model, batch):\n    import ctypes\n    ctypes.PyDLL(None).sleep(600)  # native code that holds the GIL\n",
    )
    run = start(5, torch=hanging)
    agent = run.start_agent()
    log = run.out / "torch.log"
    deadline = time.monotonic() + 120
    while not (run.out / "sides.json").exists():
        assert time.monotonic() < deadline and run.process.poll() is None, run.errors() + log.read_text()
        time.sleep(0.05)
    os.killpg(run.process.pid, signal.SIGKILL)
    assert "its workers here were ended" in agent.communicate(timeout=LOST_S + GRACE_S)[1]
    assert agent.returncode == 3


def test_other_scripts_on_the_other_machine_are_told(start: Callable[..., Run], tmp_path: Path) -> None:
    run = start()
    there = tmp_path / "there"
    shutil.copytree(run.case, there)
    with open(there / "torch_side.py", "a") as file:
        file.write("# changed\n")
    run.start_agent(case=there)
    result = run.result()
    assert result["exit_code"] == 2
    assert "torch_side.py of the torch side is another file on its machine" in result["error"]["message"]
