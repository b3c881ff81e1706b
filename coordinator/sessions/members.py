"""Finds for each side its interpreter, its device and its cores, and says what a worker is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Tuple

from stepalign.coordinator.cases.case import SIDES, Case
from stepalign.coordinator.devices.cores import available_cores
from stepalign.coordinator.devices.gpus import gpu_inventory
from stepalign.coordinator.devices.placement import Placement, place
from stepalign.coordinator.environments import managed
from stepalign.coordinator.environments.interpreters import Interpreter, InterpreterFacts, probe
from stepalign.coordinator.processes.worker_process import WorkerSpec
from stepalign.coordinator.sessions.session import Member


@dataclass(frozen=True)
class Crew:
    """The interpreters and the placement of one run."""

    interpreters: Dict[str, Interpreter]
    facts: Dict[str, InterpreterFacts]
    placement: Placement

    def member(self, case: Case, side: str, folder: Path, role: str = "") -> Member:
        """Return the worker of ``side``; ``role`` names it where one side has two."""
        role = role or side
        device = self.placement.devices[side]
        spec = WorkerSpec(
            role=role,
            framework=side,
            interpreter=self.interpreters[side].path,
            log=folder / f"{role}.log",
            env={**device.env, **case.side(side).env},
            cores=device.cores,
            memory_mib=case.file.collect.memory_mib,
        )
        return Member(role, side, spec, device.kind, device.threads)


def find_crew(case: Case) -> Crew:
    """Return who runs the case. Raises EnvironmentFailure with the command that mends what is missing."""
    interpreters: Dict[str, Interpreter] = {}
    facts: Dict[str, InterpreterFacts] = {}
    for side in SIDES:
        interpreter = managed.find(case.side(side).python, side, case.folder)
        interpreters[side], facts[side] = interpreter, probe(interpreter)
    placement = place(
        {side: case.side(side).device for side in SIDES},
        {side: bool(facts[side].cuda.get(side)) for side in SIDES},
        gpu_inventory().gpus,
        available_cores(),
        case.file.threads or None,
    )
    return Crew(interpreters, facts, placement)


def both(case: Case, crew: Crew, folder: Path) -> Tuple[Member, Member]:
    """Return the two workers of a case: torch, the reference, and paddle, the candidate."""
    return crew.member(case, "torch", folder), crew.member(case, "paddle", folder)
