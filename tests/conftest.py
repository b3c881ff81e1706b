"""What every test stands on: a check that nothing is left behind, the worker environments, small cases, and doubles.

A double (`tests/doubles/`) is a real process that speaks the protocol with numpy alone, and misbehaves on request.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import zmq

from stepalign.coordinator.environments import managed
from stepalign.coordinator.processes.stopping import stop_workers
from stepalign.coordinator.processes.switchboard import Switchboard
from stepalign.coordinator.processes.worker_process import WorkerSpec
from stepalign.coordinator.sessions.session import Member
from stepalign.protocol.errors import StepalignError

from .belongings import MARK, Belongings
from .doubles.stage import DOUBLES, NUMPY_SIDE, Stage, double_spec

GRACE_S = 3.0

hypothesis.settings.register_profile("stepalign", database=None, deadline=None, derandomize=True)
hypothesis.settings.load_profile("stepalign")


def pytest_configure(config: pytest.Config) -> None:
    """Take SIGINT back where a shell started the tests in the background with it ignored: some tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# ---------------------------------------------------------------------------------------------- nothing left behind


@pytest.fixture(scope="session", autouse=True)
def private_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give this session a temporary folder of its own, with a short path, and warm up what lives as long as the
    process.
    """
    tmp_path_factory.getbasetemp()
    folder = Path(tempfile.mkdtemp(prefix="sat-"))
    before = os.environ.get("TMPDIR")
    os.environ.update({"TMPDIR": str(folder), MARK: "1"})
    tempfile.tempdir = None
    _start_zmq_garbage_collector()
    yield folder
    os.environ.pop(MARK)
    if before is None:
        os.environ.pop("TMPDIR")
    else:
        os.environ["TMPDIR"] = before
    tempfile.tempdir = None
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left_behind(private_temporary_folder: Path) -> Iterator[None]:
    """Fail a test that leaves a process, a thread, an open file (memory without a name too), shared memory, a temporary folder
    or a socket file behind.
    """
    before = Belongings.now(private_temporary_folder)
    yield
    deadline = time.monotonic() + GRACE_S
    left = Belongings.now(private_temporary_folder).since(before)
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
        left = Belongings.now(private_temporary_folder).since(before)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left))


@pytest.fixture
def list_left(private_temporary_folder: Path) -> Callable[[], list[str]]:
    """Return what lists all that came to be since, as the check after every test sees it."""
    before = Belongings.now(private_temporary_folder)
    return lambda: Belongings.now(private_temporary_folder).since(before)


def _start_zmq_garbage_collector() -> None:
    """Send once without copying: pyzmq then keeps one thread and its sockets for the rest of the process's life."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sender, receiver = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    receiver.bind("inproc://warm-up")
    sender.connect("inproc://warm-up")
    sender.send(bytes(1 << 17), copy=False)
    receiver.recv()
    context.destroy(linger=0)


# ---------------------------------------------------------------------------------------------- worker environments


def _managed_python(name: str, framework: str, variable: str, command: str) -> Path:
    chosen = os.environ.get(variable) or name
    try:
        return managed.find(chosen, framework).path
    except StepalignError as error:
        raise RuntimeError(
            f"the tests need the environment {name!r}: {error}\nMake it with: {command}\n"
            f"or name an interpreter in {variable}"
        ) from None


@pytest.fixture(scope="session")
def torch_python() -> Path:
    """The interpreter of the environment with torch; STEPALIGN_TORCH_PYTHON overrides it."""
    return _managed_python("torch", "torch", "STEPALIGN_TORCH_PYTHON", "stepalign env create torch")


@pytest.fixture(scope="session")
def paddle_python() -> Path:
    """The interpreter of the environment with paddle; STEPALIGN_PADDLE_PYTHON overrides it."""
    return _managed_python("paddle", "paddle", "STEPALIGN_PADDLE_PYTHON", "stepalign env create paddle")


@pytest.fixture(scope="session")
def reprod_python() -> Path:
    """The interpreter of the environment with reprod_log 1.0.1; STEPALIGN_REPROD_PYTHON overrides it."""
    return _managed_python(
        "reprod_log",
        "paddle",
        "STEPALIGN_REPROD_PYTHON",
        "stepalign env create reprod_log --framework paddle --package reprod_log==1.0.1",
    )


# ---------------------------------------------------------------------------------------------- cases

CaseMaker = Callable[..., Path]


def numpy_batch() -> dict[str, np.ndarray]:
    """Give the batch of a numpy case."""
    random = np.random.default_rng(7)
    return {"x": random.normal(size=(4, 2)), "y": random.normal(size=(4, 3))}


def write_file(path: Path, content: Any) -> None:
    """Write text, bytes, one array (.npy) or a dict of arrays (.npz)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)


@pytest.fixture
def make_case(tmp_path: Path) -> CaseMaker:
    """Return a function that writes a case folder; by default one for the numpy double, three steps long."""

    def make(
        head: str = "steps = 3",
        *,
        torch: str = "",
        paddle: str = "",
        data: str = 'source = "data.npz"',
        tables: str = "",
        torch_side: str = NUMPY_SIDE,
        paddle_side: str = NUMPY_SIDE,
        files: Mapping[str, Any] | None = None,
        name: str = "case",
    ) -> Path:
        folder = tmp_path / name
        toml = (
            f'{head}\n\n[torch]\nscript = "torch_side.py"\n{torch}\n\n[paddle]\nscript = "paddle_side.py"\n{paddle}\n\n'
            f"[data]\n{data}\n\n{tables}\n"
        )
        contents: dict[str, Any] = {
            "case.toml": toml,
            "torch_side.py": torch_side,
            "paddle_side.py": paddle_side,
            "data.npz": numpy_batch(),
            **(files or {}),
        }
        for path, content in contents.items():
            write_file(folder / path, content)
        return folder

    return make


# ---------------------------------------------------------------------------------------------- doubles


@pytest.fixture
def stage(tmp_path: Path, private_temporary_folder: Path) -> Iterator[Stage]:
    """Return a `Stage` on which doubles can be started."""
    private = Path(tempfile.mkdtemp(prefix="stepalign-"))
    switchboard = Switchboard(private, lambda: None)
    stage = Stage(tmp_path, private, switchboard)
    yield stage
    stop_workers(stage.workers.values(), None, 0.0)
    for worker in stage.workers.values():
        worker.close()
    switchboard.close()
    shutil.rmtree(private)


MemberMaker = Callable[..., tuple[Member, Member]]


@pytest.fixture
def make_members(tmp_path: Path) -> MemberMaker:
    """Return a function that gives a `Session` two doubles, each with its fault."""
    wrapper = tmp_path / "double"
    wrapper.write_text(f'#!/bin/sh\nexec "{sys.executable}" -u "{DOUBLES / "numpy_worker.py"}"\n', encoding="utf-8")
    wrapper.chmod(0o755)

    def make(
        torch: str = "", paddle: str = "", env: Mapping[str, str] | None = None, memory_mib: int = 0
    ) -> tuple[Member, Member]:
        members = []
        for side, fault in (("torch", torch), ("paddle", paddle)):
            spec = double_spec(tmp_path, side, fault, env=env)
            spec = WorkerSpec(spec.role, spec.framework, wrapper, spec.log, spec.env, memory_mib=memory_mib)
            members.append(Member(side, side, spec, "cpu", 1))
        return members[0], members[1]

    return make


def wait_until(true: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Poll until ``true()`` is true; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not (value := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return value


@pytest.fixture(name="wait_until")
def wait_until_fixture() -> Callable[..., Any]:
    """Return `wait_until`."""
    return wait_until
