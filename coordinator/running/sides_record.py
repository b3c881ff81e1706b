"""What both sides were when a run began: `sides.json`, and how a later start differs from it."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping

import stepalign
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.results.records import read_result, to_strict, write_json
from stepalign.coordinator.running.recorder import LINES_FORM
from stepalign.protocol.errors import CaseError
from stepalign.protocol.messages import Named, WorkerFacts
from stepalign.protocol.schema import to_plain
from stepalign.protocol.tensors import digest

SIDES_NAME = "sides.json"
_COMPARED = ("framework", "version", "python", "device", "libraries", "settings", "scripts")


def describe_sides(facts: Mapping[str, WorkerFacts], initial: Mapping[str, Named]) -> Dict[str, Any]:
    """Return both sides' versions, settings and scripts, and the digests of their initial weights, as JSON values."""
    with ThreadPoolExecutor(max_workers=len(initial) or 1) as pool:  # both workers wait for this
        weights = dict(zip(initial, pool.map(digest, initial.values())))
    described = {
        "stepalign": stepalign.__version__,
        "lines": LINES_FORM,
        "cpu": _cpu_model(),
        "sides": {side: to_plain(each) for side, each in facts.items()},
        "initial_weights": weights,
    }
    strict: Dict[str, Any] = to_strict(described)
    return strict


def write_sides(folder: Path, described: Mapping[str, Any]) -> None:
    """Write `sides.json`."""
    write_json(folder / SIDES_NAME, described)


def read_sides(folder: Path) -> Dict[str, Any]:
    """Return what a run folder says of its sides; empty if the run did not come so far. Raises CaseError."""
    path = folder / SIDES_NAME
    if not path.is_file():
        return {}
    described = read_result(path)
    if not all(isinstance(described.get(key), dict) for key in ("sides", "initial_weights")):
        raise CaseError(f"{path}: damaged: it does not say what the sides were")
    return described


def changed_sides(before: Mapping[str, Any], now: Mapping[str, Any]) -> List[str]:
    """Name what has changed, and may change numbers."""
    changed = []
    if before.get("stepalign") != now["stepalign"]:
        changed.append(f"stepalign was {before.get('stepalign')}, is {now['stepalign']}")
    if before.get("lines") != now["lines"]:
        changed.append("this stepalign writes steps.jsonl in another form")
    for side, facts in now["sides"].items():
        recorded = before["sides"].get(side, {})
        for name in _COMPARED:
            changed += [f"{side}: {text}" for text in _changes(name, recorded.get(name), facts[name])]
    return changed


def changed_weights(before: Mapping[str, Any], now: Mapping[str, Any]) -> List[str]:
    """Name the sides whose initial weights are not those that the run began with."""
    return [side for side, name in now["initial_weights"].items() if before["initial_weights"].get(side) != name]


def other_cpu(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say that the processor is another model, or nothing."""
    return "" if before.get("cpu") == now["cpu"] else f"the processor was {before.get('cpu')}, is {now['cpu']}"


def recorded_threads(described: Mapping[str, Any]) -> int:
    """Return the number of threads that both sides computed with; 0 if it is not known."""
    threads = {side["settings"].get("threads") for side in described.get("sides", {}).values()}
    return threads.pop() if len(threads) == 1 and all(isinstance(each, int) for each in threads) else 0


def _changes(name: str, before: Any, now: Any) -> List[str]:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [f"{name} was {_shown(before)}, is {_shown(now)}"]
    keys = [key for key in [*before, *(key for key in now if key not in before)] if before.get(key) != now.get(key)]
    if name == "scripts":
        return [f"{key} has changed" if key in before and key in now else f"{key} is new or gone" for key in keys]
    return [f"{name}.{key} was {_shown(before.get(key))}, is {_shown(now.get(key))}" for key in keys]


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def as_it_was_placed(case: Case, before: Mapping[str, Any]) -> Case:
    """Return the case such that both sides get the number of threads that they had; ``before`` is what they were."""
    threads = recorded_threads(before)
    if case.file.threads or not threads:
        return case
    return replace(case, file=replace(case.file, threads=threads))
