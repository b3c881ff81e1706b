"""What a recording holds, and whether it fits a case.

Tracks are `reference`, the side itself, and `control`, the side with its weights moved by an ULP before each step, for the
noise control. A step is one .npz of a track: `loss`, and `kind/name` for all that was collected.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from stepalign.coordinator.cases.case import SIDES, Case
from stepalign.coordinator.recordings.files import RecordingFiles
from stepalign.coordinator.results.records import to_strict
from stepalign.protocol.errors import CaseError
from stepalign.protocol.messages import Named, StepResult, WorkerFacts
from stepalign.protocol.schema import SchemaError, from_plain
from stepalign.protocol.specs import Declaration, SchedulerSpec

FORMAT = "stepalign recording"
VERSION = 1
REFERENCE, CONTROL = "reference", "control"


@dataclass(frozen=True)
class Recording:
    """An open recording of one ``side``."""

    files: RecordingFiles
    side: str
    made: str
    settings: Dict[str, Any]
    facts: WorkerFacts
    declaration: Declaration
    steps: Tuple[Dict[str, Any], ...]
    has_control: bool
    schedule: Optional[Dict[str, Any]] = None

    @property
    def place(self) -> Path:
        """The folder or the .zip."""
        return self.files.place

    @property
    def digest(self) -> str:
        """What tells this recording from every other: the SHA-256 of its index, which has those of all files."""
        return hashlib.sha256(json.dumps(self.files.index, sort_keys=True).encode()).hexdigest()

    @property
    def has_batches(self) -> bool:
        """Whether the batches themselves are in it, and not only their digests."""
        return "batches/000000.npz" in self.files

    def initial(self) -> Named:
        """Return the side's initial weights and buffers, by its own names."""
        return self.files.arrays("initial.npz")

    def batch_name(self, step: int) -> str:
        """Return the file of a step's batch; one that is the same as the first is there once."""
        name = f"batches/{step:06}.npz"
        return name if name in self.files else "batches/000000.npz"

    def batch(self, step: int) -> Named:
        """Return the batch of a step."""
        return self.files.arrays(self.batch_name(step))

    def kinds(self, step: int) -> List[str]:
        """Return the kinds that were collected at a step; `activation` where every module's output was."""
        return list(self.steps[step]["kinds"])

    def result(self, track: str, step: int) -> StepResult:
        """Return what a track's step gave, with all that was collected."""
        arrays = self.files.arrays(f"{track}/{step:06}.npz")
        line = self.steps[step]
        tensors: Dict[str, Named] = {kind: {} for kind in line["kinds"] if kind != "used_gradient"}
        for key, array in arrays.items():
            kind, slash, name = key.partition("/")
            if slash:
                tensors.setdefault(kind, {})[name] = array
        return StepResult(
            step=step,
            lr=[float(rate) for rate in arrays["lr"]],
            loss=arrays["loss"],
            batch_digest=line["batch_digest"],
            tensors=tensors,
            other_frameworks_loaded=(),
            seconds=float(line["seconds"]),
        )

    def rates(self) -> np.ndarray:
        """Return the rates of the side's schedule alone, float64 [steps, groups]."""
        return self.files.arrays("schedule.npz")["rates"]

    def scheduler(self) -> Optional[SchedulerSpec]:
        """Return what the side's schedule declared when it was recorded alone."""
        described = (self.schedule or {}).get("scheduler")
        return None if described is None else from_plain(SchedulerSpec, described)


def settings_of(case: Case, side: str) -> Dict[str, Any]:
    """Return what of a case decides the numbers of ``side``: plain values, equal where a recording fits."""
    file = case.file
    chosen = {
        "steps": file.steps,
        "mode": file.mode,
        "dtype": file.dtype,
        "seed": file.seed,
        "accumulate": file.accumulate,
        "options": file.options,
        "weights.source": file.weights.source,
        "compare.resync": file.compare.resync,
        "compare.dropout": file.compare.dropout,
    }
    plain: Dict[str, Any] = to_strict(chosen)
    return plain


def open_recording(place: Path) -> Recording:
    """Open a folder or a .zip that `stepalign record` wrote. Raises CaseError that says what is wrong with it."""
    files = RecordingFiles(place)
    index = files.index
    if index.get("format") != FORMAT:
        raise CaseError(f"{place} is not a recording: its format is {index.get('format')!r}, expected {FORMAT!r}")
    if index.get("version") != VERSION:
        raise CaseError(
            f"{place} is a recording of version {index.get('version')!r}; this stepalign reads version {VERSION}: "
            "record again, or use the stepalign that made it"
        )
    try:
        if index["side"] not in SIDES:
            raise CaseError(f"{place}: side: expected torch or paddle, found {index['side']!r}")
        return Recording(
            files=files,
            side=index["side"],
            made=str(index["made"]),
            settings=dict(index["settings"]),
            facts=from_plain(WorkerFacts, index["facts"]),
            declaration=from_plain(Declaration, index["declaration"]),
            steps=tuple(index["steps"]),
            has_control=bool(index["control"]),
            schedule=index.get("schedule"),
        )
    except (KeyError, TypeError, SchemaError) as error:
        raise CaseError(f"{place}: {type(error).__name__}: {error}: not an index that stepalign wrote") from None


def check_fit(recording: Recording, case: Case) -> None:
    """Raise CaseError, with every reason, unless the recorded side is that of this case as it is to be run."""
    wanted = settings_of(case, recording.side)
    reasons = [
        f"{key} was {recording.settings.get(key)!r}, the run has {value!r}"
        for key, value in wanted.items()
        if recording.settings.get(key) != value
    ]
    if len(recording.steps) != recording.settings.get("steps"):
        reasons.append(f"it has {len(recording.steps)} of {recording.settings.get('steps')} steps")
    if reasons:
        raise CaseError(
            f"{recording.place}: the recorded {recording.side} side does not fit this run: {'; '.join(reasons)}. "
            "Record again, or run as it was recorded"
        )
