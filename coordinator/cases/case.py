"""case.toml as frozen dataclasses: every key checked, every default in one place, every error naming the key."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Literal, Mapping, Optional, Sequence, Tuple

from stepalign.coordinator.cases.optimizer_section import OptimizerSection, check_optimizer
from stepalign.protocol.errors import CaseError
from stepalign.protocol.schema import SchemaError, from_plain
from stepalign.protocol.script import CaseView

if TYPE_CHECKING:
    from stepalign.coordinator.recordings.recording import Recording

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

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

    ``budget_mib``: when one side's step would move more than this, only steps 0, 1, 2 and the last are collected whole.
    ``memory_mib``: the most memory that a worker shares with the coordinator in either direction, for large tensors; what
    finds no room there is sent, which takes longer. 0: everything is sent.
    """

    activations: Tuple[str, ...] = ()
    kinds: Tuple[Literal["gradient", "optimizer_state", "parameter", "buffer"], ...] = COLLECTED_KINDS  # type: ignore[assignment]
    budget_mib: int = 512
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

    def view(self) -> CaseView:
        """Return what a user's script sees of the case."""
        file = self.file
        return CaseView(file.name, file.steps, file.mode, file.dtype, file.seed, dict(file.options), self.folder)


def load_case(
    folder: Path, assignments: Sequence[str] = (), without: Sequence[str] = (), **overrides: Any
) -> Case:
    """Read and check ``folder/case.toml``; scripts of the sides ``without`` may be missing.

    ``assignments`` are ``KEY=VALUE`` texts (``options.hidden=64``, ``compare.resync=5``; a bare key that is none of
    case.toml's own is an option); ``overrides`` replace top-level keys and win. Raises CaseError.
    """
    path = folder / "case.toml"
    if folder.name == "case.toml" and folder.is_file():
        folder, path = folder.parent, folder
    if not path.is_file():
        raise CaseError(
            f"no case at {folder}: expected a folder with a case.toml; `stepalign init {folder}` writes one"
        )
    plain = read_toml(path)
    return case_of(plain, folder, path, assignments, overrides, without)


def read_toml(path: Path) -> Dict[str, Any]:
    """Return the tables of a TOML file. Raises CaseError."""
    try:
        plain: Dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CaseError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise CaseError(f"{path} cannot be read: {error.strerror}") from None
    return plain


def case_of(
    plain: Dict[str, Any],
    folder: Path,
    path: Path,
    assignments: Sequence[str],
    overrides: Mapping[str, Any],
    without: Sequence[str] = (),
) -> Case:
    """Return the checked case of plain tables; ``path`` is where they come from. Scripts of the sides ``without`` may be
    missing.
    """
    for assignment in assignments:
        assign(plain, assignment)
    given = {key: value for key, value in overrides.items() if value is not None}
    plain.update(given)
    try:
        file = from_plain(CaseFile, plain)
    except SchemaError as error:
        raise CaseError(f"{path}: {error}") from None
    folder = folder.resolve()
    file = replace(
        file,
        name=file.name or folder.name,
        torch=replace(file.torch, python=file.torch.python or "torch"),
        paddle=replace(file.paddle, python=file.paddle.python or "paddle"),
    )
    made = (*assignments, *(f"{key}={json.dumps(value)}" for key, value in given.items()))
    case = Case(folder, file, assignments=made)
    _check(case, path, without)
    return case


def assign(plain: Dict[str, Any], assignment: str) -> None:
    """Apply one ``KEY=VALUE`` to the plain tables of a case. The value is TOML; what is not TOML is a string."""
    key, separator, text = assignment.partition("=")
    key = key.strip()
    if not separator or not key:
        raise CaseError(f"--set takes KEY=VALUE, got {assignment!r}: for example --set options.hidden=64")
    parts = key.split(".")
    if len(parts) == 1 and key not in CaseFile.__dataclass_fields__:
        near = difflib.get_close_matches(key, CaseFile.__dataclass_fields__, n=1, cutoff=0.75)
        if near and key not in plain.get("options", {}):
            raise CaseError(
                f"--set {key}: the case has no option of that name; did you mean {near[0]}? "
                f"To add an option, write --set options.{key}=..."
            )
        parts = ["options", key]
    table = plain
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise CaseError(f"--set {key}: {part} is not a table")
    table[parts[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _check(case: Case, path: Path, without: Sequence[str]) -> None:
    file = case.file
    for side in SIDES:
        section = case.side(side)
        _check_program(case, side, path, side in without)
        if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", section.device):
            raise CaseError(f'{path}: {side}.device: expected "auto", "cpu", "gpu" or "gpu:1", got {section.device!r}')
        for name, value in section.env.items():
            if not name or "=" in name or "\0" in name + value:
                raise CaseError(f"{path}: {side}.env: {name!r} cannot be an environment variable with that value")
    _check_number(path, "steps", file.steps, 1)
    _check_number(path, "seed", file.seed, 0)
    if file.seed >= 1 << 32:
        raise CaseError(f"{path}: seed: expected less than 2**32, which every random generator takes, got {file.seed}")
    _check_number(path, "threads", file.threads, 0)
    _check_number(path, "accumulate", file.accumulate, 1)
    if file.accumulate > 1 and not all(case.side(side).command for side in SIDES):
        raise CaseError(
            f"{path}: accumulate: only scripts that own their loop take several batches an update: let loss(model, batch) "
            "of build(case) take one batch that is the whole of it"
        )
    _check_number(path, "compare.resync", file.compare.resync, 0)
    _check_number(path, "schedule.steps", file.schedule.steps, 1)
    check_optimizer(path, file.optimizer)
    _check_number(path, "collect.budget_mib", file.collect.budget_mib, 1)
    _check_number(path, "collect.memory_mib", file.collect.memory_mib, 0)
    if bool(file.data.source) == bool(file.data.arrays):
        raise CaseError(
            f'{path}: data: give one of source = "data.npz" (or "data.py") and arrays = {{ name = "file.npy" }}'
        )
    for kind in file.tolerance:
        if kind not in KINDS:
            raise CaseError(f"{path}: tolerance.{kind}: unknown kind; the kinds are {', '.join(KINDS)}")
    for name, entry in file.tolerance.items():
        for key, allowed in (("rtol", entry.rtol), ("atol", entry.atol)):
            if allowed is not None and not 0 <= allowed < float("inf"):
                raise CaseError(f"{path}: tolerance.{name}.{key}: expected a number of at least 0, got {allowed}")
    for item in fields(file.deadline):
        value = getattr(file.deadline, item.name)
        if not 0 < value < MAX_DEADLINE_S:
            raise CaseError(
                f"{path}: deadline.{item.name}: expected seconds, more than 0 and less than {MAX_DEADLINE_S:.0f}, got {value}"
            )
    _check_hosts(case, path)
    if not 0 <= file.resume.every_s < MAX_DEADLINE_S:
        raise CaseError(f"{path}: resume.every_s: expected seconds, 0 or more, got {file.resume.every_s}")
    for milestone in file.schedule.chosen_milestones():
        if not 0 <= milestone < file.schedule.steps:
            raise CaseError(
                f"{path}: schedule.milestones: {milestone} is not one of the steps 0 to {file.schedule.steps - 1}"
            )
    for index, (pattern, _) in enumerate(file.weights.rename):
        try:
            re.compile(pattern)
        except re.error as error:
            raise CaseError(
                f"{path}: weights.rename[{index}]: {pattern!r} is not a regular expression: {error}"
            ) from None
    _check_weights_source(case, path)


def _check_program(case: Case, side: str, path: Path, may_be_missing: bool) -> None:
    """Raise CaseError unless a side has one of a script that is there and a command that can be split."""
    section = case.side(side)
    if bool(section.script) == bool(section.command):
        raise CaseError(
            f'{path}: {side}: give one of script = "{side}_side.py" (it defines build(case)) and command = "python '
            f'train.py" (it owns its loop)'
        )
    if section.script and not may_be_missing and not case.script(side).is_file():
        raise CaseError(f"{path}: {side}.script: no file {case.script(side)}")
    try:
        if section.command and not case.command(side):
            raise ValueError("it is empty")
    except ValueError as error:
        raise CaseError(f"{path}: {side}.command: {section.command!r} cannot be split into words: {error}") from None


def _check_number(path: Path, key: str, value: int, least: int) -> None:
    if value < least:
        raise CaseError(f"{path}: {key}: expected a whole number of at least {least}, got {value}")


def _check_weights_source(case: Case, path: Path) -> None:
    source = case.file.weights.source
    if source in ("torch", "paddle", "none"):
        return
    if not source.endswith((".npz", ".safetensors")):
        raise CaseError(
            f'{path}: weights.source: expected "torch", "paddle", "none", a .npz or a .safetensors file, got {source!r}'
        )
    if not (case.folder / source).is_file():
        raise CaseError(f"{path}: weights.source: no file {case.folder / source}")


def _check_hosts(case: Case, path: Path) -> None:
    for side in SIDES:
        if not case.side(side).host:
            continue
        if case.side(side).command:
            raise CaseError(f"{path}: {side}.host: a command runs on this machine only; a script may run on another")
        if not case.file.network.bind:
            raise CaseError(
                f"{path}: network.bind: with {side}.host it is needed: this machine's address that {case.side(side).host} "
                "reaches, as IP or IP:PORT (or --bind)"
            )
    if not 0 < case.file.network.wait_s < MAX_DEADLINE_S:
        raise CaseError(f"{path}: network.wait_s: expected seconds, more than 0, got {case.file.network.wait_s}")
