"""Steps that are run again must come out as they were recorded; only then is the log continued."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.results.records import STEPS_NAME, StepsLog, read_steps
from stepalign.coordinator.running.repeated_log import NotRepeatedError, RepeatedLog
from stepalign.protocol.errors import CaseError


def line(step: int, **changed: Any) -> dict[str, Any]:
    """Return a line as steps.jsonl has it, cut down."""
    return {
        "step": step,
        "passed": True,
        "lr": {"torch": [0.1, 0.2]},
        "loss": {"torch": step / 7, "paddle": float("nan")},
        "worst": {},
        "seconds": {"torch": 0.5},
        **changed,
    }


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[StepsLog]:
    """A log with the lines of steps 0 to 3, opened again."""
    with StepsLog(tmp_path / STEPS_NAME) as log:
        for step in range(4):
            log.append(line(step))
    with StepsLog(tmp_path / STEPS_NAME) as log:
        yield log


def test_what_is_the_same_is_not_written_again_and_what_is_new_is(recorded: StepsLog, tmp_path: Path) -> None:
    before = (tmp_path / STEPS_NAME).read_bytes()
    log = RepeatedLog(recorded, tmp_path, 4)
    for step in (2, 3):  # as from a checkpoint of step 2
        log.append(line(step, seconds={"torch": 9.0}))
    assert (tmp_path / STEPS_NAME).read_bytes() == before
    for step in (4, 5):
        log.append(line(step))
    assert (tmp_path / STEPS_NAME).read_bytes().startswith(before)
    assert [each["step"] for each in read_steps(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_a_fresh_run_just_appends(tmp_path: Path) -> None:
    with StepsLog(tmp_path / STEPS_NAME) as log:
        RepeatedLog(log, tmp_path, 0).append(line(0))
    assert [each["step"] for each in read_steps(tmp_path)] == [0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"loss": {"torch": 1 / 7 + 2**-55, "paddle": float("nan")}}, "loss.torch was 0.14285714285714285, now 0.1428571428571"),
        ({"loss": {"torch": 1 / 7, "paddle": 0.5}}, "loss.paddle was NaN, now 0.5"),
        ({"passed": False}, "passed was True, now False"),
        ({"lr": {"torch": [0.1]}}, "lr.torch.1 was 0.2, now absent"),
        ({"worst": {"loss": {"max_abs": 1.0}}}, "worst was {}, now absent"),
        ({"more": 1}, "more was absent, now 1"),
    ],
)
def test_the_first_value_that_differs_is_named(
    changed: dict[str, Any], message: str, recorded: StepsLog, tmp_path: Path
) -> None:
    log = RepeatedLog(recorded, tmp_path, 4)
    log.append(line(0))
    with pytest.raises(NotRepeatedError) as raised:
        log.append(line(1, **changed))
    assert f"step 1, run again, did not give what was recorded: {message}" in str(raised.value)


def test_after_a_difference_nothing_is_appended(recorded: StepsLog, tmp_path: Path) -> None:
    before = (tmp_path / STEPS_NAME).read_bytes()
    log = RepeatedLog(recorded, tmp_path, 4)
    with pytest.raises(NotRepeatedError):
        log.append(line(3, passed=False))
    for step in (4, 5):  # steps that were under way
        with pytest.raises(NotRepeatedError, match="step 3, run again"):
            log.append(line(step))
    assert (tmp_path / STEPS_NAME).read_bytes() == before


def test_a_damaged_line_is_named(recorded: StepsLog, tmp_path: Path) -> None:
    path = tmp_path / STEPS_NAME
    path.write_bytes(path.read_bytes().replace(b'{"step":2,', b'{"step"2,'))
    log = RepeatedLog(recorded, tmp_path, 4)
    log.append(line(1))
    with pytest.raises(CaseError, match="line 3: expected strict JSON"):
        log.append(line(2))
