"""Two doubles in lockstep: matched by step, kept busy, bounded, and stopped by the first fault with nothing lost."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

import numpy as np
import pytest

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.processes.switchboard import Switchboard
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan
from stepalign.protocol.errors import DeadlineExceeded, ProtocolError, WorkerFailure
from stepalign.protocol.messages import (
    Batch,
    Batches,
    Message,
)

from ...doubles.stage import NUMPY_SIDE

KINDS = ("gradient", "parameter")
SLOW_SIDE = "import time\n" + NUMPY_SIDE.replace("    error =", "    time.sleep(0.002)\n    error =")
assert "time.sleep" in SLOW_SIDE


def run(
    make_case: Any,
    members: Any,
    steps: int = 3,
    take: Callable[[StepPair], None] | None = None,
    resync: int = 0,
    toml: str = "",
    kinds: tuple[str, ...] = KINDS,
    slow: str = "",
) -> list[StepPair]:
    """Run a session of two doubles and return the pairs that were compared; they survive in ``run.pairs`` on a
    failure. The side ``slow`` takes two milliseconds a step, so that the other one is ahead of it.
    """
    sides = {f"{slow}_side": SLOW_SIDE} if slow else {}
    case = load_case(make_case(f'steps = {steps}\ndtype = "float64"\n{toml}', **sides))
    pairs: list[StepPair] = []
    run.pairs = pairs  # type: ignore[attr-defined]

    def note(pair: StepPair) -> None:
        if take is not None:
            take(pair)
        pairs.append(pair)

    with Session(case, members, "train", lambda: None) as session:
        session.start()
        session.build()
        session.exchange_weights()
        plan = StepPlan(0, steps, lambda step: kinds, lambda step: (), resync)
        session.step(plan, BatchSource(case), note)
    return pairs


def compared_steps() -> list[int]:
    """The steps whose pairs were compared in the last run; how many there are depends on how far the other side was."""
    return [pair.step for pair in run.pairs]  # type: ignore[attr-defined]


def test_results_are_matched_by_step_and_both_sides_agree(make_case: Any, make_members: Any) -> None:
    pairs = run(make_case, make_members(), steps=12)
    assert [pair.step for pair in pairs] == list(range(12))
    for pair in pairs:
        assert pair.reference.step == pair.candidate.step == pair.step
        assert pair.reference.loss == pair.candidate.loss
        assert pair.reference.batch_digest == pair.candidate.batch_digest == pair.batch_digest
        ours, theirs = (side.tensors["parameter"]["fc.weight"] for side in (pair.reference, pair.candidate))
        np.testing.assert_array_equal(ours, theirs.T)
    losses = [float(pair.reference.loss) for pair in pairs]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 12


def test_the_thread_that_compares_is_there_from_the_first_step_also_where_nothing_is_left_to_it(
    make_case: Any, make_members: Any
) -> None:
    there: list[bool] = []

    def look(pair: StepPair) -> None:
        there.append(any(thread.name.startswith("stepalign-compare") for thread in threading.enumerate()))

    run(make_case, make_members(), take=look, kinds=())
    assert there == [True, True, True]


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_a_death_in_a_step_is_told_and_every_finished_pair_was_compared(
    make_case: Any, make_members: Any, side: str
) -> None:
    with pytest.raises(WorkerFailure, match=rf"the {side} worker died in phase forward of step 3: SIGKILL\(-9\)"):
        run(make_case, make_members(**{side: "forward:3=SIGKILL"}), steps=6)
    assert compared_steps() in ([], [0], [0, 1], [0, 1, 2])


def test_a_death_between_two_steps_is_told(make_case: Any, make_members: Any) -> None:
    with pytest.raises(WorkerFailure, match="the torch worker died in phase collect of step 2: exit code 9"):
        run(make_case, make_members(torch="afterStepResult:2=leave"), steps=6)
    assert compared_steps() in ([], [0], [0, 1], [0, 1, 2])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("StepResult:1=wrong_step", "the paddle worker sent a result of step 6, expected step 1"),
        (
            "StepResult:1=twice",
            "the paddle worker sent (a result of step 1, expected step 2|StepResult of step 1 out of turn)",
        ),
        ("StepResult:1=no_arrays", "sent a result of step 1 without gradient, parameter, which it was asked for"),
        ("StepResult:1=other_message", "the paddle worker sent Finished out of turn"),
        ("StepResult:1=garbage", "the paddle worker broke the protocol: a header that is not msgpack came"),
        ("StepResult:1=wrong_version", "the paddle worker broke the protocol: protocol version 99 came"),
        ("StepResult:1=forever", "the paddle worker sent"),
        ("StepResult:1=garbage_in_journal", "the paddle worker broke the protocol: a record of 4294967295 bytes came"),
        ("StepResult:1=header_in_journal", "the paddle worker broke the protocol: a header that is not msgpack came"),
        ("StepResult:1=other_message_in_journal", "the paddle worker broke the protocol: Finished came by the journal"),
    ],
)
def test_a_lie_about_a_step_ends_the_run(make_case: Any, make_members: Any, fault: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(ProtocolError, match=message) as caught:
        run(make_case, make_members(paddle=fault), steps=6)
    assert caught.value.fault["side"] == "paddle"  # type: ignore[attr-defined]
    assert time.monotonic() - started < 20
    assert compared_steps() in ([], [0], [0, 1])


LONG, LATE = 400, 377
"""Steps that are asked for together by then, and one among them."""


def asked_together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that fills with how many steps each message asked the torch side for."""
    counts: list[int] = []
    send = Switchboard.send

    def noting(self: Switchboard, role: str, message: Message) -> None:
        if role == "torch" and isinstance(message, (Batch, Batches)):
            counts.append(len(message.arrays) if isinstance(message, Batches) else 1)
        send(self, role, message)

    monkeypatch.setattr(Switchboard, "send", noting)
    return counts


def test_short_steps_are_asked_for_together_and_each_is_answered(
    make_case: Any, make_members: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = asked_together(monkeypatch)
    pairs = run(make_case, make_members(), steps=LONG, kinds=())
    assert [pair.step for pair in pairs] == list(range(LONG))
    assert len({float(pair.reference.loss) for pair in pairs}) > LONG / 2
    assert counts[0] == 1 and max(counts) > 4 and sum(counts) == LONG


@pytest.mark.parametrize("kinds", [(), KINDS], ids=["losses", "tensors"])
@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_a_death_among_steps_that_were_asked_for_together_loses_none_that_was_finished(
    make_case: Any, make_members: Any, side: str, kinds: tuple[str, ...]
) -> None:
    """But for the very last: where it took long it was sent as a message, which the dead process's socket may still hold."""
    with pytest.raises(WorkerFailure, match=rf"the {side} worker died in phase forward of step {LATE}: SIGKILL\(-9\)"):
        run(make_case, make_members(**{side: f"forward:{LATE}=SIGKILL"}), steps=LONG, kinds=kinds, slow=side)
    assert compared_steps() in (list(range(LATE)), list(range(LATE - 1)))


def test_a_failure_among_steps_that_were_asked_for_together_loses_none_that_was_finished(
    make_case: Any, make_members: Any
) -> None:
    with pytest.raises(WorkerFailure, match=f"the torch side failed in phase forward of step {LATE}: "):
        run(make_case, make_members(torch=f"forward:{LATE}=raise"), steps=LONG, kinds=(), slow="torch")
    assert compared_steps() == list(range(LATE))


def test_a_hang_among_steps_that_were_asked_for_together_meets_the_deadline_of_its_step(
    make_case: Any, make_members: Any
) -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=f"the paddle worker gave no answer in time: it is in phase forward of step {LATE}"):
        run(make_case, make_members(paddle=f"forward:{LATE}=hang"), steps=LONG, kinds=(), toml="[deadline]\nstep_s = 2.0")
    assert compared_steps() == list(range(LATE))
    assert time.monotonic() - started > 2.0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("wrong_step", f"the paddle worker sent a result of step {LATE + 5}, expected step {LATE}"),
        ("twice", f"the paddle worker sent a result of step {LATE}, expected step {LATE + 1}"),
        ("silence", f"the paddle worker sent a result of step {LATE + 1}, expected step {LATE}"),
        ("no_arrays", f"sent a result of step {LATE} without gradient, parameter, which it was asked for"),
    ],
)
def test_a_lie_among_steps_that_were_asked_for_together_ends_the_run(
    make_case: Any, make_members: Any, fault: str, message: str
) -> None:
    with pytest.raises(ProtocolError, match=message) as caught:
        run(make_case, make_members(paddle=f"StepResult:{LATE}={fault}"), steps=LONG, toml="[deadline]\nstep_s = 5.0")
    assert caught.value.fault["side"] == "paddle"  # type: ignore[attr-defined]
    assert compared_steps() == list(range(len(compared_steps())))


def test_a_step_that_never_ends_meets_its_deadline(make_case: Any, make_members: Any) -> None:
    with pytest.raises(
        DeadlineExceeded, match="the torch worker gave no answer in time: it is in phase forward of step 2"
    ):
        run(make_case, make_members(torch="forward:2=hang_native"), steps=6, toml="[deadline]\nstep_s = 1.0")
    assert compared_steps() == [0, 1]


def test_a_result_that_is_withheld_meets_the_deadline(make_case: Any, make_members: Any) -> None:
    with pytest.raises(DeadlineExceeded, match="the paddle worker gave no answer in time"):
        run(make_case, make_members(paddle="StepResult:2=silence"), steps=3, toml="[deadline]\nstep_s = 1.0")


def test_children_of_a_worker_are_gone_with_it(make_case: Any, make_members: Any) -> None:
    assert len(run(make_case, make_members(torch="forward:1=fork_and_go"))) == 3


def test_an_error_of_comparing_is_raised(make_case: Any, make_members: Any) -> None:
    def fail(pair: StepPair) -> None:
        if pair.step == 1:
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        run(make_case, make_members(), steps=6, take=fail)


def test_comparing_runs_on_a_thread_of_its_own(make_case: Any, make_members: Any) -> None:
    threads: set[str] = set()
    run(make_case, make_members(), take=lambda pair: threads.add(threading.current_thread().name))
    assert len(threads) == 1 and threads.pop().startswith("stepalign-compare")


def test_the_candidate_continues_from_the_references_state_every_k_steps(make_case: Any, make_members: Any) -> None:
    pairs = run(make_case, make_members(), steps=5, resync=2, kinds=("parameter", "optimizer_state", "buffer"))
    assert [pair.step for pair in pairs] == [0, 1, 2, 3, 4]
