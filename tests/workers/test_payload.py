"""The archive that a worker is started from: complete, and deaf to whatever lies around it."""

from __future__ import annotations

import os
import py_compile
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.processes.payload import write_payload
from stepalign.protocol import messages
from stepalign.protocol.errors import EnvironmentFailure, WorkerFailure

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "protocol",
    "workers",
    "coordinator",
    "stepalign",
    "numpy",
    "zmq",
    "msgpack",
    "json",
    "site",
    "sitecustomize",
)
RAISES = "raise RuntimeError('a file of the working directory was imported')\n"


@pytest.fixture
def payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a written payload, its modules compiled anew."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path / "compiled"))
    write_payload(tmp_path / "payload.pyz")
    return tmp_path / "payload.pyz"


def test_the_archive_holds_protocol_and_workers_and_nothing_else(payload: Path) -> None:
    with zipfile.ZipFile(payload) as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    expected = {"__main__.py", "sitecustomize.py", "stepalign/__init__.py"}
    for name in ("protocol", "workers"):
        for file in (ROOT / name).rglob("*.py"):
            if "_root" not in file.parts:
                place = f"stepalign/{file.relative_to(ROOT).as_posix()}"
                expected |= {place, f"{place}c"}
    assert names == expected


RUNTIME = "stepalign/workers/plain_state.py"
WHERE_FROM = "import sys; sys.path.insert(0, sys.argv[1]); import stepalign.workers.plain_state as m; print(m.__file__)"


def imported_from(payload: Path) -> str:
    """Return the file of the archive that another process takes a module from."""
    done = subprocess.run([sys.executable, "-c", WHERE_FROM, payload], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_worker_of_the_same_python_takes_what_is_compiled(payload: Path) -> None:
    assert imported_from(payload) == f"{payload}/{RUNTIME}c"


def test_a_worker_of_another_python_takes_the_source(payload: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pyz"
    with zipfile.ZipFile(payload) as archive, zipfile.ZipFile(other, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, b"\0\0\r\n" + content[4:] if name.endswith("c") else content)
    assert imported_from(other) == f"{other}/{RUNTIME}"


def test_code_of_an_older_source_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "workers" / "plain_state.py"
    module.parent.mkdir()
    (module.parent / "__init__.py").write_text("", encoding="utf-8")
    module.write_text("OLD = 1\n", encoding="utf-8")
    py_compile.compile(str(module))
    module.write_text("NEWER = 2\n", encoding="utf-8")
    monkeypatch.setattr("stepalign.coordinator.processes.payload._workers_folder", lambda: module.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "pycache_prefix", None)
    write_payload(tmp_path / "without.pyz")
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    write_payload(tmp_path / "with.pyz")
    with zipfile.ZipFile(tmp_path / "without.pyz") as archive:
        assert f"{RUNTIME}c" not in archive.namelist()
    with zipfile.ZipFile(tmp_path / "with.pyz") as archive:
        assert b"NEWER" in archive.read(f"{RUNTIME}c")
    assert imported_from(tmp_path / "with.pyz") == f"{tmp_path}/with.pyz/{RUNTIME}c"


def test_where_nothing_can_be_kept_the_sources_alone_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", "/proc/nowhere")
    write_payload(tmp_path / "payload.pyz")
    assert imported_from(tmp_path / "payload.pyz") == f"{tmp_path}/payload.pyz/{RUNTIME}"


def test_sources_from_before_the_age_of_zip_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    os.utime(folder / "__init__.py", (0, 0))
    monkeypatch.setattr("stepalign.coordinator.processes.payload._workers_folder", lambda: folder)
    write_payload(tmp_path / "payload.pyz")


@pytest.mark.parametrize("kind", ["module", "package"])
def test_the_archive_runs_in_a_hostile_working_directory(stage: Any, payload: Path, tmp_path: Path, kind: str) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in HOSTILE:
        path = hostile / f"{name}.py" if kind == "module" else hostile / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(RAISES, encoding="utf-8")
    before = os.getcwd()
    os.chdir(hostile)
    try:
        worker = stage.start(payload=payload)
    finally:
        os.chdir(before)
    stage.switchboard.greet(30)
    assert str(hostile) not in worker.log_tail()  # where the framework is not installed, the log may tell that already


USERS_OWN = """
import coordinator, protocol, workers
from protocol.parts import VALUE
from stepalign.workers import Training
import stepalign.protocol.messages

assert (coordinator.NAME, protocol.NAME, workers.NAME, VALUE) == ("coordinator", "protocol", "workers", 7)
for name in ("coordinator", "protocol", "workers"):
    assert __import__(name).__file__.startswith({folder!r})


def build(case):
    return Training(model={{}}, loss=None, optimizer={{"lr": [0.5]}})
"""


def test_a_users_own_modules_of_our_names_keep_working(stage: Any, make_case: Any, tmp_path: Path) -> None:
    files = {f"{name}/__init__.py": f"NAME = {name!r}\n" for name in ("coordinator", "protocol", "workers")}
    files["protocol/parts.py"] = "VALUE = 7\n"
    files["stepalign/__init__.py"] = RAISES
    case = make_case(files=files, torch_side=USERS_OWN.format(folder=str(tmp_path / "case")))
    stage.start()
    stage.switchboard.greet(30)
    configuration = messages.Configure(
        "train", "case", str(case), str(case / "torch_side.py"), 1, "eval", "float64", 0, "cpu", 1
    )  # fmt: skip
    stage.switchboard.ask({"torch": configuration}, messages.Ready, 30, "build")


def test_a_worker_without_its_framework_says_so_with_the_command_that_mends_it(
    stage: Any, payload: Path, make_case: Any
) -> None:
    empty = make_case() / "nothing"
    empty.mkdir()
    (empty / "torch.py").write_text(
        "raise ImportError('libcudart.so.12: cannot open shared object file')\n", encoding="utf-8"
    )
    stage.start(payload=payload, env={"PYTHONPATH": str(empty)})
    stage.switchboard.greet(30)
    case = make_case()
    configuration = messages.Configure(
        "train", "case", str(case), str(case / "torch_side.py"), 1, "eval", "float64", 0, "cpu", 1
    )  # fmt: skip
    with pytest.raises(EnvironmentFailure, match="cannot import torch: ImportError: libcudart.so.12") as caught:
        stage.switchboard.ask({"torch": configuration}, messages.Ready, 30, "build")
    assert "stepalign env create torch --recreate" in str(caught.value)
    assert caught.value.fault["phase"] == "import"  # type: ignore[attr-defined]


def test_an_archive_that_is_damaged_is_a_death_with_its_log(stage: Any, tmp_path: Path) -> None:
    (tmp_path / "damaged.pyz").write_bytes(b"garbage")
    stage.start(payload=tmp_path / "damaged.pyz")
    with pytest.raises(WorkerFailure, match="the torch worker died in phase start: exit code 1\nthe end of torch.log:"):
        stage.switchboard.greet(30)
