"""What a run says in the end, as result.json holds it.

Guarantees: values that contradict each other cannot be built; the form in result.json is in `result_json`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepalign.coordinator.diagnosis.cause import Cause, Finding

SCHEMA = 1


class Verdict(str, enum.Enum):
    """The closed set of answers that a comparison can have."""

    ALIGNED = "aligned"
    DIVERGED = "diverged"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        return _EXIT_CODES[self]


_EXIT_CODES = {Verdict.ALIGNED: 0, Verdict.DIVERGED: 1, Verdict.INCONCLUSIVE: 4, Verdict.FAILED: 3}


@dataclass(frozen=True)
class CaseFacts:
    """Which case ran, and how. ``steps`` is how many were asked for."""

    name: str
    steps: int
    mode: str
    dtype: str
    seed: int


@dataclass(frozen=True)
class FirstDivergence:
    """Where the sides first differ, in causal order, and by how much.

    ``torch`` and ``paddle`` are the values at ``index``, the element furthest out of tolerance. What was not measured
    is None: a tensor that one side lacks has no measures, and ``reason`` says that it is missing. ``rel_l2`` is the
    norm of the difference over the torch side's norm; ``max_ulp`` counts representable numbers between two values.
    """

    step: int
    kind: str
    torch_name: str | None
    paddle_name: str | None
    index: tuple[int, ...] | None = None
    torch: float | None = None
    paddle: float | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    rel_l2: float | None = None
    max_ulp: int | None = None
    rtol: float | None = None
    atol: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class KnownDifference:
    """What no port can avoid: ``evidence`` holds its formula and the residual that is left without it."""

    code: str
    torch_name: str
    evidence: str


@dataclass(frozen=True)
class SideFacts:
    """What a worker proved to be.

    ``batch_digests`` has one entry a batch, as the worker computed it; ``settings`` are those that change numbers;
    ``extra`` is written beside the other keys as it is.
    """

    framework: str
    version: str
    python: str
    interpreter: str
    pid: int
    device: str
    other_frameworks_loaded: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    batch_digests: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """One value a step (loss) or one tuple a step (rate of each group), from step 0 on; None where a side has none.

    Of a run that has just ended they are read from a file as they are asked for.
    ``lr_pairs`` says which groups (torch's, paddle's) hold the same parameters; empty: those of the same number.
    """

    loss_torch: Sequence[float | None] = ()
    loss_paddle: Sequence[float | None] = ()
    lr_torch: Sequence[Sequence[float] | None] = ()
    lr_paddle: Sequence[Sequence[float] | None] = ()
    lr_pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class RegimeFacts:
    """One regime of given gradients: how many steps, whether every update passed, how far the parameters came apart.

    ``difference`` is relative to how far torch's parameter ``torch_name`` had moved by ``step``, the greatest of all;
    ``known`` are the codes of known differences that were recognised.
    """

    name: str
    steps: int
    passed: bool
    difference: float
    step: int
    torch_name: str
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class ErrorFacts:
    """Why a run failed. ``exit_code`` overrides the verdict's: 2 for a wrong case, 130 for an interruption."""

    message: str
    side: str | None = None
    step: int | None = None
    phase: str | None = None
    signal: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class Resumed:
    """That an interrupted run was continued.

    ``at_step`` steps were complete then; those from ``from_step`` on were run again and gave what had been recorded.
    """

    at_step: int
    from_step: int
    note: str = ""


@dataclass(frozen=True)
class Result:
    """The verdict of one run and all that it stands on. A side is None when the run failed before it said who it is.

    ``compared`` says per kind what was compared and how; ``worst`` holds per kind the greatest measures seen. Both are
    plain JSON objects. ``regimes`` is what the comparison of optimizers alone has.
    Raises ValueError where first divergence, error and verdict contradict each other.
    """

    stepalign: str
    verdict: Verdict
    case: CaseFacts
    steps_completed: int
    torch: SideFacts | None
    paddle: SideFacts | None
    series: Series = Series()
    first_divergence: FirstDivergence | None = None
    known_differences: tuple[KnownDifference, ...] = ()
    causes: tuple[Cause, ...] = ()
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()
    compared: Mapping[str, Any] = field(default_factory=dict)
    worst: Mapping[str, Any] = field(default_factory=dict)
    regimes: tuple[RegimeFacts, ...] = ()
    error: ErrorFacts | None = None
    resumed: Resumed | None = None

    def __post_init__(self) -> None:
        if (self.first_divergence is not None) != (self.verdict is Verdict.DIVERGED):
            raise ValueError(f"verdict {self.verdict.value} with first divergence {self.first_divergence}")
        if (self.error is not None) != (self.verdict is Verdict.FAILED):
            raise ValueError(f"verdict {self.verdict.value} with error {self.error}")

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        if self.error is not None and self.error.exit_code is not None:
            return self.error.exit_code
        return self.verdict.exit_code
