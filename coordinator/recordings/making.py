"""Makes a recording: one side run alone by a case, beside it the noise control, and its schedule."""

from __future__ import annotations

import datetime
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Literal, Mapping, Optional, Tuple, Union

import numpy as np

import stepalign
from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.cases.collection import plan_collection
from stepalign.coordinator.cases.weights_file import read_weights_file
from stepalign.coordinator.recordings.files import RecordingWriter
from stepalign.coordinator.recordings.recording import CONTROL, FORMAT, REFERENCE, VERSION, settings_of
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.running.schedule import defines_schedule
from stepalign.coordinator.sessions.members import Crew, find_crew
from stepalign.coordinator.sessions.session import Member, Session
from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, WorkerFailure
from stepalign.protocol.messages import Named, StepResult
from stepalign.protocol.schema import to_plain
from stepalign.protocol.tensors import digest

Steps = Union[Literal["all"], Tuple[int, ...]]


@dataclass(frozen=True)
class Wanted:
    """What a recording is to hold beside every step's values.

    ``activations`` are the steps at which every module's output is kept, so that a module can be named later. ``noise``
    adds the control that tells rounding from mistakes; ``batches`` the batches and not only their digests.
    """

    activations: Steps = (0,)
    noise: bool = True
    batches: bool = True

    def keeps_activations(self, step: int) -> bool:
        """Say whether every module's output is kept at a step."""
        return self.activations == "all" or step in self.activations


@dataclass(frozen=True)
class _Making:
    """Who makes a recording of which side, and where to: ``logs`` is a folder for this while."""

    case: Case
    side: str
    crew: Crew
    logs: Path
    watcher: Watcher
    writer: RecordingWriter

    def member(self, role: str = "") -> Member:
        """Return a worker of the side."""
        return self.crew.member(self.case, self.side, self.logs, role)


def record_side(case: Case, side: str, place: Path, wanted: Wanted, watcher: Watcher) -> Path:
    """Run one side of a case alone and keep it at ``place``, a new folder or .zip; return the place.

    Raises CaseError for what only two sides can do, and whatever a run raises; then nothing is left.
    """
    _check_recordable(case, side)
    writer = RecordingWriter(place)
    try:
        with tempfile.TemporaryDirectory(prefix="stepalign-record-") as name:
            logs = Path(name)
            watcher.phase("reading the data")
            batches = BatchSource(case)
            watcher.folder(logs)
            with find_crew(case, (side,), watcher.meeting(logs)) as crew:
                index = _record(_Making(case, side, crew, logs, watcher, writer), batches, wanted)
        writer.finish(index)
    finally:
        writer.discard()
    return place


def _check_recordable(case: Case, side: str) -> None:
    file = case.file
    source, other = file.weights.source, "paddle" if side == "torch" else "torch"
    if source == other or (side == "paddle" and source not in ("paddle", "none")):
        raise CaseError(
            f'the {side} side cannot be recorded: weights.source = "{source}" takes its initial weights from elsewhere; run '
            f'with --set weights.source={side}, now and when you run against the recording'
        )
    if file.compare.dropout == "shared":
        raise CaseError(
            'compare.dropout = "shared" cannot be recorded: its masks are named by both sides\' modules; use mode = "eval"'
        )
    if side == "paddle" and file.compare.resync:
        raise CaseError("compare.resync gives paddle the torch side's state: record the torch side, or set it to 0")


def _record(making: _Making, batches: BatchSource, wanted: Wanted) -> Dict[str, Any]:
    case, side, watcher, writer = making.case, making.side, making.watcher, making.writer
    control = wanted.noise and side == "torch"
    members = (making.member(), replace(making.member(CONTROL), jitter=True)) if control else (making.member(),)
    with Session(case, members, "train", watcher.tick) as session:
        watcher.phase(f"starting the {side} side" + (" and its noise control" if control else ""))
        session.start()
        session.build_sides()
        facts, declaration = session.facts[side], session.declarations[side]
        initial = _initial_weights(case, session, members)
        writer.add("initial.npz", initial)
        collection, _ = plan_collection(case, declaration)
        lines: List[Dict[str, Any]] = []
        watcher.phase(f"recording {case.steps} steps")
        for step in range(case.steps):
            arrays = batches[step]
            asked = _asked(case, collection.kinds(step), step, wanted, control)
            results = _step(case, session, members, step, arrays, asked, wanted)
            tracks = dict(zip((REFERENCE, CONTROL), results))
            for track, result in tracks.items():
                writer.add(f"{track}/{step:06}.npz", _flat(result))
            if wanted.batches and (step == 0 or digest(arrays) != lines[0]["batch_digest"]):
                writer.add(f"batches/{step:06}.npz", arrays)
            lines.append({"kinds": asked, "batch_digest": results[0].batch_digest, "seconds": results[0].seconds})
    schedule = _record_schedule(making)
    return {
        "format": FORMAT,
        "version": VERSION,
        "stepalign": stepalign.__version__,
        "made": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "case": case.name,
        "side": side,
        "settings": settings_of(case, side),
        "control": control,
        "facts": to_plain(facts),
        "declaration": to_plain(declaration),
        "schedule": schedule,
        "steps": lines,
    }


def _initial_weights(case: Case, session: Session, members: Tuple[Member, ...]) -> Named:
    """Give all workers the case's initial weights and return them."""
    role, source = members[0].role, case.file.weights.source
    if source.endswith((".npz", ".safetensors")):
        given = read_weights_file(case.folder / source, session.declarations[role].tensors)
        differing = session.load_weights({member.role: given for member in members})[role]
        return {**session.read_weights(role), **differing}
    initial = {name: np.array(array) for name, array in session.read_weights(role).items()}
    for member in members[1:]:
        session.load_weights({member.role: initial})
    return initial


def _asked(case: Case, planned: Tuple[str, ...], step: int, wanted: Wanted, control: bool) -> List[str]:
    """Return the kinds to collect at a step: the plan's, and every one that a noise control looks at."""
    kinds = [*planned, *(case.file.collect.kinds if control else ())]
    if wanted.keeps_activations(step) or case.file.collect.activations:
        kinds.append("activation")
    return list(dict.fromkeys(kinds))


def _step(
    case: Case, session: Session, members: Tuple[Member, ...], step: int, arrays: Named, kinds: List[str], wanted: Wanted
) -> List[StepResult]:
    """Have all workers run a step; only the side itself keeps its modules' outputs."""
    patterns = ("*",) if wanted.keeps_activations(step) else case.file.collect.activations
    plain = tuple(kind for kind in kinds if kind != "activation")
    requests: Dict[str, messages.Message] = {}
    for member in members:
        first = member is members[0]
        requests[member.role] = messages.Batch(step, arrays, tuple(kinds) if first else plain, patterns if first else ())
    found = session.switchboard.ask(requests, StepResult, case.file.deadline.step_s, "step")
    results = [found[member.role] for member in members]
    for result in results:
        if result.step != step or result.batch_digest != digest(arrays):
            raise WorkerFailure(f"step {step}: the worker answered step {result.step}, or saw other bytes than were sent")
    return results


def _flat(result: StepResult) -> Mapping[str, np.ndarray]:
    named = {f"{kind}/{name}": array for kind, arrays in result.tensors.items() for name, array in arrays.items()}
    return {"lr": np.asarray(result.lr, np.float64), "loss": result.loss, **named}


def _record_schedule(making: _Making) -> Optional[Dict[str, Any]]:
    case, side = making.case, making.side
    if not defines_schedule(case)[side]:
        return None
    making.watcher.phase(f"recording {case.file.schedule.steps} steps of the schedule")
    with Session(case, (making.member(),), "schedule", making.watcher.tick) as session:
        session.start()
        ready = session.build_schedules()[side]
        rates = session.read_rates(case.file.schedule.steps)[side]
    making.writer.add("schedule.npz", {"rates": rates})
    return {"scheduler": None if ready.scheduler is None else to_plain(ready.scheduler), "steps": len(rates)}
