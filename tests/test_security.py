"""Nobody is let in: no code in what is received, no other user at the socket, no secret in what is left."""

from __future__ import annotations

import ast
import json
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz import DIRECTIONS, fuzz
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.cases.secrets import HIDDEN, not_secret, without_credentials
from stepalign.coordinator.processes.private_folder import PrivateFolder
from stepalign.coordinator.processes.switchboard import Switchboard
from stepalign.coordinator.running.case_record import check_same_case, read_case_record, write_case_record

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for name in ("coordinator", "protocol", "workers") for path in (ROOT / name).rglob("*.py"))
CODE_RUNNERS = {"eval", "exec", "compile", "__import__"}
CODE_RUNNING_METHODS = {"exec_module", "run_path", "recv_pyobj", "send_pyobj"}
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
ALLOWED = {
    "protocol/script.py": {"exec_module"},  # the user's own scripts
    "workers/startup.py": {"exec_module"},  # the interpreter's own sitecustomize
    "coordinator/results/reprod_npy.py": {"pickle"},  # reprod_log's format; its names are never looked up
}
"""What each file may use; anything else, and anything received, runs no code."""

OTHER_USER = 65534


def unsafe_uses(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            name, method = getattr(function, "id", ""), getattr(function, "attr", "")
            yield from {name} & CODE_RUNNERS | {method} & CODE_RUNNING_METHODS
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell") and getattr(keyword.value, "value", True) is True:
                    yield keyword.arg
        elif isinstance(node, ast.Import):
            yield from {item.name.partition(".")[0] for item in node.names} & UNSAFE_MODULES
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNSAFE_MODULES:
            yield str(node.module)


def test_nothing_that_is_received_is_run_or_unpickled() -> None:
    found = {str(path.relative_to(ROOT)): set(unsafe_uses(path)) for path in SOURCES}
    assert len(found) > 100
    beyond = {name: uses - ALLOWED.get(name, set()) for name, uses in found.items()}
    assert not {name: uses for name, uses in beyond.items() if uses}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_damaged_messages_do_no_more_than_raise_a_protocol_error(direction: str) -> None:
    found = fuzz(8000, 7, direction)
    assert found.is_sound, found
    assert found.outcomes["ProtocolError"] > 5000 and found.outcomes["message"] > 100


def as_other_user(call: Callable[[], Any]) -> str:
    """Return what ``call`` raises for a user who is neither root nor us, as its type's name; empty if it does not."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        told = b"the test's own child failed"
        try:
            os.setgroups([])
            os.setgid(OTHER_USER)
            os.setuid(OTHER_USER)
            call()
            told = b""
        except OSError as error:
            told = type(error).__name__.encode()
        finally:
            os.write(writing, told)
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        told = stream.read()
    os.waitpid(pid, 0)
    return told.decode()


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user takes root's rights")
def test_another_user_can_neither_connect_nor_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="sas-", dir="/tmp") as public:
        os.chmod(public, 0o755)
        monkeypatch.setattr("tempfile.tempdir", public)
        private = PrivateFolder()
        board = Switchboard(private.path, lambda: None)
        try:
            (private.path / "payload.pyz").write_bytes(b"x")
            assert stat.S_IMODE(private.path.stat().st_mode) == 0o700
            connect(private.path / "s")
            for call in (
                lambda: connect(private.path / "s"),
                lambda: os.listdir(private.path),
                lambda: (private.path / "payload.pyz").read_bytes(),
            ):
                assert as_other_user(call) == "PermissionError"
            os.chmod(private.path, 0o755)
            assert as_other_user(lambda: os.listdir(private.path)) == "", "it is the folder's mode that keeps them out"
        finally:
            board.close()
            private.remove()


def test_a_secret_of_the_environment_is_not_in_the_run_folder(
    make_case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = load_case(make_case(torch='env = { HF_TOKEN = "hf_abc", OMP_NUM_THREADS = "1" }'))
    write_case_record(tmp_path, case)
    text = (tmp_path / "case.json").read_text(encoding="utf-8")
    assert "hf_abc" not in text
    assert json.loads(text)["case"]["torch"]["env"] == {"HF_TOKEN": HIDDEN, "OMP_NUM_THREADS": "1"}
    check_same_case(tmp_path, case)
    assert dict(read_case_record(tmp_path).side("torch").env) == {"HF_TOKEN": "hf_abc", "OMP_NUM_THREADS": "1"}
    (case.folder / "case.toml").unlink()
    assert dict(read_case_record(tmp_path).side("torch").env) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("HF_TOKEN", "hf_now")
    assert read_case_record(tmp_path).side("torch").env["HF_TOKEN"] == "hf_now"


def test_a_secret_of_the_command_line_is_not_kept() -> None:
    assert not_secret(["torch.env.HF_TOKEN=hf_abc", "hidden=64", "torch.env.OMP=1"]) == ["hidden=64", "torch.env.OMP=1"]


def test_passwords_in_urls_are_not_shown() -> None:
    shown = without_credentials("pip install --extra-index-url=https://me:secret@index.example/simple torch==2.13.0")
    assert shown == "pip install --extra-index-url=https://***@index.example/simple torch==2.13.0"


def test_the_check_after_every_test_sees_memory_with_and_without_a_name(list_left: Callable[[], list[str]]) -> None:
    name = Path("/dev/shm") / f"forgotten-{os.getpid()}"
    nameless = os.memfd_create("forgotten")
    try:
        name.write_bytes(b"x")
        left = "\n".join(list_left())
        assert f"shared memory {name}" in left and "memfd:forgotten" in left
    finally:
        name.unlink()
        os.close(nameless)
    assert list_left() == []
