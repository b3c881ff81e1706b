"""``stepalign env create|list|remove`` and ``stepalign doctor``."""

from __future__ import annotations

import argparse
import sys

from stepalign.coordinator.environments import managed
from stepalign.protocol.errors import CaseError


def create(options: argparse.Namespace) -> int:
    """Make an environment."""
    framework = options.framework or (options.name if options.name in ("torch", "paddle") else None)
    if framework is None:
        raise CaseError(f"env create {options.name}: say what it is for with --framework torch or --framework paddle")
    made = managed.create(
        options.name,
        framework,
        version=options.version,
        python=options.python,
        packages=options.packages,
        requirements=options.requirements,
        pip_args=options.pip_args,
        recreate=options.recreate,
        distribution=options.distribution,
        on_line=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"{made.name}: {made.distribution} {made.version}, Python {made.python}, in {made.folder}")
    return 0


def list_all(options: argparse.Namespace) -> int:
    """List the environments."""
    found = managed.list_environments()
    for item in found:
        state = f"{item.distribution} {item.version}, Python {item.python}" if item.complete else "incomplete"
        print(f"{item.name:16} {state:44} {item.folder}")
    if not found:
        print("no environments yet: stepalign env create torch; stepalign env create paddle", file=sys.stderr)
    return 0


def remove(options: argparse.Namespace) -> int:
    """Remove an environment."""
    managed.remove(options.name)
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Say what is there and what is missing."""
    from stepalign.coordinator.environments.doctor import examine, format_report

    report = examine()
    print(format_report(report))
    return report.exit_code
