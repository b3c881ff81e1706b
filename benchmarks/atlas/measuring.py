"""Drives both frameworks through every configuration of every pairing, each framework started once for each dtype."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.atlas.difference import Difference, of_rates, of_updates
from benchmarks.atlas.setups import Setup, bare_setups, setups
from stepalign.coordinator.atlas.pairing import Configuration, Pairing
from stepalign.coordinator.atlas.schedules import RATES
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.comparison import gradient_regimes
from stepalign.coordinator.sessions.members import both, find_crew
from stepalign.coordinator.sessions.optimizer_session import OptimizerSession
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.messages import Named, WorkerFacts

DRIVER = Path(__file__).parent / "driver"
RATE_STEPS = 1000
ROUNDING = 1e-11
"""What float64 may differ by, beyond which the hyper-parameters' own rounding is taken out and measured again."""

SHAPES = {"embedding.weight": (12, 5), "encoder.weight": (5, 4), "encoder.bias": (4,), "norm.weight": (4,), "norm.bias": (4,)}


@dataclass
class Row:
    """What was measured of one pairing, by configuration: (configuration, dtype, regime) -> difference."""

    pairing: Pairing
    found: dict[tuple[str, str, str], Difference] = field(default_factory=dict)
    defaults_alone: Difference | None = None
    errors: list[str] = field(default_factory=list)

    def worst(self, dtype: str) -> Difference | None:
        """Return the greatest difference in one dtype."""
        items = [item for (_, kind, _), item in self.found.items() if kind == dtype]
        return None if not items else max(items, key=lambda item: item.whole)

    def beyond(self, dtype: str) -> float | None:
        """Return the greatest difference beyond rounding in one dtype."""
        items = [item.beyond for (_, kind, _), item in self.found.items() if kind == dtype]
        return max(items) if items else None


class Drive:
    """A session of one dtype that is started again when a side fails."""

    def __init__(self, dtype: str, logs: Path) -> None:
        self.dtype = dtype
        self.facts: dict[str, WorkerFacts] = {}
        self._case = load_case(DRIVER, (), dtype=dtype)
        self._crew = find_crew(self._case)
        self._logs = logs
        self._session: OptimizerSession | None = None

    def __enter__(self) -> Drive:
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def build(self, sides: tuple[Setup, Setup], parameters: Named, change: Callable[[float], float] | None) -> OptimizerSession:
        """Have both sides construct their setup."""
        if self._session is None:
            self._session = OptimizerSession(self._case, both(self._case, self._crew, self._logs), lambda: None)
            self._session.start()
            self._session.configure()
        options = {"torch": sides[0].options(change), "paddle": sides[1].options(change)}
        self._session.build_optimizers({"torch": parameters, "paddle": parameters}, options)
        self.facts = dict(self._session.facts)
        return self._session

    def updates(
        self, sides: tuple[Setup, Setup], regime: str, change: Callable[[float], float] | None = None
    ) -> Difference:
        """Return how far both sides' parameters come apart under one regime."""
        shapes = {name: shape for name, shape in SHAPES.items() if len(shape) > 1 or not sides[0].sparse}
        parameters = gradient_regimes.initial_parameters(shapes, self.dtype)
        gradients = gradient_regimes.gradients(regime, shapes, self.dtype, sides[0].steps or gradient_regimes.STEPS)
        watched = list(gradient_regimes.losses(len(gradients)))
        session = self._safely(lambda: self.build(sides, parameters, change))
        driven = {"torch": gradients, "paddle": gradients}
        results = self._safely(lambda: session.apply_gradients(0, driven, watched, ("parameter",)))
        return of_updates(parameters, results["torch"], results["paddle"])

    def rates(self, sides: tuple[Setup, Setup], metric: str) -> tuple[Difference, Difference]:
        """Return how far both sides' rates come apart, in float32 and in float64."""
        parameters = gradient_regimes.initial_parameters({"weight": (2,)}, self.dtype)
        session = self._safely(lambda: self.build(sides, parameters, None))
        losses = gradient_regimes.losses(RATE_STEPS, metric)
        rates = self._safely(lambda: session.read_rates_watching(losses))
        return of_rates(rates["torch"], rates["paddle"])

    def _safely(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except StepalignError:
            self._end()
            raise

    def _end(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            session.__exit__(None, None, None)


def measure(
    pairings: Iterable[Pairing], logs: Path, regimes: Sequence[str] = gradient_regimes.NAMES
) -> tuple[list[Row], dict[str, WorkerFacts]]:
    """Return a row for each pairing, and what the two workers were."""
    rows = [Row(pairing) for pairing in pairings]
    facts: dict[str, WorkerFacts] = {}
    for dtype in ("float64", "float32"):
        with Drive(dtype, logs) as drive:
            for row in rows:
                _measure_row(drive, row, regimes)
            facts = drive.facts or facts
    return rows, facts


def _measure_row(drive: Drive, row: Row, regimes: Sequence[str]) -> None:
    started_s = time.monotonic()
    for configuration in row.pairing.configurations:
        try:
            if row.pairing.kind == "schedule":
                if drive.dtype == "float64":
                    _measure_rates(drive, row, configuration)
            else:
                _measure_updates(drive, row, configuration, regimes)
        except StepalignError as error:
            row.errors.append(f"{configuration.name}, {drive.dtype}: {_last_line(error)}")
    pairing = row.pairing
    if drive.dtype == "float32" and _has_bare_form(pairing):
        row.defaults_alone = _measure_bare(drive, pairing, regimes)
    print(f"{drive.dtype} {pairing.key}: {time.monotonic() - started_s:.1f} s", file=sys.stderr, flush=True)


def _has_bare_form(pairing: Pairing) -> bool:
    """Say whether both classes can be given a rate and nothing else, and stand for one another."""
    if pairing.kind != "optimizer" or not pairing.configurations or pairing.to_paddle or pairing.variant:
        return False
    return pairing.configurations[0].side == "torch" and pairing.torch != "torch.optim.LBFGS"


def _measure_bare(drive: Drive, pairing: Pairing, regimes: Sequence[str]) -> Difference:
    sides = bare_setups(pairing, float(pairing.defaults("torch").get("lr", 0.1)))
    worst = Difference()
    for regime in regimes:
        worst = worst.worse(drive.updates(sides, regime))
    return worst


def _measure_rates(drive: Drive, row: Row, configuration: Configuration) -> None:
    for rate in RATES:
        name = f"base {rate:g}"
        single, double = drive.rates(setups(row.pairing, configuration, rate), configuration.metric)
        row.found[configuration.name, "float32", name] = single
        row.found[configuration.name, "float64", name] = double


def _measure_updates(drive: Drive, row: Row, configuration: Configuration, regimes: Sequence[str]) -> None:
    sides = setups(row.pairing, configuration)
    for regime in regimes:
        found = drive.updates(sides, regime)
        row.found[configuration.name, drive.dtype, regime] = found
        if drive.dtype == "float64" and found.beyond > ROUNDING:
            change = lambda value: float(np.float32(value))  # noqa: E731 (a name would hide that it is the one rounding)
            row.found[configuration.name, "float64_rounded", regime] = drive.updates(sides, regime, change)


def _last_line(error: StepalignError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
