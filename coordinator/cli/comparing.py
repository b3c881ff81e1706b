"""``stepalign compare``."""

from __future__ import annotations

import argparse
import json
from typing import Any, Dict

from stepalign.coordinator.report.terminal import print_verdict
from stepalign.coordinator.results.npy_compare import NpyComparison, compare_npy, format_rows
from stepalign.coordinator.results.recorded import compare_runs
from stepalign.coordinator.results.records import to_strict
from stepalign.coordinator.results.result_json import to_json
from stepalign.protocol.errors import CaseError


def compare(options: argparse.Namespace) -> int:
    """Compare two recorded sides."""
    for path in (options.a, options.b):
        if not path.exists():
            raise CaseError(f"compare: no such file or folder: {path}")
    if options.a.is_dir() != options.b.is_dir():
        raise CaseError(f"compare: give two run folders or two .npy files, not one of each: {options.a}, {options.b}")
    if options.a.is_dir():
        result = compare_runs(options.a, options.b)
        if options.json:
            print(json.dumps(to_json(result), indent=1, allow_nan=False))
        else:
            print_verdict(result, None)
        return result.exit_code
    found = compare_npy(options.a, options.b)
    if options.json:
        print(json.dumps(to_strict(_as_record(found)), indent=1, allow_nan=False))
    else:
        _print(found)
    return found.verdict.exit_code


def _print(found: NpyComparison) -> None:
    for line in format_rows(found.rows):
        print(line)
    for warning in found.warnings:
        print(f"warning: {warning}")
    bad = found.first_bad
    print(f"verdict: {found.verdict.value}" + (f", first at {bad}" if bad is not None else ""))


def _as_record(found: NpyComparison) -> Dict[str, Any]:
    return {
        "schema": 1,
        "verdict": found.verdict,
        "exit_code": found.verdict.exit_code,
        "reference": found.reference_path,
        "candidate": found.candidate_path,
        "rows": [vars(row) for row in found.rows],
        "warnings": list(found.warnings),
    }
