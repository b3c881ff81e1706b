"""Where doubles are started in a test: a switchboard, and what it takes to start one."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stepalign.coordinator.processes.switchboard import Switchboard
from stepalign.coordinator.processes.worker_process import WorkerProcess, WorkerSpec

DOUBLES = Path(__file__).parent

NUMPY_SIDE = (DOUBLES / "numpy_side.py").read_text(encoding="utf-8")
"""A side's script for the numpy double: the model is a dict of arrays, the loss gives its gradients along."""


@dataclass
class Stage:
    """A switchboard with doubles on it. What it started is ended with the test."""

    folder: Path
    private: Path
    switchboard: Switchboard
    workers: dict[str, WorkerProcess] = field(default_factory=dict)

    def start(
        self,
        role: str = "torch",
        fault: str = "",
        framework: str = "",
        env: Mapping[str, str] | None = None,
        payload: Path = DOUBLES / "numpy_worker.py",
    ) -> WorkerProcess:
        """Start a worker as ``role``: the numpy double, or what ``payload`` is.

        ``fault`` is what the double does wrong, see `tests/doubles/numpy_worker.py`.
        """
        worker = WorkerProcess(
            double_spec(self.folder, role, fault, framework, env),
            payload,
            self.switchboard.endpoint,
            self.private,
        )
        self.workers[role] = worker
        self.switchboard.add(worker)
        return worker

    def note(self, role: str = "torch") -> Path:
        """The file that a double writes its pid, and its children's, to right before it does something wrong."""
        return self.folder / f"{role}.note"


def double_spec(
    folder: Path, role: str, fault: str = "", framework: str = "", env: Mapping[str, str] | None = None
) -> WorkerSpec:
    """Return what starts a double."""
    return WorkerSpec(
        role=role,
        framework=framework or role,
        interpreter=Path(sys.executable),
        log=folder / f"{role}.log",
        env={"STEPALIGN_DOUBLE": fault, "STEPALIGN_DOUBLE_NOTE": str(folder / f"{role}.note"), **(env or {})},
    )
