"""Checks the declared pairings against what the installed frameworks have: every class a row, every argument a word."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from stepalign.coordinator.atlas.pairing import REQUIRED, Pairing

_SCRIPT = Path(__file__).with_name("inventory_script.py")
_SUBJECTS = frozenset({"params", "parameters", "optimizer", "args", "kwargs"})
_TIMEOUT_S = 300.0

Side = Literal["torch", "paddle"]
Arguments = dict[str, Any]


def read_inventory(side: Side, interpreter: Path) -> dict[str, Arguments]:
    """Return the classes and functions of a side's framework, with the default of each argument."""
    done = subprocess.run(
        [str(interpreter), "-I", str(_SCRIPT), side], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("INVENTORY "))
    listed: dict[str, dict[str, Any]] = json.loads(line.removeprefix("INVENTORY "))
    return {name: {key: _default(value) for key, value in arguments.items()} for name, arguments in listed.items()}


def complaints(side: Side, inventory: Mapping[str, Arguments], pairings: Iterable[Pairing]) -> list[str]:
    """Say of every class without a row, every argument that a row leaves out or invents, every default that differs."""
    declared = list(pairings)
    rows = {getattr(pairing, side) for pairing in declared}
    found = [f"{name} has no row" for name in inventory if name not in rows]
    for pairing in declared:
        target = getattr(pairing, side)
        if not pairing.configurations or target not in inventory:
            continue
        there = {name: value for name, value in inventory[target].items() if name not in _SUBJECTS}
        ours = {getattr(item, side).partition("[")[0] for item in pairing.arguments} - {"", "optimizer.lr"} - _SUBJECTS
        found += [f"{pairing.key}: {target} has an argument {name}, which the row leaves out" for name in there if name not in ours]
        found += [f"{pairing.key}: {target} has no argument {name}" for name in sorted(ours) if name not in there]
        for name, default in pairing.defaults(side).items():
            if name in there and there[name] != default and there[name] is not REQUIRED:
                found.append(f"{pairing.key}: {target}: the default of {name} is {there[name]!r}, not {default!r}")
            if name in there and there[name] is REQUIRED:
                found.append(f"{pairing.key}: {target}: {name} has no default")
    return found


def _default(value: Mapping[str, Any]) -> Any:
    if "required" in value:
        return REQUIRED
    return tuple(value["tuple"]) if "tuple" in value else value["value"]
