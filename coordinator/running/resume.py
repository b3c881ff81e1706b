"""Continues an interrupted run in its own folder, such that its result is the one of an uninterrupted run.

Steps from the newest checkpoint on, or from step 0, are run again. Those that steps.jsonl has must come out bit by bit
as they were; only then is anything appended. A checkpoint from which they do not is left for an older one, and in the
end for step 0. What was collected stays as it is until the run has got further than it had.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.recordings.batches import open_batches
from stepalign.coordinator.results.records import RESULT_NAME, STEPS_NAME, StepsLog, iterate_steps
from stepalign.coordinator.results.result import Result, Resumed, Verdict
from stepalign.coordinator.results.result_json import load_result
from stepalign.coordinator.running.case_record import check_same_case
from stepalign.coordinator.running.checkpoints import Kept, kept_steps, read_checkpoint, why_refused
from stepalign.coordinator.running.continuing import why_never_kept
from stepalign.coordinator.running.repeated_log import NotRepeatedError
from stepalign.coordinator.running.run import drive, write_all
from stepalign.coordinator.running.run_state import Origin, Run, Watcher
from stepalign.coordinator.running.sides_record import read_sides
from stepalign.protocol.errors import CaseError


def resume_case(case: Case, folder: Path, watcher: Watcher) -> Tuple[Result, Path]:
    """Continue the run of ``folder``; return its result and its folder.

    Raises CaseError where that cannot be: another case, a changed one, a run that is complete, still runs or is
    damaged. Raises NotRepeatedError where the recorded steps, repeated from step 0, come out otherwise; and whatever
    ends it before it has got further than it had. In all of these the folder is as it was.
    """
    check_same_case(folder, case)
    recorded = _count_steps(folder, case)
    sides = read_sides(folder)
    watcher.folder(folder)
    notes: List[str] = []
    for kept in _beginnings(case, folder, recorded, notes):
        if kept is None and notes:
            watcher.notice(f"{folder} begins again at step 0: {'; '.join(notes)}")
        run = Run(case, folder, Origin(recorded, kept, sides))
        run.resumed = Resumed(recorded, kept.step if kept is not None else 0, "; ".join(notes))
        try:
            drive(run, watcher)
        except NotRepeatedError as error:
            if kept is None:
                raise _unlike(error, folder) from None
            notes.append(f"from the state of step {kept.step}: {error}")
            continue
        if run.error is not None and run.record.steps < recorded:
            raise run.error
        return write_all(run), folder
    raise AssertionError("a run begins at step 0 at the latest")


def _count_steps(folder: Path, case: Case) -> int:
    """Return how many steps an interrupted run has, checked, with the data's. Raises CaseError for any other folder."""
    if (folder / RESULT_NAME).is_file():
        verdict = load_result(folder).verdict
        if verdict is not Verdict.FAILED:
            raise CaseError(f"{folder}: this run is complete, {verdict.value}: there is nothing to continue")
    with StepsLog(folder / STEPS_NAME):  # which is refused while the run is still going on
        batches, count = open_batches(case), 0
        for count, line in enumerate(iterate_steps(folder), start=1):
            step = count - 1
            if line.get("step") != step or step >= case.steps:
                raise CaseError(f"{folder}: {STEPS_NAME} is damaged: line {count} is not that of step {step}")
            if (step == 0 or batches[step] is not batches[0]) and batches.digest(step) != line.get("batch_digest"):
                raise CaseError(f"{folder}: the data have changed since: the batch of step {step} has another digest")
        return count


def _beginnings(case: Case, folder: Path, recorded: int, notes: List[str]) -> Iterator[Optional[Kept]]:
    """Yield from where to try: the checkpoints that can be read, the newest first, then step 0 (None)."""
    reason = why_never_kept(case) or why_refused(folder)
    for step in kept_steps(folder):
        if step > recorded:
            notes.append(f"the state of step {step} is of a step that {STEPS_NAME} does not have")
            continue
        try:
            kept = read_checkpoint(folder, step)
        except CaseError as error:
            notes.append(str(error))
            continue
        yield kept
    if reason is not None:
        notes.append(f"all steps were run again, as no state was kept: {reason}")
    yield None


def _unlike(error: NotRepeatedError, folder: Path) -> NotRepeatedError:
    """Return the error that says what it means that step 0 onwards does not repeat."""
    error.args = (
        f"{error}. Versions, settings, scripts and data are the recorded ones, so this run does not repeat bit by bit: "
        "an operation that is not deterministic, a random generator without a fixed seed, another processor, or state "
        f"outside the case. {folder} is as it was; run the case anew",
    )
    return error
