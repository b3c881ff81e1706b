"""The pages hold: recipes and the tutorial are run as a reader would, every other command and snippet is checked."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.cases.case import CaseFile
from stepalign.coordinator.cli.parser import build_parser
from stepalign.protocol.schema import from_plain

from .pages import PAGES, ROOT, Block, blocks, indented_lines, run_page

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUN = [ROOT / "docs" / "tutorial.md", *sorted(set((ROOT / "docs" / "recipes").glob("*.md")))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in RUN if any(block.language == "bash" for block in blocks(page))], ids=name_of)
@pytest.mark.usefixtures("torch_python", "paddle_python")
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run_page(page, tmp_path, {**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "80", "LC_ALL": "C.UTF-8"})


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("torch_python", "paddle_python")
def test_what_the_python_page_shows_runs(tmp_path: Path) -> None:
    for name in ("my_case", "cases/bert", "cases/resnet"):
        make_case_without_dropout(tmp_path / name)
    shown = [block.text for block in blocks(ROOT / "docs" / "python.md") if block.language == "python"]
    for number, text in enumerate(shown):
        path = tmp_path / f"{'test_' if 'def test_' in text else ''}block_{number}.py"
        path.write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    for script in sorted(tmp_path.glob("block_*.py")):
        done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0 and "aligned" in done.stdout.lower(), done.stdout + done.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
    assert "16 passed" in done.stdout


def make_case_without_dropout(folder: Path) -> None:
    """Write the case that ``init`` writes, two steps long; without dropout, which differs by chance in train mode."""
    folder.parent.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "stepalign.coordinator.cli", "init", str(folder)], check=True, capture_output=True)
    for name in ("torch_side.py", "paddle_side.py", "case.toml"):
        path = folder / name
        text = path.read_text(encoding="utf-8").replace("nn.Dropout(0.1)", "nn.Dropout(0.0)")
        path.write_text(text.replace("steps = 10  ", "steps = 5  "), encoding="utf-8")


def commands() -> Iterator[tuple[str, str]]:
    """Give (page:line, command) of everything that the pages tell the reader to type."""
    for page in PAGES:
        lines = indented_lines(page)
        for block in blocks(page):
            if block.language in ("bash", "", "text", "yaml"):
                lines += [(block.line + number, line) for number, line in enumerate(block.text.splitlines(), 1)]
        for number, line in joined(lines):
            text = re.sub(r"^\s*(\$|- run:) ", "", line)
            yield f"{name_of(page)}:{number}", text.split("  ")[0].split(" #")[0].strip()


def joined(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Join a line that ends with a backslash to the next."""
    whole = ""
    for number, line in lines:
        whole += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield number, whole
            whole = ""


def stepalign_commands() -> list[Any]:
    found = {}
    for where, line in commands():
        for part in re.split(r" && | \| ", line):
            match = re.match(r"(?:\S*/)?stepalign( .+)$", part)
            if match:
                found.setdefault(match[1].strip(), where)
    return [pytest.param(text, id=f"{where} {text}"[:90]) for text, where in sorted(found.items(), key=lambda item: item[1])]


@pytest.mark.parametrize("text", stepalign_commands())
def test_a_command_on_a_page_is_one_that_stepalign_takes(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        build_parser().parse_args(["1" if word == "N" else word for word in shlex.split(text)])
    except SystemExit as ended:
        assert ended.code == 0, f"stepalign {text}\n{capsys.readouterr().err}"


def test_scripts_and_modules_that_pages_name_are_there() -> None:
    missing = []
    for where, line in commands():
        for script in re.findall(r"\bbash ((?:scripts|\.ci)/\S+)", line):
            if not (ROOT / script).is_file():
                missing.append(f"{where}: {script}")
        for module in re.findall(r"python -m (benchmarks[\w.]*)", line):
            if importlib.util.find_spec(module) is None:
                missing.append(f"{where}: {module}")
    assert not missing


def fenced(language: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{name_of(page)}:{block.line}")
        for page in PAGES
        for block in blocks(page)
        if block.language == language
    ]


@pytest.mark.parametrize("block", fenced("python"))
def test_a_python_snippet_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", fenced("toml"))
def test_a_toml_snippet_has_only_keys_that_a_case_has(block: Block) -> None:
    keys = tomllib.loads(block.text)
    needed = {"torch": {"script": "t.py"}, "paddle": {"script": "p.py"}, "data": {"source": "data.npz"}}
    for name, section in needed.items():
        keys[name] = {**section, **keys.get(name, {})} if name != "data" else keys.get(name, section)
    from_plain(CaseFile, keys)
