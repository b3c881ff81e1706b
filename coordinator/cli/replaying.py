"""``stepalign replay``."""

from __future__ import annotations

import argparse
import json
from typing import Any, Dict, List

from stepalign.coordinator.cli.running import print_notice
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.processes.interruption import Interruption
from stepalign.coordinator.results.records import to_strict
from stepalign.coordinator.running.recorder import describe_comparison
from stepalign.coordinator.running.replay_run import RunReplay, replay_run
from stepalign.coordinator.running.run_state import Watcher


def replay(options: argparse.Namespace) -> int:
    """Repeat a run up to a step and print how each module's output compares."""
    with Interruption() as interruption:
        watcher = Watcher(tick=interruption.raise_if_asked, notice=print_notice)
        found = replay_run(options.run, options.step, watcher, options.bind)
    outputs = {key: item for key, item in found.outputs.items() if "@input" not in key}
    failed = [key for key, item in outputs.items() if not item.passed]
    if options.json:
        record: Dict[str, Any] = {
            "schema": 1,
            "step": found.step,
            "unlike_the_run": found.unlike,
            "modules": [describe_comparison(item) for item in outputs.values()],
        }
        print(json.dumps(to_strict(record), indent=1, allow_nan=False))
    else:
        _print(found, outputs, failed)
    return 1 if failed else 0


def _print(found: RunReplay, outputs: Dict[str, Comparison], failed: List[str]) -> None:
    if found.unlike:
        print(f"note: at step {found.unlike[0]} the replayed losses are not bit by bit those of the run")
    print(f"step {found.step}: {len(outputs)} outputs and gradients of modules, in the order of torch's calls")
    for key, item in outputs.items():
        measures = item.measures
        numbers = f"{measures.max_abs:10.3g} of {item.atol:.3g} allowed" if measures is not None else item.reason
        print(f"{'  ' if item.passed else '! '}{key:48} {numbers}")
    print(f"first that differs: {failed[0]}" if failed else "all agree")
