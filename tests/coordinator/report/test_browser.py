"""report.html in a real browser: no complaint, no request, and its controls work. Needs a Chromium."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stepalign.coordinator.report import write_report
from stepalign.coordinator.results.details_json import write_details_json

from ..made_up_results import details, diverged, write_steps

SCRIPT = Path(__file__).parents[3] / "scripts" / "check_report.py"


def _load_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_report", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = _load_check()
CHROMIUM = next(filter(None, map(shutil.which, CHECK.BROWSERS)), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no browser: none of {', '.join(CHECK.BROWSERS)} is installed"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with CHECK.open_browser(CHROMIUM) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_steps(folder, 10, first_failure=1)
    write_details_json(folder, details())
    write_report(folder, diverged())
    return folder / "report.html"


@pytest.mark.parametrize(("width", "scheme"), [("phone", "dark"), ("desktop", "light")])
def test_a_report_draws_asks_for_nothing_and_its_controls_work(
    browser: Any, report: Path, width: str, scheme: str, tmp_path: Path
) -> None:
    assert CHECK.check_view(browser, report, scheme, width, tmp_path) == []
    assert (tmp_path / f"{width}-{scheme}.png").stat().st_size > 10_000


def test_a_page_that_complains_asks_for_something_or_draws_nothing_is_found_out(
    browser: Any, report: Path, tmp_path: Path
) -> None:
    html = report.read_text(encoding="utf-8")
    broken = html.replace('"use strict";', "console.error('mine');", 1).replace(
        "</main>", '<img src="https://example.invalid/a.png" alt=""></main>', 1
    )
    page = tmp_path / "broken.html"
    page.write_text(broken.replace("img-src data: blob:", "img-src *"), encoding="utf-8")
    problems = CHECK.check_view(browser, page, "light", "desktop", tmp_path)
    assert any("console error" in problem and "mine" in problem for problem in problems)
    assert any(problem.startswith("request: https://example.invalid") for problem in problems)
