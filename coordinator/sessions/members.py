"""Finds for each side its interpreter, its device and its cores, and says what a worker is started with."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Dict, Optional, Sequence, Tuple, Type

from stepalign.coordinator.cases.case import SIDES, Case
from stepalign.coordinator.devices.cores import available_cores
from stepalign.coordinator.devices.gpus import gpu_inventory
from stepalign.coordinator.devices.placement import Placement, place
from stepalign.coordinator.environments import managed
from stepalign.coordinator.environments.interpreters import Interpreter, InterpreterFacts, probe
from stepalign.coordinator.processes.worker_process import WorkerSpec
from stepalign.coordinator.sessions.meeting import Machines, Meeting
from stepalign.coordinator.sessions.session import Member
from stepalign.protocol.errors import CaseError
from stepalign.protocol.messages import WorkerFacts


@dataclass(frozen=True)
class Crew:
    """The interpreters and the placement of one run, and its other machines, which are dismissed at the end."""

    interpreters: Dict[str, Interpreter]
    facts: Dict[str, InterpreterFacts]
    placement: Placement
    machines: Optional[Machines] = None

    def __enter__(self) -> "Crew":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def close(self) -> None:
        """Dismiss the other machines, if there are any."""
        if self.machines is not None:
            self.machines.close()

    def member(self, case: Case, side: str, folder: Path, role: str = "") -> Member:
        """Return the worker of ``side``; ``role`` names it where one side has two."""
        role = role or side
        if case.against is not None and case.against.side == side:
            spec = WorkerSpec(role=role, framework=side, interpreter=Path(), log=folder / f"{role}.log")
            return Member(role, side, spec, case.against.facts.device, 0, recording=case.against)
        device = self.placement.devices[side]
        if side not in self.interpreters and self.machines is not None:
            spec = WorkerSpec(role, side, Path(), folder / f"{role}.log", {**device.env, **case.side(side).env})
            return Member(role, side, spec, device.kind, device.threads, link=self.machines.link)
        words = case.command(side)
        spec = WorkerSpec(
            role=role,
            framework=side,
            interpreter=self.interpreters[side].path,
            log=folder / f"{role}.log",
            env={**device.env, **case.side(side).env},
            cores=device.cores,
            memory_mib=case.file.collect.memory_mib if _is_python(self.interpreters[side].path) else 0,
            command=_arguments(words) if words else None,
            folder=case.folder if words else None,
        )
        return Member(role, side, spec, device.kind, device.threads)


def find_crew(case: Case, sides: Sequence[str] = SIDES, meeting: Optional[Meeting] = None) -> Crew:
    """Return who runs the case, or only some ``sides`` of it; one that is recorded needs nobody. Its `close` is the
    caller's. Sides on other machines are met at ``meeting``.

    Raises EnvironmentFailure with the command that mends what is missing.
    """
    recording = case.against
    live = [side for side in sides if recording is None or side != recording.side]
    remote = [side for side in live if case.side(side).host]
    if remote and meeting is None:
        raise CaseError(f"[{remote[0]}] host: both sides run on this machine here: leave the key out")
    interpreters: Dict[str, Interpreter] = {}
    facts: Dict[str, InterpreterFacts] = {}
    for side in live:
        if side in remote:
            continue
        interpreter = _interpreter(case, side)
        interpreters[side] = interpreter
        if _is_python(interpreter.path):
            facts[side] = probe(interpreter)
    local = [side for side in live if side not in remote]
    wanted = case.file.threads or (None if recording is None else _recorded_threads(recording.facts))
    placement = _place(case, local, facts, wanted)
    machines: Optional[Machines] = None
    if remote and meeting is not None:
        machines = Machines(case, remote, meeting)
        try:
            threads = wanted or min(placement.devices["torch"].threads, machines.fewest_cores())
            placement = machines.place(case, _place(case, local, facts, threads))
        except BaseException:
            machines.close()
            raise
    if len(live) < len(SIDES):  # what is said of a side that is not started is not true of it
        placement = Placement({side: placement.devices[side] for side in live}, placement.warnings)
    return Crew(interpreters, facts, placement, machines)


def _place(
    case: Case, local: Sequence[str], facts: Dict[str, InterpreterFacts], threads: Optional[int]
) -> Placement:
    return place(
        {side: case.side(side).device if side in local else "cpu" for side in SIDES},
        {side: side in facts and bool(facts[side].cuda.get(side)) for side in SIDES},
        gpu_inventory().gpus,
        available_cores(),
        threads,
    )


def both(case: Case, crew: Crew, folder: Path) -> Tuple[Member, Member]:
    """Return the two workers of a case: torch, the reference, and paddle, the candidate."""
    return crew.member(case, "torch", folder), crew.member(case, "paddle", folder)


def _recorded_threads(facts: WorkerFacts) -> Optional[int]:
    """Return how many threads a recorded side had, so that the live one has as many."""
    threads = facts.settings.get("threads")
    return threads if isinstance(threads, int) and threads > 0 else None


def _interpreter(case: Case, side: str) -> Interpreter:
    """Return what a side is started with: its environment's interpreter, or the program that its command names."""
    words = case.command(side)
    if not words or words[0].endswith(".py"):
        return managed.find(case.side(side).python, side, case.folder)
    program = os.path.expanduser(words[0])
    found = shutil.which(str(case.folder / program) if os.sep in program else program)
    if found is None:
        raise CaseError(
            f"{side}.command: there is no program {words[0]!r}: begin the command with an interpreter, or with a .py file to "
            f"run it in the environment {case.side(side).python!r}"
        )
    return Interpreter(Path(found), side)


def _arguments(words: Tuple[str, ...]) -> Tuple[str, ...]:
    """Return what follows the interpreter or the program of a command."""
    return words if words[0].endswith(".py") else words[1:]


def _is_python(program: Path) -> bool:
    """Say whether a program is a Python interpreter, by its name; others are taken to start one, on the CPU."""
    return re.fullmatch(r"(python|pypy)[0-9.]*", program.name) is not None
