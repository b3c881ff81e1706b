"""Takes each step's pair as it comes: judges it, writes its line to steps.jsonl, keeps what the verdict will need.

Runs on the comparing thread. What is kept does not grow with the model: series of numbers, failures by name, the worst
measures of each kind; whole arrays only for the first few steps, the first step that failed and the one before it, from
whose state its update started. Series do not grow with the steps either: they lie in a temporary file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Tuple

from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement, nearness
from stepalign.coordinator.comparison.judge import StepJudge
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.running.difference_map import DifferenceMap
from stepalign.coordinator.running.failures import Failures
from stepalign.coordinator.running.noise import beyond_noise
from stepalign.coordinator.running.series import ArraySeries, FlagSeries, NumberSeries, TextSeries
from stepalign.coordinator.running.spill import Spill
from stepalign.coordinator.sessions.step_plan import StepPair

KEPT_STEPS = 3
KEPT_SIZE_BYTES = 1 << 30
_LISTED_FAILURES = 20


@dataclass
class Record:
    """What one drive through the steps gave."""

    losses: Tuple[ArraySeries, ArraySeries] = field(init=False)
    rates: Tuple[NumberSeries, NumberSeries] = field(init=False)
    batch_digests: Tuple[TextSeries, TextSeries] = field(init=False)
    loss_passed: FlagSeries = field(init=False)
    rate_passed: FlagSeries = field(init=False)
    seconds: Tuple[float, float] = (0.0, 0.0)
    known: Dict[Tuple[str, str], KnownDifference] = field(default_factory=dict)
    worst: Dict[str, Comparison] = field(default_factory=dict)
    counts: Dict[str, int] = field(default_factory=dict)
    failures: Failures = field(init=False)
    pairs: Dict[int, StepPair] = field(default_factory=dict)
    pairs_size_bytes: int = 0
    batch_sizes: List[int] = field(default_factory=list)
    rate_pairs: Tuple[Tuple[int, int], ...] = ()
    map: DifferenceMap = field(default_factory=DifferenceMap)
    clipped: bool = False
    """Whether any gradient was another when its update used it than backward had left it, on either side."""

    def __post_init__(self) -> None:
        spill = Spill()
        self.losses = ArraySeries(spill), ArraySeries(spill)
        self.rates = NumberSeries(spill), NumberSeries(spill)
        self.batch_digests = TextSeries(spill), TextSeries(spill)
        self.loss_passed, self.rate_passed = FlagSeries(spill), FlagSeries(spill)
        self.failures = Failures(beyond_noise, spill)

    @property
    def steps(self) -> int:
        """How many steps are complete."""
        return len(self.losses[0])

    def first_failure(self) -> Optional[Comparison]:
        """Return the first comparison that did not pass, in order of steps and then of causes."""
        return self.failures.first.first_failure() if self.failures.first is not None else None


class Log(Protocol):
    """Where the lines of steps go."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Take one line."""


class Recorder:
    """The sink of a lockstep drive."""

    def __init__(
        self,
        judge: StepJudge,
        log: Optional[Log],
        resync: int = 0,
        on_step: Optional[Callable[[StepPair, StepJudgement], None]] = None,
    ) -> None:
        self.record = Record()
        self._judge = judge
        self._log = log
        self._resync = resync
        self._on_step = on_step
        self._previous: Optional[StepPair] = None

    def take(self, pair: StepPair) -> None:
        """Judge one pair and record it."""
        judgement = self._judge.judge(pair)
        record = self.record
        sides = (pair.reference, pair.candidate)
        for number, side in enumerate(sides):
            record.losses[number].append(side.loss)
            record.rates[number].append(side.lr)
            record.batch_digests[number].append(side.batch_digest)
        record.seconds = (record.seconds[0] + sides[0].seconds, record.seconds[1] + sides[1].seconds)
        for difference in judgement.known:
            record.known.setdefault((difference.code, difference.torch_name), difference)
        for item in judgement.comparisons:
            record.counts[item.kind] = record.counts.get(item.kind, 0) + 1
            if item.measures is not None and (item.kind not in record.worst or nearness(item) > nearness(record.worst[item.kind])):
                record.worst[item.kind] = item
        record.clipped = record.clipped or any(side.tensors.get("used_gradient") for side in sides)
        record.map.note(judgement)
        failed_kinds = {item.kind for item in judgement.comparisons if not item.passed}
        record.loss_passed.append("loss" not in failed_kinds)
        record.rate_passed.append("lr" not in failed_kinds)
        failed_before = record.failures.first is not None
        record.failures.take(judgement)
        self._keep(pair, record.failures.first is not None and not failed_before)
        if self._log is not None:
            self._log.append(step_line(pair, judgement))
        if self._resync and (pair.step + 1) % self._resync == 0:
            self._judge.resynchronised()
        if self._on_step is not None:
            self._on_step(pair, judgement)

    def _keep(self, pair: StepPair, first_failure: bool) -> None:
        record = self.record
        if first_failure and self._previous is not None:
            record.pairs[self._previous.step] = self._previous
        if first_failure or pair.step < KEPT_STEPS:
            size_bytes = pair.size_bytes()
            if first_failure or record.pairs_size_bytes + size_bytes <= KEPT_SIZE_BYTES:
                record.pairs[pair.step] = pair
                record.pairs_size_bytes += size_bytes
        self._previous = None if record.failures.first is not None else pair


LINES_FORM = 2
"""Of what `step_line` writes: a run goes on only with lines of its own form."""


def step_line(pair: StepPair, judgement: StepJudgement) -> Dict[str, Any]:
    """Return one step as steps.jsonl has it."""
    failed = [item for item in judgement.comparisons if not item.passed]
    worst: Dict[str, Comparison] = {}
    for item in judgement.comparisons:
        if item.measures is not None and (item.kind not in worst or nearness(item) > nearness(worst[item.kind])):
            worst[item.kind] = item
    return {
        "step": pair.step,
        "passed": not failed,
        "lr": {"torch": pair.reference.lr, "paddle": pair.candidate.lr},
        "loss": {"torch": float(pair.reference.loss), "paddle": float(pair.candidate.loss)},
        "batch_digest": pair.batch_digest,
        "drift": judgement.drift,
        "seconds": {"torch": pair.reference.seconds, "paddle": pair.candidate.seconds},
        "worst": {kind: describe_comparison(item) for kind, item in worst.items()},
        "failed": len(failed),
        "failures": [describe_comparison(item) for item in failed[:_LISTED_FAILURES]],
    }


def describe_comparison(item: Comparison) -> Dict[str, Any]:
    """Return a comparison as plain values; what was not measured is not there."""
    described: Dict[str, Any] = {
        "kind": item.kind,
        "torch_name": item.torch_name,
        "paddle_name": item.paddle_name,
        "passed": item.passed,
        "rtol": item.rtol,
        "atol": item.atol,
    }
    measures = item.measures
    if measures is not None:
        described.update(
            max_abs=measures.max_abs, outside=measures.outside, count=measures.count, index=list(measures.index),
            torch=measures.reference, paddle=measures.candidate,
        )  # fmt: skip
        if measures.complete:
            described.update(
                max_rel=measures.max_rel, rel_l2=measures.rel_l2, max_ulp=measures.max_ulp, cosine=measures.cosine,
                smallest_rtol=measures.smallest_rtol,
            )  # fmt: skip
    if item.reason:
        described["reason"] = item.reason
    return described
