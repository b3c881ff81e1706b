"""A recorded side in a worker's place: it answers the coordinator's requests from the disk.

It answers only what the worker would have answered the same: another batch, other weights or a kind that was not collected
is refused, with what to do.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Dict, Mapping, Optional

import numpy as np

from stepalign.coordinator.recordings.recording import CONTROL, REFERENCE, Recording
from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, StepalignError
from stepalign.protocol.messages import Message, Named
from stepalign.protocol.tensors import digest


class Playback:
    """One recorded side of one session."""

    def __init__(self, recording: Recording, jitter: bool) -> None:
        self._recording = recording
        self._track = CONTROL if jitter else REFERENCE
        self._initial: Optional[Named] = None
        self._batch_digest = ""

    def answer(self, message: Message) -> Optional[Message]:
        """Return the worker's answer, or None where there is none to give. Raises CaseError for what cannot be told."""
        if isinstance(message, messages.Configure):
            return self._built(message.task)
        if isinstance(message, messages.SendWeights):
            return messages.Weights(self._weights())
        if isinstance(message, messages.LoadWeights):
            return self._load(message.tensors)
        if isinstance(message, messages.Batch):
            return self._step(message)
        if isinstance(message, messages.ReadRates):
            return self._rates(message.steps)
        if isinstance(message, messages.SendCheckpoint):
            return messages.Checkpoint({}, "", "", 0.0)  # all that it answers is on the disk
        if isinstance(message, messages.LoadCheckpoint):
            return messages.CheckpointLoaded("")
        if isinstance(message, messages.Finish):
            return None
        raise self._refusal(
            f"cannot answer {type(message).__name__}",
            "with compare.resync the torch side is the one to record, and shared dropout needs both sides live",
        )

    def _built(self, task: str) -> Message:
        recording = self._recording
        if task == "schedule":
            if recording.schedule is None:
                raise self._refusal("has no schedule", "record again with a script that defines schedule(case)")
            return messages.ScheduleReady(recording.facts, recording.scheduler())
        if self._track == CONTROL and not recording.has_control:
            raise self._refusal("has no noise control", "record again without --no-noise")
        return messages.Ready(recording.facts, recording.declaration)

    def _weights(self) -> Named:
        if self._initial is None:
            self._initial = self._recording.initial()
        return dict(self._initial)

    def _load(self, tensors: Mapping[str, np.ndarray]) -> Message:
        held = self._weights()
        if any(name not in held or digest({"": array}) != digest({"": held[name]}) for name, array in tensors.items()):
            raise self._refusal("started from other weights", "run with the weights that it was recorded with")
        return messages.WeightsLoaded({})

    def _step(self, batch: messages.Batch) -> Message:
        recording, step = self._recording, batch.step
        if step >= len(recording.steps):
            raise self._refusal(f"has {len(recording.steps)} steps", f"record again with --steps {step + 1}")
        if not batch.again:
            self._batch_digest = digest(batch.arrays)
        if self._batch_digest != recording.steps[step]["batch_digest"]:
            raise self._refusal(
                f"saw another batch at step {step}", "the data have changed since: record again, or restore them"
            )
        kinds = recording.kinds(step)
        missing = [kind for kind in batch.kinds if kind not in kinds and kind != "used_gradient"]
        if missing:
            advice = f"--activations {step}" if missing == ["activation"] else "the same [collect]"
            raise self._refusal(f"has no {', '.join(missing)} of step {step}", f"record again with {advice}")
        result = recording.result(self._track, step)
        kept: Dict[str, Named] = {kind: named for kind, named in result.tensors.items() if kind in batch.kinds}
        if "activation" in kept:
            kept["activation"] = _chosen(kept["activation"], batch.activations)
        return replace(result, tensors=kept)

    def _rates(self, steps: int) -> Message:
        rates = self._recording.rates()
        if len(rates) < steps:
            raise self._refusal(
                f"has {len(rates)} steps of the schedule", f"record again with schedule.steps = {steps}"
            )
        return messages.Rates(np.ascontiguousarray(rates[:steps]))

    def _refusal(self, what: str, advice: str) -> StepalignError:
        return CaseError(f"{self._recording.place}: the recorded {self._recording.side} side {what}: {advice}")


def _chosen(activations: Named, patterns: "tuple[str, ...]") -> Named:
    """Return what modules whose paths match a glob gave, as a worker that is asked for them alone collects it."""
    return {
        key: array
        for key, array in activations.items()
        if any(fnmatchcase(key.partition("@")[0].partition(":")[0].partition("#")[0], pattern) for pattern in patterns)
    }
