"""The result of a run that was ended before it could write one: rebuilt from its steps.jsonl and case.json.

Such a run is `failed`, whatever its finished steps say; what they say is told as a warning.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import stepalign
from stepalign.coordinator.results.records import RESULT_NAME, STEPS_NAME, from_strict_number, read_result, read_steps
from stepalign.coordinator.results.result import CaseFacts, ErrorFacts, Result, Series, Verdict
from stepalign.coordinator.results.result_json import load_result
from stepalign.coordinator.running.case_record import CASE_NAME
from stepalign.protocol.errors import CaseError

_EXIT_CODE = 130


def load_or_rebuild(path: Path) -> Result:
    """Return the result of a run folder, or of its result.json; of an interrupted run, what its finished steps give.

    Raises CaseError where nothing was recorded, and while the run is still going on.
    """
    if not path.is_dir() or (path / RESULT_NAME).exists() or not (path / STEPS_NAME).exists():
        return load_result(path)
    if is_running(path):
        raise CaseError(
            f"{path}: the run is still going on, with {len(read_steps(path))} finished steps; it writes its report at its end"
        )
    return rebuild(path)


def is_running(folder: Path) -> bool:
    """Say whether a process still writes steps.jsonl, by the lock that it holds on it."""
    try:
        with open(folder / STEPS_NAME, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def rebuild(folder: Path) -> Result:
    """Return the result of an interrupted run from what is in its folder. Raises CaseError if that is too little."""
    steps = read_steps(folder)
    case = _case_facts(folder)
    try:
        series = Series(
            loss_torch=tuple(_loss(step, "torch") for step in steps),
            loss_paddle=tuple(_loss(step, "paddle") for step in steps),
            lr_torch=tuple(_rates(step, "torch") for step in steps),
            lr_paddle=tuple(_rates(step, "paddle") for step in steps),
        )
        diverged = next((step for step in steps if not step["passed"]), None)
        standing = None if diverged is None else _first_failure(diverged)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CaseError(f"{folder / STEPS_NAME}: not lines that stepalign wrote: {error!r}") from None
    last = f"after step {len(steps) - 1}" if steps else "before its first step was finished"
    return Result(
        stepalign=stepalign.__version__,
        verdict=Verdict.FAILED,
        case=case,
        steps_completed=len(steps),
        torch=None,
        paddle=None,
        series=series,
        warnings=_standing(len(steps), standing),
        error=ErrorFacts(
            f"interrupted: the run was ended {last}, and wrote no result", phase="interrupted", exit_code=_EXIT_CODE
        ),
    )


def _standing(steps: int, diverged: str | None) -> tuple[str, ...]:
    if diverged is not None:
        return (f"before the interruption the sides had diverged: {diverged}",)
    return (f"the {steps} steps finished before the interruption are aligned",) if steps else ()


def _first_failure(step: dict[str, Any]) -> str:
    first = step["failures"][0]
    name = first["torch_name"] or first["paddle_name"]
    return f"step {step['step']}, {first['kind']} {name}: {first.get('reason', '')}".rstrip(": ")


def _case_facts(folder: Path) -> CaseFacts:
    path = folder / CASE_NAME
    if not path.is_file():
        raise CaseError(f"{folder}: the run was interrupted before anything was recorded: there is nothing to report")
    record = read_result(path)
    try:
        case = record["case"]
        return CaseFacts(
            str(case["name"] or Path(record["folder"]).name),
            int(case["steps"]),
            str(case["mode"]),
            str(case["dtype"]),
            int(case["seed"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{path}: not a case that stepalign recorded: {error!r}") from None


def _loss(step: dict[str, Any], side: str) -> float:
    return from_strict_number(step["loss"][side])


def _rates(step: dict[str, Any], side: str) -> tuple[float, ...]:
    return tuple(from_strict_number(rate) for rate in step["lr"][side])
