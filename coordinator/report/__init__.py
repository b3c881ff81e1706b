"""report.html: one self-contained file for people. Its libraries are imported when the first report is written, or before
that by `prepare_report`.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from stepalign.coordinator.results.result import Result

REPORT_NAME = "report.html"

__all__ = ["REPORT_NAME", "build_report", "prepare_report", "write_report"]


def prepare_report() -> None:
    """Make ready, beside what the caller does, what every report needs: called where workers have to be waited for. What
    fails here fails again, and is told, when the report is written.
    """
    with contextlib.suppress(RuntimeError):  # a machine that gives no further thread
        threading.Thread(target=_prepare, name="stepalign-report", daemon=True).start()


def _prepare() -> None:
    with contextlib.suppress(Exception):
        from stepalign.coordinator.report.page import prepare

        prepare()


def write_report(path: Path, result: Result) -> None:
    """Write report.html of a run; ``path`` is its run folder or the file itself, whose folder may hold steps.jsonl."""
    from stepalign.coordinator.report.page import render_page
    from stepalign.coordinator.results.records import write_text

    folder = path.parent if path.suffix == ".html" else path
    write_text(folder / REPORT_NAME if path is folder else path, render_page(folder, result))


def build_report(folder: Path) -> Path:
    """Write report.html again from result.json and steps.jsonl, and return its path. Raises CaseError."""
    from stepalign.coordinator.results.result_json import load_result

    write_report(folder, load_result(folder))
    return folder / REPORT_NAME
