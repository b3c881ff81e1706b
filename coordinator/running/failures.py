"""The steps that failed, each with its failed comparisons, as far as a verdict can depend on them.

A run may fail at each of 100,000 steps, in many tensors at each. Bounded in two ways that change no verdict: what comes
after the failure that settles it is left out, and all but the newest comparisons lie packed in a file (`spill`), some at a
time, so that packing takes no room either.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.running.heap import give_back
from stepalign.coordinator.running.spill import Place, Spill
from stepalign.protocol.schema import from_plain, to_plain

UNPACKED_COMPARISONS = 64

_GIVE_BACK_BLOCKS = 16
"""After so many packed blocks what packing has freed goes back to the machine: it is in pieces, and a run may fail for long."""


class Failures:
    """Failed steps, in order; iterating gives each as its judgement, without the comparisons that passed.

    ``certain`` says of the first failed comparison whether rounding is ruled out as its reason without a measurement.

    A failure is what the verdict is settled by if it is no loss (a loss may be a known difference: whether it is depends on
    all failing losses and the first other failure) and if either the run's first failure is certain, or it is exact itself:
    noise is weighed failure by failure up to the first exact one (`noise.weigh`). Nothing later is looked at.
    """

    def __init__(self, certain: Callable[[Comparison], bool], spill: Optional[Spill] = None) -> None:
        self._certain = certain
        self._spill = Spill() if spill is None else spill
        self._first: Optional[StepJudgement] = None
        self._first_is_certain = False
        self._blocks: List[Tuple[Place, int]] = []
        self._newest: List[StepJudgement] = []
        self._settled = False
        self._count = 0
        self.last_step = -1
        """The last step that failed, whether it is kept or not; -1 before the first."""

    def take(self, judgement: StepJudgement) -> None:
        """Take a step's judgement; one that passed is nothing to keep."""
        failed = tuple(item for item in judgement.comparisons if not item.passed)
        if not failed:
            return
        self.last_step = judgement.step
        if self._settled:
            return
        kept = StepJudgement(judgement.step, failed, judgement.known, judgement.drift)
        if self._first is None:
            self._first = kept
            self._first_is_certain = self._certain(failed[0])
        self._settled = any(item.kind != "loss" and (self._first_is_certain or item.exact) for item in failed)
        self._newest.append(kept)
        self._count += 1
        if sum(len(item.comparisons) for item in self._newest) >= UNPACKED_COMPARISONS:
            packed = _pack(self._newest)
            self._blocks.append((self._spill.put(packed), len(packed)))
            self._newest = []
            if len(self._blocks) % _GIVE_BACK_BLOCKS == 0:
                give_back()

    @property
    def first(self) -> Optional[StepJudgement]:
        """The first step that failed."""
        return self._first

    def comparisons(self) -> Iterator[Comparison]:
        """Return all failed comparisons that a verdict can depend on, in order of steps and then of causes."""
        return (item for judgement in self for item in judgement.comparisons)

    def packed(self) -> Iterator[bytes]:
        """Return all steps in packed pieces, which `restore` takes back."""
        for place, size_bytes in self._blocks:
            yield self._spill.get(place, 0, size_bytes)
        if self._newest:
            yield _pack(self._newest)

    def restore(self, piece: bytes) -> None:
        """Take the steps of one piece, as if they came now."""
        for judgement in _unpack(piece):
            self.take(judgement)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[StepJudgement]:
        for place, size_bytes in self._blocks:
            yield from _unpack(self._spill.get(place, 0, size_bytes))
        yield from list(self._newest)


def _pack(judgements: Iterable[StepJudgement]) -> bytes:
    plain = [
        [item.step, [_values(each) for each in item.comparisons], [to_plain(each) for each in item.known], item.drift]
        for item in judgements
    ]
    return zlib.compress(json.dumps(plain, separators=(",", ":")).encode("ascii"), 1)


def _unpack(block: bytes) -> Iterator[StepJudgement]:
    for step, comparisons, known, drift in json.loads(zlib.decompress(block)):
        yield StepJudgement(
            step, tuple(map(_comparison, comparisons)), tuple(from_plain(KnownDifference, each) for each in known), drift
        )


def _values(item: Comparison) -> Tuple[Any, ...]:
    fields: Dict[str, Any] = dict(vars(item))
    if item.measures is not None:
        fields["measures"] = tuple(vars(item.measures).values())
    return tuple(fields.values())


def _comparison(values: List[Any]) -> Comparison:
    fields: Mapping[str, Any] = dict(zip(_COMPARISON_FIELDS, values))
    if fields["measures"] is None:
        return Comparison(**fields)
    measures = dict(zip(_MEASURES_FIELDS, fields["measures"]))
    measures["index"] = tuple(measures["index"])
    return Comparison(**{**fields, "measures": Measures(**measures)})


_COMPARISON_FIELDS = tuple(Comparison.__dataclass_fields__)
_MEASURES_FIELDS = tuple(Measures.__dataclass_fields__)
