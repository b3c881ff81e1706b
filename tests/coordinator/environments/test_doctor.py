"""The doctor on this machine and on ill ones."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

import pytest

from stepalign.coordinator.devices.gpus import Gpu, Inventory
from stepalign.coordinator.environments import doctor
from stepalign.coordinator.environments.doctor import Check, Report, examine, format_report
from stepalign.coordinator.environments.interpreters import Interpreter, InterpreterFacts
from stepalign.coordinator.environments.records import MAKING, MARKER


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEPALIGN_HOME", str(tmp_path))
    return tmp_path


def check(report: Report, subject: str) -> Check:
    (found,) = [check for check in report.checks if check.subject == subject]
    return found


def pretend(home: Path, name: str, framework: str) -> None:
    folder = home / "envs" / name
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    record = {"schema": 1, "framework": framework, "distribution": framework, "version": "1.0", "python": "3.11.7"}
    record |= {"base_python": "", "packages": {}, "requested": [], "requirements_sha256": "", "created": ""}
    (folder / MARKER).write_text(json.dumps(record))


def answer(monkeypatch: pytest.MonkeyPatch, **packages: str) -> None:
    def probe(interpreter: Interpreter) -> InterpreterFacts:
        return InterpreterFacts("3.11.7", "", "", "", "cpython", packages, {"torch": "12.6"})

    monkeypatch.setattr(doctor, "probe", probe)


def test_missing_environments_come_with_their_commands_and_exit_code_3() -> None:
    report = examine()
    assert report.exit_code == 3
    assert check(report, "torch").command == "stepalign env create torch"
    text = format_report(report)
    assert text.endswith("Mend with:\n  stepalign env create torch\n  stepalign env create paddle")
    assert "Missing: torch, paddle." in text


def test_a_healthy_machine_has_exit_code_0(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(home, "torch", "torch")
    pretend(home, "paddle", "paddle")
    answer(monkeypatch, torch="1.0", paddlepaddle="1.0", numpy="2.4.6", pyzmq="27", msgpack="1.2")
    report = examine()
    assert report.exit_code == 0
    expected = "torch 1.0, CUDA 12.6, Python 3.11.7, numpy 2.4.6, pyzmq 27, msgpack 1.2"
    assert (check(report, "torch").state, check(report, "torch").detail) == ("ok", expected)
    assert "CPU build" in check(report, "paddle").detail
    assert format_report(report).endswith("All that `stepalign demo` needs is there.")


def test_an_environment_that_cannot_serve_is_told_with_its_mend(home: Path) -> None:
    pretend(home, "torch", "torch")
    (home / "envs" / "paddle").mkdir()
    (home / "envs" / "paddle" / MAKING).touch()
    report = examine()
    assert "lacks what the torch worker needs: torch" in check(report, "torch").detail
    assert "-m pip install torch" in check(report, "torch").detail
    assert check(report, "torch").command == "stepalign env create torch --recreate"
    assert check(report, "paddle").detail.startswith("incomplete")
    assert report.exit_code == 3


def test_the_demos_names_must_hold_their_frameworks_and_other_environments_only_warn(home: Path) -> None:
    pretend(home, "torch", "paddle")
    pretend(home, "mine", "paddle")
    report = examine()
    assert check(report, "torch").state == "missing"
    assert check(report, "torch").command == "stepalign env create torch --recreate"
    assert check(report, "mine").state == "warning"
    assert check(report, "mine").command == "stepalign env create mine --framework paddle --recreate"


def test_gpus_are_listed_with_their_driver_and_their_absence_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("GPU-1", 0, "NVIDIA H200", 150_000_000_000, 149_000_000_000, "570.86")
    monkeypatch.setattr(doctor, "gpu_inventory", lambda: Inventory((gpu,), "", "570.86"))
    report = examine()
    assert check(report, "driver").detail == "570.86"
    assert check(report, "gpu:0").detail == "NVIDIA H200, 149.0 GB of 150.0 GB free, GPU-1"
    monkeypatch.setattr(doctor, "gpu_inventory", lambda: Inventory((), "no driver"))
    assert (check(examine(), "none").state, check(examine(), "none").detail) == ("note", "no driver")


def test_a_temp_folder_too_long_for_sockets_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = doctor.LONGEST_SOCKET_PATH_BYTES - len("/stepalign-12345678/s")
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * (room - 1))
    assert check(examine(), "temp folder").state == "ok"
    monkeypatch.setattr(tempfile, "tempdir", "/" + "é" * (room // 2 + 1))
    assert check(examine(), "temp folder").state == "missing"
    assert check(examine(), "temp folder").command == "export TMPDIR=/tmp"


def test_a_missing_dependency_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    declared = ["numpy>=1.22", "no-such-package>=2", 'pytest; extra == "test"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: declared)
    report = examine()
    assert check(report, "no-such-package").command == f"{sys.executable} -m pip install no-such-package"
    assert check(report, "numpy").state == "ok"
    assert not [found for found in report.checks if found.subject == "pytest"]


def test_one_core_and_no_shared_memory_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_cores", lambda: (5,))
    monkeypatch.setattr(doctor, "_free_bytes", lambda _: None)
    monkeypatch.delattr("os.memfd_create")
    report = examine()
    assert (check(report, "cores").state, check(report, "cores").detail) == (
        "warning",
        "1 (5): both sides will share it",
    )
    assert check(report, "/dev/shm").state == "note"
    assert check(report, "memfd").state == "warning"


def test_a_home_that_cannot_be_written_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    assert check(examine(), "home").detail == f"{home} cannot be written: set STEPALIGN_HOME to another place"


def test_the_doctor_changes_nothing(home: Path) -> None:
    examine()
    assert list(home.iterdir()) == []
