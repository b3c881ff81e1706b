"""The CPU cores that this process may use, in an order in which a cut anywhere separates as little as possible."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CPU_FOLDER = Path("/sys/devices/system/cpu")
_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


def available_cores(cpu_folder: Path = _CPU_FOLDER, quota_file: Path = _QUOTA_FILE) -> tuple[int, ...]:
    """List the logical cores of this process, by socket, then physical core, so that hyper-threads stand side by side.

    A container's quota of CPU time, rounded up to whole cores, shortens the list: more threads than that would only
    stop one another.
    """
    ordered = sorted(os.sched_getaffinity(0), key=lambda core: (_topology(cpu_folder, core), core))
    quota = _quota_cores(quota_file)
    return tuple(ordered if quota is None else ordered[: max(1, math.ceil(quota))])


def _topology(cpu_folder: Path, core: int) -> tuple[int, int]:
    folder = cpu_folder / f"cpu{core}" / "topology"
    try:
        siblings = (folder / "thread_siblings_list").read_text(encoding="ascii")
        package = int((folder / "physical_package_id").read_text(encoding="ascii"))
        first = int(siblings.replace("-", ",").split(",")[0])
    except (OSError, ValueError):
        return (0, core)
    return (package, first)


def _quota_cores(quota_file: Path) -> float | None:
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
