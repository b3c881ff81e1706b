"""`stepalign replay`: repeats a recorded run up to a step and compares every module's output there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional

from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.recordings.batches import open_batches
from stepalign.coordinator.results.records import from_strict_number, read_steps
from stepalign.coordinator.running.case_record import read_case_record
from stepalign.coordinator.running.recorded_step import compare_recorded
from stepalign.coordinator.running.replay import replay_steps
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.sessions.members import find_crew
from stepalign.protocol.errors import CaseError


@dataclass(frozen=True)
class RunReplay:
    """A replayed step. ``unlike`` lists steps whose losses are not, bit by bit, those that the run recorded."""

    step: int
    outputs: Dict[str, Comparison]
    unlike: List[int]


def replay_run(folder: Path, step: int, watcher: Watcher, bind: Optional[str] = None) -> RunReplay:
    """Replay the run of ``folder`` to ``step``; ``bind`` replaces [network] bind.

    Raises CaseError if the run has no such step or its case has changed.
    """
    recorded = read_steps(folder)
    if not 0 <= step < len(recorded):
        raise CaseError(f"{folder}: no step {step}: the run finished {len(recorded)} steps, counted from 0")
    case = read_case_record(folder)
    if bind is not None:
        case = replace(case, file=replace(case.file, network=replace(case.file.network, bind=bind)))
    batches = open_batches(case)
    changed = [number for number in range(step + 1) if batches.digest(number) != recorded[number]["batch_digest"]]
    if changed:
        raise CaseError(f"{folder}: the data have changed since: the batch of step {changed[0]} has another digest")
    with find_crew(case, meeting=watcher.meeting(folder)) as crew:
        replayed = replay_steps(case, crew, folder, (step,), ("*",), batches, watcher.tick)
    pair = replayed.pairs[0]
    torch, paddle = (side.tensors.get("activation", {}) for side in (pair.reference, pair.candidate))
    unlike = [
        number
        for number, losses in enumerate(replayed.losses)
        if [_bits(loss) for loss in losses] != [_bits(_recorded(recorded[number], side)) for side in ("torch", "paddle")]
    ]
    return RunReplay(step, dict(compare_recorded(case, replayed.names, torch, paddle, step).comparisons), unlike)


def _recorded(line: Dict[str, object], side: str) -> float:
    losses = line["loss"]
    assert isinstance(losses, dict)
    return from_strict_number(losses[side])


def _bits(loss: float) -> str:
    return loss.hex()
