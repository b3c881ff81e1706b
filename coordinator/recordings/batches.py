"""The batches of a run: the case's own data, or what a recording bears of them."""

from __future__ import annotations

from typing import Dict

from stepalign.coordinator.cases.batches import Batch, BatchSource
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.recordings.recording import Recording
from stepalign.protocol.errors import CaseError
from stepalign.protocol.tensors import digest


class RecordedBatches(BatchSource):
    """The batches that a recorded side saw."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._read: Dict[str, Batch] = {}
        self._digests: Dict[str, str] = {}

    def __getitem__(self, step: int) -> Batch:
        if not 0 <= step < len(self._recording.steps):
            raise CaseError(f"{self._recording.place} has no batch of step {step}")
        name = self._recording.batch_name(step)
        if name not in self._read:
            self._read[name] = self._recording.batch(step)
        return self._read[name]

    def digest(self, step: int) -> str:
        """Return the digest of the bytes of ``step``'s batch."""
        name = self._recording.batch_name(step)
        if name not in self._digests:
            self._digests[name] = digest(self[step])
        return self._digests[name]


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
