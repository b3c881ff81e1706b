"""A port as a complete case folder: case.toml, the two scripts with what they import, and the data."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.ports.port import Port

FAMILIES = Path(__file__).parent / "families"
PYTHON_VARIABLES = {"torch": "STEPALIGN_TORCH_PYTHON", "paddle": "STEPALIGN_PADDLE_PYTHON"}


def write_case(port: Port, folder: Path) -> Path:
    """Write the port's case into ``folder``, which must not hold files of another case, and return it.

    The interpreters are the managed environments ``torch`` and ``paddle`` unless STEPALIGN_TORCH_PYTHON or
    STEPALIGN_PADDLE_PYTHON name others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    family = FAMILIES / port.family
    for side in ("torch", "paddle"):
        shutil.copyfile(FAMILIES / f"common_{side}.py", folder / f"{side}_recipe.py")
        shutil.copyfile(family / f"{port.scripts.get(side, side)}_side.py", folder / f"{side}_side.py")
    if port.stream:
        shutil.copyfile(family / "data.py", folder / "data.py")
    else:
        arrays: dict[str, Any] = {**first_batch(port)}
        np.savez(folder / "data.npz", **arrays)
    (folder / "case.toml").write_text(case_toml(port), encoding="utf-8")
    return folder


def first_batch(port: Port) -> dict[str, np.ndarray]:
    """Return the first batch of the port's family."""
    spec = importlib.util.spec_from_file_location(f"{port.family}_data", FAMILIES / port.family / "data.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"family {port.family!r} has no data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    case = SimpleNamespace(steps=port.steps, dtype=port.dtype, options=dict(port.options))
    batches: Iterator[dict[str, np.ndarray]] = module.batches(case)
    return next(batches)


def case_toml(port: Port) -> str:
    """Return the text of the port's case.toml."""
    document: dict[str, Any] = {
        "name": port.name,
        "steps": port.steps,
        "mode": port.mode,
        "dtype": port.dtype,
        "options": dict(port.options),
        "options.torch": dict(port.torch),
        "options.paddle": dict(port.paddle),
        "data": {"source": "data.py" if port.stream else "data.npz"},
    }
    for side in ("torch", "paddle"):
        interpreter = port.interpreters.get(side, side)
        python = os.environ.get(PYTHON_VARIABLES[interpreter], interpreter)
        document[side] = {"script": f"{side}_side.py", "python": python, "device": "cpu"}
    document.update({name: dict(section) for name, section in port.sections.items()})
    return "\n".join(toml_lines(document)) + "\n"


def toml_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a TOML document whose tables are named with their dots; empty tables are left out."""
    for key, value in document.items():
        if not isinstance(value, Mapping):
            yield f"{key} = {toml_value(value)}"
    for name, table in document.items():
        if isinstance(table, Mapping) and table:
            yield ""
            yield f"[{name}]"
            for key, value in table.items():
                yield f"{key} = {toml_value(value)}"


def toml_value(value: Any) -> str:
    """Return a bool, number, string or (nested) list as TOML; its basic strings and lists are written as JSON's."""
    if value is None:
        raise TypeError("TOML has no null")
    return json.dumps(value)
