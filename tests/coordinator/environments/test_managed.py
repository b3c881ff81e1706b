"""Managed environments, made for real from tiny local wheels: no framework, no network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepalign.coordinator.environments import managed
from stepalign.coordinator.environments.maker import CONSTRAINTS, Recipe
from stepalign.coordinator.environments.records import MAKING, MARKER, only_user
from stepalign.protocol.errors import CaseError, EnvironmentFailure

RECIPE = Recipe("torch", "tinyframe", "1.0", runtime=("tinyruntime",))

MAKER = """
import sys
from pathlib import Path
from stepalign.coordinator.environments import managed
from stepalign.coordinator.environments.maker import Recipe
made = managed.create(
    sys.argv[1], "torch", recipe=Recipe("torch", "tinyframe", "1.0", runtime=("tinyruntime",)),
    pip_args=("--no-index", "--find-links", sys.argv[2]), on_line=lambda line: print(line, flush=True))
print("made", made.created, flush=True)
"""


def write_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> None:
    """Write a wheel that holds one empty module."""
    information = f"{name}-{version}.dist-info"
    metadata = "".join(
        [
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            *(f"Requires-Dist: {need}\n" for need in requires),
        ]
    )
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{information}/METADATA": metadata,
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    files[f"{information}/RECORD"] = record + f"{information}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


def processes_about(text: str) -> list[int]:
    """List the processes whose command line holds ``text``, zombies apart."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def wait_until_gone(text: str, within_s: float = 2.0) -> list[int]:
    """Wait for the end of all processes about ``text``; give those that outstay the time."""
    deadline = time.monotonic() + within_s
    while (left := processes_about(text)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1.0", "2.0"):
        write_wheel(folder, "tinyframe", version)
    write_wheel(folder, "tinyruntime", "0.3")
    write_wheel(folder, "tinyextra", "0.1", requires=("tinyframe",))
    write_wheel(folder, "tinygreedy", "0.1", requires=("tinyframe>=2",))
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("STEPALIGN_HOME", str(tmp_path))
    yield tmp_path
    assert wait_until_gone(str(tmp_path)) == []


def start_maker(name: str, wheels: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, name, str(wheels)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def make(name: str, wheels: Path, lines: list[str] | None = None, **options: object) -> managed.Environment:
    told: list[str] = [] if lines is None else lines
    pip_args = ("--no-index", "--find-links", str(wheels))
    arguments = {"recipe": RECIPE, "pip_args": pip_args, "on_line": told.append, **options}
    return managed.create(name, "torch", **arguments)  # type: ignore[arg-type]


def pretend(home: Path, name: str, framework: str = "torch", **fields: object) -> Path:
    """Lay down a complete environment's folder without making one."""
    folder = home / "envs" / name
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    record = {
        "schema": 1,
        "framework": framework,
        "distribution": {"torch": "torch", "paddle": "paddlepaddle"}[framework],
        "version": "2.13.0+cpu",
        "python": "3.11.7",
        "base_python": sys.executable,
        "packages": {},
        "requested": [],
        "requirements_sha256": "",
        "created": "2026-01-01T00:00:00+00:00",
        **fields,
    }
    (folder / MARKER).write_text(json.dumps(record))
    return folder


def test_an_environment_is_made_then_reused_at_once(home: Path, wheels: Path) -> None:
    lines: list[str] = []
    made = make("torch", wheels, lines, packages=("tinyextra",))
    assert made.complete and made.folder == home / "envs" / "torch"
    assert (made.framework, made.distribution, made.version) == ("torch", "tinyframe", "1.0")
    assert {"tinyframe": "1.0", "tinyruntime": "0.3", "tinyextra": "0.1"}.items() <= made.packages.items()
    assert (made.folder / CONSTRAINTS).read_text() == "tinyframe==1.0\n"
    commands = [line for line in lines if line.startswith("pip install")]
    assert commands[0].endswith("tinyframe==1.0") and "tinyruntime" not in commands[0]
    assert "--constraint" in commands[1] and "tinyframe==1.0 tinyruntime tinyextra" in commands[1]
    assert sorted(entry.name for entry in made.folder.iterdir() if entry.name.startswith("stepalign")) == [
        CONSTRAINTS,
        MARKER,
    ]
    started = time.monotonic()
    assert make("torch", wheels, packages=("tinyextra",)) == made
    assert time.monotonic() - started < 0.5
    assert managed.list_environments() == (made,)
    assert managed.find("torch", "torch").path == made.interpreter
    assert Path(made.base_python).resolve() == Path(sys.executable).resolve()
    assert not (Path(made.base_python).parent.parent / "pyvenv.cfg").exists()

    managed.remove("torch")
    assert managed.list_environments() == ()
    assert [entry.name for entry in (home / "envs").iterdir()] == [".torch.lock"]


def test_a_package_that_needs_another_framework_version_is_refused_by_pip(wheels: Path) -> None:
    with pytest.raises(EnvironmentFailure) as failure:
        make("torch", wheels, packages=("tinygreedy",))
    message = str(failure.value)
    assert "pip ended with status 1" in message and "tinygreedy" in message and "  | ERROR" in message
    assert "Make the environment again with: stepalign env create torch --package tinygreedy" in message
    (left,) = managed.list_environments()
    assert not left.complete
    with pytest.raises(EnvironmentFailure, match=r"is incomplete: .*\nMake it again with: stepalign env create torch"):
        managed.find("torch", "torch")


def test_two_makers_of_one_environment_take_turns_and_the_second_reuses(wheels: Path) -> None:
    makers = [start_maker("twice", wheels) for _ in range(2)]
    outputs = [maker.communicate(timeout=120)[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0], outputs
    assert sum("Making environment" in output for output in outputs) == 1
    assert sum("waiting for it" in output for output in outputs) == 1
    assert len({output.splitlines()[-1] for output in outputs}) == 1


def test_a_killed_making_ends_its_children_and_is_made_again(home: Path, wheels: Path) -> None:
    maker = start_maker("torch", wheels)
    assert maker.stdout is not None
    with maker:
        assert "Making environment" in maker.stdout.readline()
        deadline = time.monotonic() + 10
        while len(processes_about(str(home))) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        maker.kill()
    assert maker.returncode == -signal.SIGKILL
    assert wait_until_gone(str(home)) == []
    assert (home / "envs" / "torch" / MAKING).exists()
    (left,) = managed.list_environments()
    assert not left.complete
    lines: list[str] = []
    assert make("torch", wheels, lines).complete
    assert "Environment torch was left incomplete; making it again." in lines


def test_an_interrupted_making_stops_pip_and_stays_incomplete(home: Path, wheels: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("Processing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make("torch", wheels, on_line=interrupt)
    assert wait_until_gone(str(home), within_s=0) == []
    (left,) = managed.list_environments()
    assert not left.complete
    managed.remove("torch")
    assert managed.list_environments() == ()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs", ".hidden", "-x", "a b", "a\n", "ä", "a" * 65, "~"])
def test_what_is_no_name_is_refused_everywhere(name: str) -> None:
    for attempt in (lambda: managed.create(name, "torch"), lambda: managed.remove(name)):
        with pytest.raises(CaseError, match="is no environment's name"):
            attempt()


def test_a_name_that_cannot_be_one_is_refused_by_find() -> None:
    with pytest.raises(CaseError, match="is no environment's name"):
        managed.find("my env", "torch")


def test_an_unknown_framework_is_refused() -> None:
    with pytest.raises(CaseError, match="framework 'jax': expected one of torch, paddle"):
        managed.create("jax", "jax")


def test_an_environment_that_contradicts_the_request_is_not_reused(home: Path) -> None:
    pretend(home, "torch", requested=["pillow"])
    assert managed.create("torch", "torch").version == "2.13.0+cpu"
    assert managed.create("torch", "torch", version="2.13.0", packages=("pillow",)).complete
    with pytest.raises(EnvironmentFailure, match=r"made without torch 2\.12\.0\. To make it anew add --recreate"):
        managed.create("torch", "torch", version="2.12.0")
    with pytest.raises(EnvironmentFailure, match="made without transformers"):
        managed.create("torch", "torch", packages=("transformers",))
    with pytest.raises(EnvironmentFailure, match="made without framework paddle"):
        managed.create("torch", "paddle")
    with pytest.raises(CaseError, match=r"requirements file .*none\.txt cannot be read"):
        managed.create("torch", "torch", requirements=home / "none.txt")


def test_a_folder_that_is_not_ours_is_left_alone(home: Path) -> None:
    theirs = home / "envs" / "torch" / "precious"
    theirs.mkdir(parents=True)
    with pytest.raises(EnvironmentFailure, match="was not made by stepalign, so it is left alone"):
        managed.create("torch", "torch", recreate=True)
    assert theirs.is_dir()
    assert managed.list_environments() == ()
    with pytest.raises(EnvironmentFailure, match="There is no environment torch to remove"):
        managed.remove("torch")
    assert theirs.is_dir()


@pytest.mark.parametrize(
    "marker", ["", "[]", "{}", '{"schema": 2}', "\x00\xff", '{"schema": 1, "framework": 3}', "[" * 9999]
)
def test_a_damaged_marker_means_incomplete(home: Path, marker: str) -> None:
    folder = pretend(home, "torch")
    (folder / MARKER).write_text(marker)
    (found,) = managed.list_environments()
    assert not found.complete


def test_an_environment_whose_base_interpreter_is_gone_is_incomplete(home: Path) -> None:
    folder = pretend(home, "torch")
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to(home / "gone")
    with pytest.raises(
        EnvironmentFailure, match=r"its base interpreter is gone.\nMake it again with: stepalign env create"
    ):
        managed.find("torch", "torch")


def test_find_says_what_it_looked_for_and_what_there_is(home: Path) -> None:
    pretend(home, "paddle", framework="paddle")
    with pytest.raises(EnvironmentFailure) as failure:
        managed.find("torch", "torch")
    message = str(failure.value)
    assert f"[torch] python = 'torch': there is no managed environment of that name in {home / 'envs'}" in message
    assert "Managed environments: paddle (paddlepaddle 2.13.0+cpu, Python 3.11.7)." in message
    assert message.endswith("Make it with: stepalign env create torch")
    with pytest.raises(EnvironmentFailure, match="Make it with: stepalign env create mine --framework torch"):
        managed.find("mine", "torch")
    with pytest.raises(EnvironmentFailure, match=r"holds paddlepaddle 2\.13\.0\+cpu, not torch"):
        managed.find("paddle", "torch")


def test_find_takes_paths_relative_to_the_case_and_to_the_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pretend(home, "torch")
    case = home / "a case"
    case.mkdir()
    (case / "py").symlink_to(sys.executable)
    monkeypatch.setenv("HOME", str(home))
    assert managed.find("./py", "torch", case).path == case / "py"
    assert managed.find("py", "torch", case).path == case / "py"
    assert managed.find("~/envs/torch/bin/python", "torch", case).path == folder / "bin" / "python"
    assert managed.find(str(folder), "torch", case).path == folder / "bin" / "python"
    assert managed.find(sys.executable, "torch", case).environment == ""
    with pytest.raises(
        EnvironmentFailure, match=r"a case/none/py does not exist.*\nA new one: stepalign env create torch"
    ):
        managed.find("none/py", "torch", case)
    with pytest.raises(EnvironmentFailure, match="is a folder without bin/python"):
        managed.find("../a case", "torch", case)


def test_an_environment_that_is_being_made_is_told_so(home: Path) -> None:
    (home / "envs" / "torch").mkdir(parents=True)
    (home / "envs" / "torch" / MAKING).touch()
    with (
        only_user("torch", lambda: None, 5),
        pytest.raises(EnvironmentFailure, match="Environment torch is being made right now"),
    ):
        managed.find("torch", "torch")


def test_waiting_for_another_maker_has_an_end(home: Path) -> None:
    waited: list[str] = []
    with only_user("torch", lambda: None, 5):
        held: list[BaseException] = []

        def attempt() -> None:
            try:
                managed.create("torch", "torch", on_line=waited.append, deadline_s=0.3)
            except EnvironmentFailure as error:
                held.append(error)

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join(30)
    assert waited == ["Another stepalign is at environment torch; waiting for it."]
    assert re.search(r"still held environment torch after 0\.3 s", str(held[0]))


def test_a_home_that_cannot_be_written_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("STEPALIGN_HOME", str(home / "file"))
    with pytest.raises(
        EnvironmentFailure, match=r"file/envs cannot be written: .* choose another place by STEPALIGN_HOME"
    ):
        managed.create("torch", "torch")
    assert managed.list_environments() == ()


def test_a_base_that_is_not_on_path_is_named() -> None:
    with pytest.raises(EnvironmentFailure, match=r"No interpreter 'python3\.99' is on PATH"):
        managed.create("torch", "torch", python="python3.99")


def test_importing_the_module_loads_nothing_heavy() -> None:
    script = (
        "import sys, stepalign.coordinator.environments.managed\n"
        "heavy = 'filelock', 'platformdirs', 'zmq', 'numpy', 'torch', 'paddle'\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
