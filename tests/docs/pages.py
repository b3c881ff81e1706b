"""The project's pages as what a reader would do with them: files to write, commands to run, output to see.

In a page that is run, in order: a fenced block with a ``title`` is a file of that name; a ``diff`` block with a title
changes that file; a ``bash`` block is run, and must exit with 0 or with what the comment ``<!-- exits N -->`` above it
says; a ``text`` block after it must be in what the command printed, numbers aside.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

ROOT = Path(__file__).resolve().parents[2]
_OUTSIDE_DOCS = [ROOT / "examples" / "README.md", ROOT / "benchmarks" / "ports" / "README.md"]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *_OUTSIDE_DOCS])

_FENCE = re.compile(r"^(?:<!-- exits (\d+) -->\n)?```([a-z]*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?:-\d+)*")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is (or ""), its text, its line in the page, the exit code it announces."""

    language: str
    title: str
    text: str
    line: int
    exits: int


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        exits, language, info, body = match.groups()
        title = _TITLE.search(info)
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(language, title[1] if title else "", body, line, int(exits or 0)))
    return found


def indented_lines(page: Path) -> list[tuple[int, str]]:
    """Return (line number, text) of what stands in indented code blocks, fenced blocks aside."""
    text = _FENCE.sub(lambda match: "\n" * match.group(0).count("\n"), page.read_text(encoding="utf-8"))
    return [(number, line[4:]) for number, line in enumerate(text.splitlines(), 1) if line.startswith("    ")]


def run_page(page: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Do in ``folder`` what the page says; raises AssertionError that names the page's line where it does not hold."""
    printed = ""
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.title and block.language == "diff":
            _change(folder / block.title, block.text, where)
        elif block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-ec", block.text], cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=280
            )
            printed = done.stdout
            assert done.returncode == block.exits, f"{where}: exit {done.returncode}\n{printed}\n{done.stderr[-3000:]}"
        elif block.language == "text":
            _compare(block.text, printed, where)


def _change(path: Path, diff: str, where: str) -> None:
    old = "".join(line[1:] + "\n" for line in diff.splitlines() if not line.startswith("+"))
    new = "".join(line[1:] + "\n" for line in diff.splitlines() if not line.startswith("-"))
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{where}: {path.name} has these lines {text.count(old)} times:\n{old}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def _compare(wanted: str, printed: str, where: str) -> None:
    lines = {_plain(line) for line in printed.splitlines()}
    missing = [line for line in wanted.splitlines() if line.strip() not in ("", "...") and _plain(line) not in lines]
    assert not missing, f"{where}: not in what was printed:\n" + "\n".join(missing) + f"\n\nprinted:\n{printed}"


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("#", line).split())
