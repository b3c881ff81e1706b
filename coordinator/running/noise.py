"""Measures how far rounding alone drives a run apart: torch against itself, with weights moved by an ULP before each
step.

The port's own rounding differs from torch's in every operation, not only in the weights, so a difference counts as
explained up to `NOISE_FACTOR` times what the control shows, and once the noise itself is `BLIND_SHARE` of a value nothing
can be said of it any more.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Tuple

import numpy as np

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.cases.collection import Collection, plan_collection
from stepalign.coordinator.comparison.canonical import canonical_state
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.sessions.members import Crew
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan
from stepalign.protocol.messages import Named

NOISE_FACTOR = 30.0
OBVIOUS_FACTOR = 100.0
BLIND_SHARE = 0.3
_CANCELLED = 0.03
CONTROL_ROLE = "control"


@dataclass
class _Course:
    """One number for each of some steps, in order (of several for a step the greatest), and the greatest up to there."""

    steps: "array[int]" = field(default_factory=lambda: array("q"))
    sizes: "array[float]" = field(default_factory=lambda: array("d"))
    greatest: "array[float]" = field(default_factory=lambda: array("d"))

    def note(self, step: int, size: float) -> None:
        if self.steps and self.steps[-1] == step:
            self.sizes[-1] = max(size, self.sizes[-1])
            self.greatest[-1] = max(self.greatest[-1], size)
            return
        self.steps.append(step)
        self.sizes.append(size)
        self.greatest.append(max(self.greatest[-1], size) if self.greatest else size)

    def at(self, step: int) -> float:
        place = bisect_right(self.steps, step)
        return self.sizes[place - 1] if place and self.steps[place - 1] == step else 0.0

    def greatest_up_to(self, step: int) -> float:
        place = bisect_right(self.steps, step)
        return self.greatest[place - 1] if place else 0.0


@dataclass
class Noise:
    """The greatest absolute difference of the control up to each step, by (kind, torch's canonical name)."""

    _courses: Dict[Tuple[str, str], _Course] = field(default_factory=dict)
    _scales: Dict[str, _Course] = field(default_factory=dict)

    def of(self, kind: str, name: str) -> List[Tuple[int, float]]:
        """Return each step of the control and its greatest absolute difference there."""
        course = self._courses.get((kind, name), _Course())
        return list(zip(course.steps, course.sizes))

    def at(self, item: Comparison) -> float:
        """Return what the control showed for the same value up to the same step, or a little later.

        Noise grows exponentially where training is sensitive, and a port whose rounding is larger is ahead by a step.
        """
        last = item.step + steps_ahead(item.step)
        course = self._courses.get((item.kind, item.name))
        return 0.0 if course is None else course.greatest_up_to(last)

    def explains(self, item: Comparison) -> bool:
        """Say whether rounding noise alone can be the reason that ``item`` failed."""
        if item.exact or item.measures is None:
            return False
        return item.measures.max_abs <= NOISE_FACTOR * self.at(item)

    def blinds(self, item: Comparison) -> bool:
        """Say whether the noise is so large there that a mistake could hide in it: `BLIND_SHARE` of the value's size."""
        return self.at(item) > BLIND_SHARE * self._size(item)

    def _size(self, item: Comparison) -> float:
        """Return the value's own size, or a part of the greatest of its kind: what is smaller is a sum that cancels."""
        own = 0.0 if item.measures is None else abs(item.measures.reference)
        return max(own, _CANCELLED * self._scales.get(item.kind, _Course()).at(item.step))

    def note(self, kind: str, name: str, step: int, reference: np.ndarray, control: np.ndarray) -> None:
        """Record one pair of values; steps come in order."""
        if reference.shape != control.shape or not reference.size:
            return
        with np.errstate(all="ignore"):
            size = float(np.max(np.abs(control.astype(np.float64) - reference)))
            scale = float(np.max(np.abs(reference)))
        self._courses.setdefault((kind, name), _Course()).note(step, size)
        self._scales.setdefault(kind, _Course()).note(step, scale)


def steps_ahead(step: int) -> int:
    """Return how many steps later than a difference the control may show its like: one, and a tenth of the way."""
    return 1 + step // 10


def weigh(failures: Iterable[Comparison], noise: Noise) -> Tuple[Optional[Comparison], Optional[Comparison]]:
    """Return the first failure that noise does not explain, and the first at which noise has grown too large to tell.

    After the latter step only what noise cannot touch still counts.
    """
    blinded: Optional[Comparison] = None
    for item in failures:
        if noise.explains(item):
            if blinded is None and noise.blinds(item):
                blinded = item
        elif item.exact or blinded is None or item.step <= blinded.step:
            return item, blinded
    return None, blinded


def describe_noise(first: Comparison, noise: Noise, blinded: Optional[Comparison]) -> str:
    """Return in words what the control showed where the sides first differ."""
    allowed = first.atol + first.rtol * abs(first.measures.reference if first.measures else 0.0)
    size = first.measures.max_abs if first.measures else 0.0
    text = (
        f"at step {first.step} {first.kind} {first.name} differs by {size:.3g}, {allowed:.3g} is the tolerance; torch against "
        f"itself, its weights moved by one ULP before each step, differs by {noise.at(first):.3g} there: that is rounding"
    )
    if blinded is None:
        return text
    return (
        f"{text}. At step {blinded.step} this noise is larger than any useful tolerance ({blinded.kind} {blinded.name}: "
        f"{noise.at(blinded):.3g}): nothing can be said from there on. Run with --dtype float64, or with --set compare.resync=1"
    )


def beyond_noise(item: Comparison) -> bool:
    """Say whether no control is needed to know that rounding is not the reason.

    In the first step nothing has been amplified yet: what is `OBVIOUS_FACTOR` times out of tolerance there is a
    mistake.
    """
    if item.exact or item.measures is None:
        return True
    allowed = item.atol + item.rtol * abs(item.measures.reference)
    return item.step == 0 and item.measures.max_abs > OBVIOUS_FACTOR * allowed


def measure_noise(
    case: Case,
    crew: Crew,
    folder: Path,
    names: NameMap,
    steps: int,
    batches: BatchSource,
    on_tick: Callable[[], None],
    collection: Optional[Collection] = None,
) -> Noise:
    """Run the control for so many steps and return what it showed; it collects where the run did, or as ``collection``
    says.
    """
    reference = crew.member(case, "torch", folder, "reference")
    control = replace(crew.member(case, "torch", folder, CONTROL_ROLE), jitter=True)
    noise = Noise()

    def take(pair: StepPair) -> None:
        noise.note("loss", "loss", pair.step, pair.reference.loss, pair.candidate.loss)
        for kind in ("gradient", "parameter", "buffer"):
            session.switchboard.give_pages_back()
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
        session.switchboard.give_pages_back()
        for name in ours.keys() & theirs.keys():
            for slot in ours[name].keys() & theirs[name].keys():
                noise.note("optimizer_state", f"{name}/{slot}", pair.step, ours[name][slot], theirs[name][slot])

    with Session(_from_torch(case), (reference, control), "train", on_tick) as session:
        session.start()
        session.build()
        session.exchange_weights()
        planned = collection or plan_collection(case, session.declarations["reference"])[0]

        def kinds(step: int) -> Tuple[str, ...]:
            return tuple(kind for kind in planned.kinds(step) if kind != "used_gradient")

        session.step(StepPlan(0, steps, kinds, lambda step: ()), batches, take)
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
