"""What grows over a long run: memory, threads, descriptors and files of every process, a step's share of each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.loops.cases import NEVER_FAILS, TINY_MLP
from benchmarks.row import Measured, Options, Row
from benchmarks.timing import BARE, with_case


def long_run(options: Options) -> Measured:
    """Measure what each process holds over ``--steps`` steps of the tiny MLP, rates and losses alone."""
    found = with_case(TINY_MLP, options.steps, (), _count)
    samples = found["samples"]
    names = sorted(set.intersection(*(set(sample["held"]) for sample in samples)))
    lines, slopes = [], {}
    for name in names:
        series = {what: [sample["held"][name][what] for sample in samples] for what in samples[0]["held"][name]}
        slopes[name] = {what: slope(samples, values) for what, values in series.items()}
        memory = series["memory_bytes"]
        lines.append(
            f"{name:18} {memory[0] / 2**20:6.1f} to {memory[-1] / 2**20:6.1f} MiB, {slopes[name]['memory_bytes']:+7.1f} bytes "
            f"a step; shared {slopes[name]['shared_bytes']:+.1f} bytes a step; threads {_ends(series['threads'])}; "
            f"descriptors {_ends(series['descriptors'])}"
        )
    first, last = samples[0], samples[-1]
    step_s = (last["seconds"] - first["seconds"]) / max(last["step"] - first["step"], 1)
    files = {name: size for name, size in found["size_bytes"].items() if size > 1 << 20}
    lines.append(
        f"files {_ends([sample['files'] for sample in samples])}; {1e3 * step_s:.2f} ms a step; {found['verdict']}; from the "
        f"last step to the end {found['ended'] - last['seconds']:.1f} s; then "
        f"{found['after']['held']['memory_bytes'] / 2**20:.1f} MiB, {found['after']['children']} processes and "
        f"{found['after']['files']} temporary files; "
        + ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in files.items())
    )
    ratio = last["held"]["coordinator"]["memory_bytes"] / first["held"]["coordinator"]["memory_bytes"]
    text = f"steps {first['step']} to {last['step']}, {len(samples)} samples\n" + "\n".join(f"    {line}" for line in lines)
    return Measured(ratio, text, {"slopes": slopes, **found})


def slope(samples: Sequence[Mapping[str, Any]], values: Sequence[float]) -> float:
    """Return by how much a value grows in a step: the slope of the line of least squares."""
    steps = np.array([sample["step"] for sample in samples], np.float64)
    away = steps - steps.mean()
    return float(away @ np.array(values, np.float64) / max(float(away @ away), 1.0))


def _ends(values: Sequence[int]) -> str:
    return f"{values[0]} to {values[-1]} (at most {max(values)})"


def _count(folder: Path, out: Path) -> dict[str, Any]:
    with open(folder / "case.toml", "a", encoding="utf-8") as file:
        file.write(NEVER_FAILS)
    with tempfile.TemporaryDirectory(prefix="sa-") as temporary:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.loops.long_run", str(folder), str(out)],
            cwd=BARE.parents[2],
            env={**os.environ, "TMPDIR": temporary},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"stepalign failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if len(found["samples"]) < 2:
        raise RuntimeError(f"stepalign came to its end too early: {found['verdict']}: {found['warnings']}")
    return found


ROWS = (
    Row("long_run", "what every process holds over --steps steps (100,000), LR and loss", "after 1,000 steps",
        "1.0", long_run, optional=True),
)  # fmt: skip
