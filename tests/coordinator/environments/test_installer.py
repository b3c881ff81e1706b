"""Modules run for us: their lines arrive, their time is bounded, and they do not outlive us."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepalign.coordinator.environments.installer import run_module
from stepalign.protocol.errors import DeadlineExceeded, EnvironmentFailure


def timeit(statement: str) -> tuple[str, ...]:
    """Give the arguments with which the module timeit runs a statement once."""
    return ("-n", "1", "-r", "1", statement)


def run(tmp_path: Path, statement: str, lines: list[str], deadline_s: float = 30.0, heartbeat_s: float = 10.0):  # type: ignore[no-untyped-def]
    return run_module(
        Path(sys.executable), "timeit", timeit(statement), lines.append, deadline_s, tmp_path, tmp_path, heartbeat_s
    )


def is_running(marker: str) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in words:
                return True
    return False


def wait_until_gone(marker: str, within_s: float = 2.0) -> bool:
    deadline = time.monotonic() + within_s
    while is_running(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_lines_arrive_one_by_one_and_the_last_are_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    statement = (
        "import sys, tempfile; print('one\\rtwo'); print('three', file=sys.stderr); print(tempfile.gettempdir())"
    )
    outcome = run(tmp_path, statement, lines)
    assert lines[:4] == ["one", "two", "three", str(tmp_path)]
    assert outcome.status == 0 and outcome.tail == tuple(lines)


def test_an_exit_status_is_handed_on(tmp_path: Path) -> None:
    outcome = run(tmp_path, "import os; os.write(1, b'no newline'); os._exit(7)", [])
    assert (outcome.status, outcome.tail) == (7, ("no newline",))
    assert run(tmp_path, "import os; os.kill(os.getpid(), 9)", []).status == -9


def test_silence_is_broken_by_the_time_and_the_size(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    lines: list[str] = []
    run(tmp_path, "import time; time.sleep(0.5)", lines, heartbeat_s=0.1)
    assert "… 0 s, 3 MB so far" in lines


def test_a_deadline_ends_the_module_and_its_children(tmp_path: Path) -> None:
    marker = "6001.25"
    with pytest.raises(DeadlineExceeded, match=r"timeit was still running after 0\.5 s and was stopped"):
        run(tmp_path, f"import subprocess; subprocess.run(['sleep', '{marker}'])", [], deadline_s=0.5, heartbeat_s=0.05)
    assert wait_until_gone(marker)


def test_a_child_that_outlives_the_module_is_ended(tmp_path: Path) -> None:
    marker = "6002.25"
    statement = f"import subprocess; subprocess.Popen(['sleep', '{marker}'], stdout=-3, stderr=-3)"
    assert run(tmp_path, statement, []).status == 0
    assert wait_until_gone(marker)


def test_a_failure_of_the_listener_ends_the_module(tmp_path: Path) -> None:
    marker = "6003.25"

    def fail(line: str) -> None:
        raise BrokenPipeError(line)

    statement = f"print('go'); import subprocess; subprocess.run(['sleep', '{marker}'])"
    with pytest.raises(BrokenPipeError):
        run_module(Path(sys.executable), "timeit", timeit(statement), fail, 30, tmp_path, tmp_path)
    assert wait_until_gone(marker)


def test_when_we_are_killed_the_module_and_its_children_go_too(tmp_path: Path) -> None:
    marker = "6004.25"
    statement = f"import subprocess; p = subprocess.Popen(['sleep', '{marker}']); print('go'); p.wait()"
    ours = (
        "import sys\nfrom pathlib import Path\nfrom stepalign.coordinator.environments.installer import run_module\n"
        f"run_module(Path(sys.executable), 'timeit', {timeit(statement)!r}, lambda line: print(line, flush=True), 60,"
        f" Path({str(tmp_path)!r}), Path({str(tmp_path)!r}))\n"
    )
    with subprocess.Popen([sys.executable, "-c", ours], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        assert is_running(marker)
        process.kill()
    assert wait_until_gone(marker)


def test_variables_that_would_divert_an_installation_are_kept_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    lines: list[str] = []
    names = "PIP_TARGET", "PIP_USER", "PIP_INDEX_URL"
    run(tmp_path, f"import os; print([os.environ.get(name) for name in {names!r}])", lines)
    assert lines[0] == "[None, '0', 'https://mirror.example/simple']"


def test_an_interpreter_that_cannot_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="none cannot be started: No such file"):
        run_module(tmp_path / "none", "timeit", (), print, 1, tmp_path, tmp_path)
