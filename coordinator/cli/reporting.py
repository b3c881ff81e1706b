"""``stepalign report``."""

from __future__ import annotations

import argparse
import json

from stepalign.coordinator.report import write_report
from stepalign.coordinator.report.terminal import print_verdict
from stepalign.coordinator.results.result_json import load_result, to_json
from stepalign.coordinator.results.step4 import write_losses_md


def report(options: argparse.Namespace) -> int:
    """Rebuild report.html and losses.md of a run folder; print its verdict and end with its exit code."""
    result = load_result(options.run)
    folder = options.run if options.run.is_dir() else options.run.parent
    write_losses_md(folder / "losses.md", result)
    write_report(folder / "report.html", result)
    if options.json:
        print(json.dumps(to_json(result), indent=1, allow_nan=False))
    else:
        print_verdict(result, folder)
    return result.exit_code
