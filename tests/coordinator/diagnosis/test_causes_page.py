"""The page that lists every cause keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path

from stepalign.coordinator.diagnosis.cause import Category

ROOT = Path(__file__).resolve().parents[3]
LITERAL = re.compile(r'Category\.([A-Z_]+),\s*(?:code=)?"([a-z0-9_]+)"(?!\s*:)')


def emitted() -> set[tuple[str, str]]:
    """Return (category, code) of every cause that the sources build from literals."""
    sources = sorted((ROOT / "coordinator" / "diagnosis").rglob("*.py"))
    return {(category.lower(), code) for path in sources for category, code in LITERAL.findall(path.read_text())}


def documented() -> set[tuple[str, str]]:
    """Return (category, code) of every row of the page."""
    category, rows = "", set()
    for line in (ROOT / "docs" / "causes.md").read_text().splitlines():
        if line.startswith("## "):
            category = line[3:].strip()
        elif match := re.match(r"\| `([a-z0-9_]+)` \|", line):
            rows.add((category, match.group(1)))
    return rows


def test_every_cause_that_the_sources_emit_is_on_the_page() -> None:
    assert len(emitted()) > 100
    assert emitted() - documented() == set()


def test_every_cause_on_the_page_is_in_the_sources() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "coordinator" / "diagnosis").rglob("*.py"))
    unknown = {
        (category, code)
        for category, code in documented()
        if f'"{code}"' not in sources and code != f"{category}_differs"
    }
    assert unknown == set()


def test_every_section_of_the_page_is_a_category() -> None:
    assert {category for category, _ in documented()} <= {category.value for category in Category}
