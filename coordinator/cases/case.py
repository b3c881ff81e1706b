"""case.toml as frozen dataclasses: every key and every default in one place. `loading.py` reads it, `checks.py` holds it
against what its keys allow.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Literal, Optional, Tuple

from stepalign.coordinator.cases.optimizer_section import OptimizerSection
from stepalign.protocol.script import CaseView

if TYPE_CHECKING:
    from stepalign.coordinator.recordings.recording import Recording

SIDES = ("torch", "paddle")

Kind = Literal[
    "batch", "initial_parameter", "lr", "activation", "loss", "gradient", "optimizer_state", "parameter", "buffer"
]
KINDS: Tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]
"""The kinds of compared value, in causal order within a step."""

COLLECTED_KINDS = ("gradient", "optimizer_state", "parameter", "buffer")


@dataclass(frozen=True)
class SideSection:
    """``[torch]`` or ``[paddle]``: the script or the command, the interpreter, the device.

    ``command`` starts a script that owns its loop; it is split as a shell would, and run without one. ``host``
    names another machine, on which a person starts `stepalign worker`.
    """

    script: str = ""
    command: str = ""
    python: str = ""
    device: str = "auto"
    host: str = ""
    env: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSection:
    """``[data]``: one of a file of batches and named .npy arrays."""

    source: Optional[str] = None
    arrays: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WeightsSection:
    """``[weights]``: whose initial weights both sides start from, and how torch's names become paddle's."""

    source: str = "torch"
    rename: Tuple[Tuple[str, str], ...] = ()
    transpose: Tuple[str, ...] = ()
    ignore: Tuple[str, ...] = ()


@dataclass(frozen=True)
class CollectSection:
    """``[collect]``: what is collected at each step beyond rates and losses.

    ``budget_mib``: what one side's whole tensors may come to in the first steps together (at least three). After those
    every 20th step and the last are collected whole.
    ``memory_mib``: the most memory that a worker shares with the coordinator in either direction, for large tensors; what
    finds no room there is sent, which takes longer. 0: everything is sent.
    """

    activations: Tuple[str, ...] = ()
    kinds: Tuple[Literal["gradient", "optimizer_state", "parameter", "buffer"], ...] = COLLECTED_KINDS  # type: ignore[assignment]
    budget_mib: int = 5120
    memory_mib: int = 4096


@dataclass(frozen=True)
class CompareSection:
    """``[compare]``: how the sides are compared."""

    resync: int = 0
    strict: bool = False
    dropout: Literal["own", "shared"] = "own"
    allow_nonfinite: bool = False


@dataclass(frozen=True)
class ToleranceEntry:
    """One kind's own tolerance: |torch - paddle| <= atol + rtol * |torch|."""

    rtol: Optional[float] = None
    atol: Optional[float] = None


DEFAULT_MILESTONES = (100, 500, 1000, 2000, 4000)


@dataclass(frozen=True)
class ScheduleSection:
    """``[schedule]``: the comparison of rates alone."""

    steps: int = 5000
    milestones: Optional[Tuple[int, ...]] = None

    def chosen_milestones(self) -> Tuple[int, ...]:
        """Return the milestones; without any of the case's own, those of STEP4 that lie within the steps."""
        if self.milestones is not None:
            return self.milestones
        return tuple(step for step in DEFAULT_MILESTONES if step < self.steps)


@dataclass(frozen=True)
class NetworkSection:
    """``[network]``: where workers on other machines reach this one, an IP or IP:PORT, and how long to wait for them."""

    bind: str = ""
    wait_s: float = 600.0


MAX_DEADLINE_S = 1e7
"""Four months; the kernel's clocks take no infinite wait."""


@dataclass(frozen=True)
class DeadlineSection:
    """``[deadline]``: how long each phase may take, in seconds, before a worker counts as hung."""

    start_s: float = 60.0
    build_s: float = 600.0
    weights_s: float = 300.0
    step_s: float = 600.0
    rates_s: float = 300.0
    stop_s: float = 5.0


@dataclass(frozen=True)
class ResumeSection:
    """``[resume]``: how often the sides' whole state is kept, so that an interrupted run continues from there; 0: never.

    However small ``every_s`` is, keeping takes no more than a twentieth of a run's time.
    """

    every_s: float = 30.0


@dataclass(frozen=True)
class CaseFile:
    """case.toml, word for word."""

    torch: SideSection
    paddle: SideSection
    data: DataSection
    name: str = ""
    steps: int = 10
    mode: Literal["eval", "train"] = "eval"
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 0
    threads: int = 0
    accumulate: int = 1
    options: Dict[str, Any] = field(default_factory=dict)
    weights: WeightsSection = WeightsSection()
    collect: CollectSection = CollectSection()
    compare: CompareSection = CompareSection()
    tolerance: Dict[str, ToleranceEntry] = field(default_factory=dict)
    schedule: ScheduleSection = ScheduleSection()
    optimizer: OptimizerSection = field(default_factory=OptimizerSection)
    deadline: DeadlineSection = DeadlineSection()
    resume: ResumeSection = ResumeSection()
    network: NetworkSection = NetworkSection()


@dataclass(frozen=True)
class Case:
    """A checked case: the file's values and where it lies; ``against`` is the recording that stands for one side.

    ``assignments`` are those that were made over case.toml.
    """

    folder: Path
    file: CaseFile
    against: Optional[Recording] = None
    assignments: Tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def steps(self) -> int:
        return self.file.steps

    def side(self, side: str) -> SideSection:
        """Return the section of ``side``."""
        section: SideSection = getattr(self.file, side)
        return section

    def script(self, side: str) -> Path:
        """Return the path of a side's script; for a command, of the first Python file that it names, or the folder."""
        section = self.side(side)
        if section.command:
            return next((path for path in map(self.folder.__truediv__, self.command(side)) if path.suffix == ".py"), self.folder)
        return (self.folder / section.script).resolve()

    def command(self, side: str) -> Tuple[str, ...]:
        """Return the words of a side's command; none where it has a script that builds its training."""
        return tuple(shlex.split(self.side(side).command))

    def declares_after_backward(self, side: str) -> bool:
        """Say whether it is declared what a side does between backward and update: not by a script that owns its loop, nor
        by a recording, which may be of one.
        """
        return not self.side(side).command and (self.against is None or self.against.side != side)

    def view(self) -> CaseView:
        """Return what a user's script sees of the case."""
        file = self.file
        return CaseView(file.name, file.steps, file.mode, file.dtype, file.seed, dict(file.options), self.folder)
