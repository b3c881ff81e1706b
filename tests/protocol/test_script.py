"""A user's script: loaded from where it lies, and what goes wrong in it told in its own terms."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stepalign.protocol.errors import CaseError
from stepalign.protocol.script import ScriptError, call_script, find_function, load_script


@pytest.fixture(autouse=True)
def untouched_modules() -> Iterator[None]:
    """Undo what loading scripts does to this process: their modules and their entries on the path."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(("stepalign.", "numpy", "encodings")):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a script of the case."""

    def write_script(text: str, name: str = "side_under_test.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_script


def test_a_script_is_loaded_with_its_neighbours(write: Any, tmp_path: Path) -> None:
    write("VALUE = 7\n", "neighbour_of_script.py")
    write("INNER = 8\n", "scripts/inner_neighbour.py")
    path = write("from neighbour_of_script import VALUE\nfrom inner_neighbour import INNER\n", "scripts/side.py")
    module = load_script(path, tmp_path)
    assert (module.VALUE, module.INNER) == (7, 8)
    assert sys.modules["side"] is module


def test_classes_of_a_script_know_their_module(write: Any, tmp_path: Path) -> None:
    path = write(
        "from dataclasses import dataclass\nfrom typing import Optional\n@dataclass\nclass Config:\n    a: 'Optional[int]' = 1\n"
    )
    module = load_script(path, tmp_path)
    assert sys.modules[module.Config.__module__] is module


@pytest.mark.parametrize("name", ["json.py", "numpy.py", "stepalign.py", "protocol.py", "workers.py", "coordinator.py"])
def test_a_script_may_be_named_like_any_module(write: Any, tmp_path: Path, name: str) -> None:
    import json

    import numpy

    import stepalign.protocol

    path = write("from stepalign.protocol import errors\nimport numpy, json\nx = numpy.ones(1)\n", name)
    module = load_script(path, tmp_path)
    assert module.__file__ == str(path)
    assert (sys.modules["json"], sys.modules["numpy"], sys.modules["stepalign.protocol"]) == (
        json,
        numpy,
        stepalign.protocol,
    )


def error_of(path: Path, folder: Path) -> ScriptError:
    with pytest.raises(ScriptError) as caught:
        load_script(path, folder)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(
    ("text", "message", "last_line"),
    [
        ("x = 1 +\n", "importing side_under_test.py raised SyntaxError: invalid syntax", "SyntaxError: invalid syntax"),
        ("  x = 1\n", "raised IndentationError: unexpected indent", "IndentationError: unexpected indent"),
        ("1 / 0\n", "raised ZeroDivisionError: division by zero", "ZeroDivisionError: division by zero"),
        (
            "import no_such_module_here\n",
            "raised ModuleNotFoundError: No module named 'no_such_module_here'",
            "ModuleNotFoundError",
        ),
        ("raise SystemExit(3)\n", "raised SystemExit: 3", "SystemExit: 3"),
        ("from stepalign.workers import Trainng\n", "raised ImportError: cannot import name 'Trainng'", "ImportError"),
    ],
)
def test_a_script_that_does_not_import_is_told_with_its_own_lines(
    write: Any, tmp_path: Path, text: str, message: str, last_line: str
) -> None:
    error = error_of(write(text), tmp_path)
    assert message in str(error)
    assert error.trimmed.startswith("Traceback (most recent call last):\n")
    assert "side_under_test.py" in error.trimmed
    assert error.trimmed.rstrip().splitlines()[-1].startswith(last_line)
    assert "protocol/script.py" not in error.trimmed


def test_bytes_that_are_no_source_are_told(tmp_path: Path) -> None:
    (tmp_path / "side_under_test.py").write_bytes(b"x = '\xff'\n")
    assert "importing side_under_test.py raised SyntaxError" in str(error_of(tmp_path / "side_under_test.py", tmp_path))


def test_a_script_that_is_gone_or_no_python_file_is_told(tmp_path: Path) -> None:
    assert "raised FileNotFoundError" in str(error_of(tmp_path / "nowhere.py", tmp_path))
    (tmp_path / "side.txt").write_text("x = 1", encoding="utf-8")
    with pytest.raises(CaseError, match=r"side.txt is not a Python file: name a .py file"):
        load_script(tmp_path / "side.txt", tmp_path)


def test_a_failed_import_leaves_no_half_made_module(write: Any, tmp_path: Path) -> None:
    path = write("x = 1\n1 / 0\n")
    error_of(path, tmp_path)
    assert "side_under_test" not in sys.modules


def test_a_missing_function_is_told_with_those_that_there_are(write: Any, tmp_path: Path) -> None:
    path = write("def biuld(case): pass\ndef _hidden(): pass\nbuild = 3\nclass Net: pass\n")
    with pytest.raises(CaseError, match=r"side_under_test.py has no function build\(case\); it defines: biuld, Net"):
        find_function(load_script(path, tmp_path), "build", path)


@pytest.mark.parametrize("text", ["def build(): pass", "def build(case, more): pass", "build = type('B', (), {})"])
def test_a_function_that_does_not_take_the_case_alone_is_told(write: Any, tmp_path: Path, text: str) -> None:
    path = write(text + "\n")
    with pytest.raises(
        CaseError, match=r"side_under_test.py: build is called with one argument: def build\(case\): ..."
    ):
        find_function(load_script(path, tmp_path), "build", path)


@pytest.mark.parametrize(
    "text", ["build = print", "def build(case, more=1): pass", "build = lambda *a, **k: 1", "build = dict"]
)
def test_any_function_that_takes_the_case_will_do(write: Any, tmp_path: Path, text: str) -> None:
    path = write(text + "\n")
    assert callable(find_function(load_script(path, tmp_path), "build", path))


def test_a_traceback_begins_at_the_first_frame_in_the_case(write: Any, tmp_path: Path) -> None:
    path = write(
        "import json\ndef build(case):\n    return helper(case)\ndef helper(case):\n    return json.loads('{')\n"
    )
    build = find_function(load_script(path, tmp_path), "build", path)
    with pytest.raises(ScriptError, match="build raised JSONDecodeError") as caught:
        call_script("build", tmp_path, lambda: build(None))
    frames = [line for line in caught.value.trimmed.splitlines() if line.startswith("  File")]
    assert "in build" in frames[0] and "in helper" in frames[1] and "json" in frames[2]


@pytest.mark.parametrize("package", ["protocol", "workers"])
def test_frames_of_ours_between_the_users_own_are_left_out(write: Any, tmp_path: Path, package: str) -> None:
    ours: dict[str, Any] = {}
    name = Path(call_script.__code__.co_filename).parents[1] / package / "between.py"
    exec(compile("def between(call):\n    return call()\n", str(name), "exec"), ours)
    path = write("def build(through):\n    return through(helper)\ndef helper():\n    return [][0]\n")
    build = load_script(path, tmp_path).build
    for folder in (tmp_path, name.parents[1]):  # the case may lie where the tool is installed, or the other way round
        with pytest.raises(ScriptError) as caught:
            call_script("build", folder, lambda: build(ours["between"]))
        assert "between.py" not in caught.value.trimmed
        assert call_script.__code__.co_filename not in caught.value.trimmed


def test_a_traceback_without_a_frame_in_the_case_is_whole(tmp_path: Path) -> None:
    with pytest.raises(ScriptError) as caught:
        call_script("step 3", tmp_path, lambda: [][0])
    assert "test_script.py" in caught.value.trimmed and "IndexError" in caught.value.trimmed


def test_the_cases_own_errors_pass_as_they_are(tmp_path: Path) -> None:
    def refuse() -> None:
        raise CaseError("as it is")

    with pytest.raises(CaseError, match="^as it is$") as caught:
        call_script("step 3", tmp_path, refuse)
    assert not isinstance(caught.value, ScriptError)
