"""The batches of a run: the case's own data, or what a recording bears of them."""

from __future__ import annotations

from typing import Dict

from stepalign.coordinator.cases.batches import Batch, BatchSource
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.recordings.recording import Recording
from stepalign.protocol.errors import CaseError


class RecordedBatches(BatchSource):
    """The batches that a recorded side saw."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._read: Dict[int, Batch] = {}

    def __getitem__(self, step: int) -> Batch:
        if step not in self._read:
            if not 0 <= step < len(self._recording.steps):
                raise CaseError(f"{self._recording.place} has no batch of step {step}")
            self._read[step] = self._recording.batch(step)
        return self._read[step]


def open_batches(case: Case) -> BatchSource:
    """Return the batches of a run: a recording's, where the case is run against one that bears them.

    Raises CaseError where it bears digests alone and the case's data are others.
    """
    recording = case.against
    if recording is None:
        return BatchSource(case)
    if recording.has_batches:
        return RecordedBatches(recording)
    batches = BatchSource(case)
    for step, line in enumerate(recording.steps):
        if batches.digest(step) != line["batch_digest"]:
            raise CaseError(
                f"{recording.place}: the batch of step {step} has another digest than the one that was recorded: the case's "
                "data differ from those of the recording"
            )
    return batches
