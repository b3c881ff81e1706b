"""Several machines, tried between two network namespaces: packets of this test never leave them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stepalign.protocol.keys import SideKey, make_pair, read_key_file, write_key

from ..real_cases import TORCH_SIDE
from ..two_machines import OUR_LINK, OURS, SLOW, Command, ip, start_there, steps_of, write_remote_case

LOST_S = 10.0
GRACE_S = 30.0


class Run(Command):
    """A run of a case whose torch side is on the other machine."""

    def __init__(self, folder: Path, steps: int, **sources: str) -> None:
        self.case, self.out = write_remote_case(folder / "case", f"steps = {steps}\n", **sources), folder / "out"
        super().__init__(folder, ["run", self.case, "--quiet", "--json", "--out", self.out])

    def agent(self, key: Path | None = None, case: Path | None = None) -> subprocess.Popen[str]:
        """Start an agent on the other machine."""
        return self.start_agent(case or self.case, key)

    def steps(self) -> int:
        return steps_of(self.out)


@pytest.fixture
def start_run(other_machine: str, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    started: list[Run] = []

    def begin(steps: int = 3, **sources: str) -> Run:
        started.append(Run(tmp_path, steps, **sources))
        return started[-1]

    yield begin
    for run in started:
        run.close()


KNOCK = """
import json, os, sys, zmq
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.setsockopt(zmq.IDENTITY, b"torch/control")
for name, value in json.loads(os.environ["KEYS"]).items():
    setattr(socket, name, value.encode("ascii"))
socket.connect(sys.argv[1])
try:
    socket.send_multipart([b"\\x94\\x02\\xa4Heard"], flags=zmq.DONTWAIT)
except zmq.Again:
    pass
print(bool(socket.poll(1500)))
context.destroy(linger=0)
"""


def knock(endpoint: str, key: SideKey | None) -> bool:
    """Say something to the coordinator from the other machine, with a key or without any; return whether anything came back."""
    keys = {}
    if key is not None:
        keys = {"curve_serverkey": key.coordinator_public, "curve_publickey": key.public, "curve_secretkey": key.secret}
    stranger = start_there([sys.executable, "-c", KNOCK, endpoint], KEYS=json.dumps(keys))
    said, errors = stranger.communicate(timeout=30)
    assert said in ("True\n", "False\n"), errors
    return said == "True\n"


def test_a_side_on_another_machine_is_compared_and_strangers_are_refused(
    start_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = start_run()
    key = read_key_file(run.key)
    assert run.key.stat().st_mode & 0o777 == 0o600
    assert f"tcp://{OURS}:" in run.endpoint
    own = SideKey("torch", key.coordinator_public, *make_pair())
    assert not knock(run.endpoint, None)
    assert not knock(run.endpoint, own)
    assert not knock(run.endpoint, SideKey("torch", make_pair()[0], key.public, key.secret))
    assert knock(run.endpoint, key)  # so what was not answered was not heard
    write_key(tmp_path / "wrong.key", own)
    stranger = run.agent(tmp_path / "wrong.key")
    assert "refused this key" in stranger.communicate(timeout=60)[1]
    assert stranger.returncode == 3
    agent = run.agent()
    result = run.result()
    assert (result["verdict"], result["steps_completed"]) == ("aligned", 3)
    assert agent.wait(30) == 0
    assert not (run.out / "remote").exists()
    assert key.secret not in run.errors()
    assert all(key.secret.encode() not in path.read_bytes() for path in run.out.iterdir() if path.is_file())


def test_a_link_that_goes_down_is_a_failed_run_with_what_was_collected(start_run: Callable[..., Run]) -> None:
    run = start_run(60, torch=SLOW)
    agent = run.agent()
    while run.steps() < 2:
        assert run.process.poll() is None, run.errors()
        time.sleep(0.05)
    ip("link", "set", OUR_LINK, "down")
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
        ip("link", "set", OUR_LINK, "up")


def test_the_coordinators_death_ends_the_workers_on_the_other_machine(start_run: Callable[..., Run]) -> None:
    hanging = TORCH_SIDE.replace(
        "def loss(model, batch):\n",
        "def loss(model, batch):\n    import ctypes\n    ctypes.PyDLL(None).sleep(600)  # native code that holds the GIL\n",
    )
    run = start_run(5, torch=hanging)
    agent = run.agent()
    log = run.out / "torch.log"
    deadline = time.monotonic() + 120
    while not (run.out / "sides.json").exists():
        assert time.monotonic() < deadline and run.process.poll() is None, run.errors() + log.read_text()
        time.sleep(0.05)
    os.killpg(run.process.pid, signal.SIGKILL)
    assert "its workers here were ended" in agent.communicate(timeout=LOST_S + GRACE_S)[1]
    assert agent.returncode == 3


def test_other_scripts_on_the_other_machine_are_told(start_run: Callable[..., Run], tmp_path: Path) -> None:
    run = start_run()
    there = tmp_path / "there"
    shutil.copytree(run.case, there)
    with open(there / "torch_side.py", "a") as file:
        file.write("# changed\n")
    run.agent(case=there)
    result = run.result()
    assert result["exit_code"] == 2
    assert "torch_side.py of the torch side is another file on its machine" in result["error"]["message"]
