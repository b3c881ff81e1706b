"""The facts of the machine that a figure was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.timing import pythons
from stepalign.coordinator.comparison import compiled
from stepalign.coordinator.devices.cores import available_cores

_VERSIONS = """
import importlib.metadata
wanted = ("torch", "paddlepaddle", "paddlepaddle-gpu", "numpy", "pyzmq")
found = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
print(", ".join(f"{name} {found[name]}" for name in wanted if name in found))
"""


def machine_facts() -> dict[str, str]:
    """Return processor, cores, load, kernel and versions as text."""
    facts = {
        "processor": _processor(),
        "cores": f"{len(available_cores())} of {os.cpu_count()}",
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5 and 15 minutes)",
        "kernel": platform.release(),
        "coordinator": f"Python {platform.python_version()}, " + ", ".join(_named(("numpy", "pyzmq", "msgpack"))),
        "loops": compiled.describe(),
    }
    for side, python in pythons().items():
        done = subprocess.run([str(python), "-I", "-c", _VERSIONS], capture_output=True, text=True, check=False)
        facts[side] = done.stdout.strip() or "unknown"
    return facts


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _named(names: tuple[str, ...]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found
