"""stepalign in Python: `run`, `schedule`, `optimizer`, the `Result` that they return, and `record`.

Guarantees: a `Result` says what the command line would have said, from the same result and in the same words; nothing
is printed, and what a person has to start on another machine is logged as a warning; the caller's signal handlers are
put back, and a signal that came meanwhile is handed to them once the run folder is written. The names in ``__all__``
and the public names of `Result` are stable.
"""

from __future__ import annotations

import html
import io
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stepalign.coordinator.cases.case import SIDES
from stepalign.coordinator.cases.choice import choose_case
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.diagnosis.cause import Cause
from stepalign.coordinator.processes.interruption import Interruption
from stepalign.coordinator.recordings.making import Wanted, record_side
from stepalign.coordinator.report import wording
from stepalign.coordinator.report.terminal import print_verdict
from stepalign.coordinator.results.result import ErrorFacts, FirstDivergence, KnownDifference, Series, Verdict
from stepalign.coordinator.results.result import Result as WrittenResult
from stepalign.coordinator.running.case_record import recorded_against, recorded_assignments
from stepalign.coordinator.running.resume import resume_case
from stepalign.coordinator.running.run import run_case
from stepalign.coordinator.running.run_optimizer import run_optimizer
from stepalign.coordinator.running.run_schedule import run_schedule
from stepalign.coordinator.running.run_state import Watcher
from stepalign.protocol.errors import CaseError

__all__ = ["Result", "Verdict", "optimizer", "record", "run", "schedule"]

_COLOURS = {
    Verdict.ALIGNED: "#1a7f37",
    Verdict.DIVERGED: "#cf222e",
    Verdict.INCONCLUSIVE: "#9a6700",
    Verdict.FAILED: "#cf222e",
}


@dataclass(frozen=True, repr=False)
class Result:
    """How one run ended: all of result.json as ``result``, and the run folder that it left.

    ``rate_steps`` are the milestones of a schedule, the rows of its table in `text`.
    """

    result: WrittenResult
    folder: Path
    rate_steps: tuple[int, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict; it equals its name: ``result.verdict == "aligned"``."""
        return self.result.verdict

    @property
    def is_aligned(self) -> bool:
        """Whether the verdict is `aligned`; nothing else counts as success."""
        return self.verdict is Verdict.ALIGNED

    @property
    def exit_code(self) -> int:
        """What the command line would have ended with."""
        return self.result.exit_code

    @property
    def steps_completed(self) -> int:
        """How many steps both sides finished."""
        return self.result.steps_completed

    @property
    def first_divergence(self) -> FirstDivergence | None:
        """Where the sides first differ, in causal order; None unless diverged."""
        return self.result.first_divergence

    @property
    def causes(self) -> tuple[Cause, ...]:
        """Why, as far as the evidence goes; most likely first."""
        return tuple(sorted(self.result.causes, key=lambda cause: -cause.confidence))

    @property
    def known_differences(self) -> tuple[KnownDifference, ...]:
        """What the frameworks themselves do differently, and no port can avoid."""
        return self.result.known_differences

    @property
    def warnings(self) -> tuple[str, ...]:
        """What else a reader of the verdict should know."""
        return self.result.warnings

    @property
    def series(self) -> Series:
        """Losses and rates of both sides, one entry a step."""
        return self.result.series

    @property
    def error(self) -> ErrorFacts | None:
        """Why the run failed; None unless failed."""
        return self.result.error

    @property
    def headline(self) -> str:
        """The verdict in one line, with the place if there is one."""
        place, error = self.result.first_divergence, self.result.error
        where = ""
        if place is not None:
            where = f": {wording.place_line(place)}"
        elif error is not None:
            where = f": {next(iter(error.message.splitlines()), '')}"
        return wording.plain(f"{self.result.case.name} {self.verdict.value}{where}")

    @property
    def text(self) -> str:
        """What the command line prints at the end of this run, 80 columns wide, without colours."""
        file = io.StringIO()
        print_verdict(self.result, self.folder, file, self.rate_steps)
        return wording.plain(file.getvalue()).rstrip()

    def assert_aligned(self) -> None:
        """Raise AssertionError with `text` as its message unless the verdict is `aligned`."""
        __tracebackhide__ = True
        if not self.is_aligned:
            raise AssertionError(self.text)

    def __repr__(self) -> str:
        return f"<stepalign.Result {self.headline!r}, {str(self.folder)!r}>"

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """Give the short summary that notebooks show; all text is escaped."""
        result = self.result
        place, causes = result.first_divergence, self.causes
        rows = [
            ("case", wording.case_line(result)),
            ("sides", f"{wording.side_line('torch', result.torch)}, {wording.side_line('paddle', result.paddle)}"),
        ]
        if result.error is not None:
            rows.append(("error", result.error.message))
        if place is not None:
            details = (
                wording.place_line(place),
                wording.values_line(place),
                wording.measures_line(place),
                place.reason,
            )
            rows.append(("where", "\n".join(detail for detail in details if detail)))
        if causes:
            title = f"{wording.kind_words(causes[0].code)}, confidence {wording.percent(causes[0].confidence)}"
            rows += [("why", f"{title}\n{causes[0].evidence}"), ("fix", causes[0].fix)]
        known = [group.line for group in wording.known_groups(result.known_differences)]
        rows += [("known", line) for line in known]
        rows += [("warning", warning) for warning in result.warnings]
        rows.append(("run folder", str(self.folder)))
        head = (
            f'<strong style="color:{_COLOURS[result.verdict]}">{_escaped(result.verdict.value.upper())}</strong>: '
            f"{_escaped(wording.headline(result))}"
        )
        body = "".join(
            f'<tr><th style="text-align:left;vertical-align:top">{label}</th>'
            f'<td style="text-align:left;white-space:pre-line">{_escaped(text)}</td></tr>'
            for label, text in rows
        )
        return f"<div><p>{head}</p><table>{body}</table></div>"


def run(
    case_folder: str | os.PathLike[str] | None = None,
    *,
    torch: str | None = None,
    paddle: str | None = None,
    data: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    accumulate: int | None = None,
    against: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    mode: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    assignments: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Result:
    """Run a case, as `stepalign run` does, and return how it ended; a worker that fails is a result, not an exception.

    Instead of a case, ``torch`` and ``paddle`` are the commands of two scripts that own their loop, ``data`` their
    batches, ``config`` a file with other keys of case.toml, ``accumulate`` how many batches one update takes in.
    ``against`` is what `record` wrote, in place of one side.
    ``steps``, ``mode``, ``dtype`` and ``seed`` replace the case's own; ``assignments`` are ``KEY=VALUE`` texts as
    ``--set`` takes them; ``out`` is the run folder, new or empty (default: ``runs/<case>-<time>``); ``resume`` is the folder of an
    interrupted run to continue there. Raises CaseError for
    a case that is wrong in itself or a run folder that cannot be made, KeyboardInterrupt after an interruption.
    """
    folder = _path(resume)
    given = [*(recorded_assignments(folder) if folder is not None else ()), *_listed(assignments)]
    case = choose_case(
        _path(case_folder),
        {"torch": torch, "paddle": paddle},
        None if data is None else os.fspath(data),
        _path(config),
        given,
        accumulate,
        _path(against) or (recorded_against(folder) if folder is not None else None),
        steps=steps,
        mode=mode,
        dtype=dtype,
        seed=seed,
    )
    if folder is not None:
        return _watched(lambda watcher: resume_case(case, folder, watcher), ())
    return _watched(lambda watcher: run_case(case, _path(out), watcher), ())


def record(
    case_folder: str | os.PathLike[str] | None = None,
    *,
    side: str = "torch",
    torch: str | None = None,
    paddle: str | None = None,
    data: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
    accumulate: int | None = None,
    steps: int | None = None,
    mode: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
    assignments: Sequence[str] = (),
    activations: Sequence[int] | Literal["all"] = (0,),
    noise: bool = True,
    batches: bool = True,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Run one side alone, as `stepalign record` does, and return where it was kept: a folder, or one file if it ends in
    ``.zip`` (default: ``<case>-<side>.zip`` in the working directory).

    ``activations`` are the steps at which every module's output is kept; ``noise`` and ``batches`` say whether the noise
    control and the batches themselves are. The other parameters are those of `run`. Raises StepalignError for whatever
    goes wrong; nothing is left then.
    """
    if side not in SIDES:
        raise CaseError(f'side: expected "torch" or "paddle", got {side!r}')
    case = choose_case(
        _path(case_folder),
        {"torch": torch, "paddle": paddle},
        None if data is None else os.fspath(data),
        _path(config),
        _listed(assignments),
        accumulate,
        steps=steps,
        mode=mode,
        dtype=dtype,
        seed=seed,
    )
    place = _path(out) or Path(f"{case.name}-{side}.zip")
    wanted = Wanted("all" if activations == "all" else tuple(int(step) for step in activations), noise, batches)
    with _interruptible() as interruption:
        record_side(case, side, place, wanted, _watcher(interruption))
    return place.absolute()


def schedule(
    case_folder: str | os.PathLike[str],
    *,
    steps: int | None = None,
    assignments: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
) -> Result:
    """Compare both sides' learning rates alone, as `stepalign schedule` does. Parameters and exceptions as for `run`."""
    chosen = [] if steps is None else [f"schedule.steps={steps}"]
    case = load_case(Path(case_folder), [*_listed(assignments), *chosen])
    milestones = case.file.schedule.chosen_milestones()
    return _watched(lambda watcher: run_schedule(case, _path(out), watcher), milestones)


def optimizer(
    case_folder: str | os.PathLike[str],
    *,
    steps: int | None = None,
    dtype: str | None = None,
    assignments: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
) -> Result:
    """Compare both sides' optimizers under given gradients, as `stepalign optimizer` does.

    ``steps`` replaces the case's ``optimizer.steps``. The other parameters and exceptions are as for `run`.
    """
    chosen = [] if steps is None else [f"optimizer.steps={steps}"]
    case = load_case(Path(case_folder), [*_listed(assignments), *chosen], dtype=dtype)
    return _watched(lambda watcher: run_optimizer(case, _path(out), watcher), ())


def _watched(call: Callable[[Watcher], tuple[WrittenResult, Path]], rate_steps: tuple[int, ...]) -> Result:
    """Run ``call``; a signal ends it in order, and then goes to whoever handled it before."""
    with _interruptible() as interruption:
        result, folder = call(_watcher(interruption))
    return Result(result, folder.absolute(), rate_steps)


def _watcher(interruption: Interruption) -> Watcher:
    return Watcher(tick=interruption.raise_if_asked, notice=logging.getLogger("stepalign").warning)


@contextmanager
def _interruptible() -> Iterator[Interruption]:
    """Take signals in, and hand one that came to whoever handled it before; Python takes handlers in its main thread only."""
    interruption = Interruption()
    is_main = threading.current_thread() is threading.main_thread()
    try:
        with ExitStack() as stack:
            if is_main:
                stack.enter_context(interruption)
            yield interruption
    finally:
        if interruption.asked is not None:
            signal.raise_signal(interruption.asked)


def _listed(assignments: Sequence[str]) -> Sequence[str]:
    return (assignments,) if isinstance(assignments, str) else assignments


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def _escaped(text: str) -> str:
    return html.escape(wording.plain(text))
