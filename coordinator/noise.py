"""Measures how far rounding alone drives a run apart: torch against itself, with weights moved by an ULP before each step.

The port's own rounding differs from torch's in every operation, not only in the weights, so a difference counts as
explained up to `NOISE_FACTOR` times what the control shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Dict, Tuple

import numpy as np

from stepalign.coordinator.batches import BatchSource
from stepalign.coordinator.case import Case
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.judge import canonical_state
from stepalign.coordinator.lockstep import StepPair, StepPlan
from stepalign.coordinator.members import Crew
from stepalign.coordinator.naming import NameMap
from stepalign.coordinator.session import Session
from stepalign.protocol.messages import Named

NOISE_FACTOR = 30.0
OBVIOUS_FACTOR = 100.0
CONTROL_ROLE = "control"


@dataclass
class Noise:
    """The greatest absolute difference of the control up to each step, by (kind, torch's canonical name)."""

    steps: Dict[Tuple[str, str], Dict[int, float]] = field(default_factory=dict)

    def at(self, item: Comparison) -> float:
        """Return what the control showed for the same value up to the same step."""
        return max(
            (size for step, size in self.steps.get((item.kind, item.name), {}).items() if step <= item.step),
            default=0.0,
        )

    def explains(self, item: Comparison) -> bool:
        """Say whether rounding noise alone can be the reason that ``item`` failed."""
        if item.exact or item.measures is None:
            return False
        return item.measures.max_abs <= NOISE_FACTOR * self.at(item)

    def note(self, kind: str, name: str, step: int, reference: np.ndarray, control: np.ndarray) -> None:
        """Record one pair of values."""
        if reference.shape != control.shape or not reference.size:
            return
        with np.errstate(all="ignore"):
            size = float(np.max(np.abs(control.astype(np.float64) - reference)))
        self.steps.setdefault((kind, name), {})[step] = size


def beyond_noise(item: Comparison) -> bool:
    """Say whether no control is needed to know that rounding is not the reason.

    In the first step nothing has been amplified yet: what is `OBVIOUS_FACTOR` times out of tolerance there is a mistake.
    """
    if item.exact or item.measures is None:
        return True
    allowed = item.atol + item.rtol * abs(item.measures.reference)
    return item.step == 0 and item.measures.max_abs > OBVIOUS_FACTOR * allowed


def measure_noise(
    case: Case, crew: Crew, folder: Path, names: NameMap, steps: int, batches: BatchSource, on_tick: Callable[[], None]
) -> Noise:
    """Run the control for so many steps and return what it showed."""
    reference = crew.member(case, "torch", folder, "reference")
    control = replace(crew.member(case, "torch", folder, CONTROL_ROLE), jitter=True)
    noise = Noise()

    def take(pair: StepPair) -> None:
        noise.note("loss", "loss", pair.step, pair.reference.loss, pair.candidate.loss)
        for kind in ("gradient", "parameter", "buffer"):
            _note_all(
                noise,
                kind,
                pair.step,
                names,
                pair.reference.tensors.get(kind, {}),
                pair.candidate.tensors.get(kind, {}),
            )
        ours, theirs = (
            canonical_state(names, "torch", side.tensors.get("optimizer_state", {}))
            for side in (pair.reference, pair.candidate)
        )
        for name in ours.keys() & theirs.keys():
            for slot in ours[name].keys() & theirs[name].keys():
                noise.note("optimizer_state", f"{name}/{slot}", pair.step, ours[name][slot], theirs[name][slot])

    with Session(_from_torch(case), (reference, control), "train", on_tick) as session:
        session.start()
        session.build()
        session.exchange_weights()
        kinds = case.file.collect.kinds
        session.step(StepPlan(0, steps, lambda step: kinds, lambda step: ()), batches, take)
    return noise


def _note_all(noise: Noise, kind: str, step: int, names: NameMap, reference: Named, control: Named) -> None:
    ours, theirs = names.canonical("torch", reference), names.canonical("torch", control)
    for name in ours.keys() & theirs.keys():
        noise.note(kind, name, step, ours[name], theirs[name])


def _from_torch(case: Case) -> Case:
    """Return the case with both workers starting from the torch script's own weights, or from the file's."""
    source = case.file.weights.source
    weights = replace(case.file.weights, source="torch" if source in ("torch", "paddle", "none") else source)
    return replace(case, file=replace(case.file, weights=weights))
