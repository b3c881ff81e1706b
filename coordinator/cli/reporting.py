"""``stepalign report``."""

from __future__ import annotations

import argparse
import json
import sys

from stepalign.coordinator.report import write_report
from stepalign.coordinator.report.terminal import print_verdict
from stepalign.coordinator.results.deliverables import attempt
from stepalign.coordinator.results.interrupted import load_or_rebuild
from stepalign.coordinator.results.result_json import to_json
from stepalign.coordinator.results.step4 import write_losses_md


def report(options: argparse.Namespace) -> int:
    """Rebuild report.html and losses.md of a run folder; print its verdict and end with its exit code."""
    result = load_or_rebuild(options.run)
    folder = options.run if options.run.is_dir() else options.run.parent
    failure = attempt(
        lambda: write_losses_md(folder / "losses.md", result), lambda: write_report(folder / "report.html", result)
    )
    if options.json:
        print(json.dumps(to_json(result), indent=1, allow_nan=False))
    else:
        print_verdict(result, folder)
    if failure is not None:
        print(f"stepalign: {failure}", file=sys.stderr)
        return failure.exit_code
    return result.exit_code
