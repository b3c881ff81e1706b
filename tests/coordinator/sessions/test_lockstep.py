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
from stepalign.coordinator.sessions import pace
from stepalign.coordinator.sessions.lockstep import (
    BATCHES_AHEAD,
    LEAD_SIZE_BYTES,
    MAX_LEAD,
    TOGETHER_SIZE_BYTES,
    Lockstep,
)
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import Keeping, StepPair, StepPlan
from stepalign.protocol.errors import DeadlineExceeded, ProtocolError, WorkerFailure
from stepalign.protocol.messages import (
    Batch,
    Batches,
    Checkpoint,
    LoadState,
    Message,
    SendCheckpoint,
    StateLoaded,
    StepResult,
)

from ...conftest import NUMPY_SIDE

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
    with pytest.raises(WorkerFailure, match=rf"the {side} worker died in phase forward of step {LATE}: SIGKILL\(-9\)"):
        run(make_case, make_members(**{side: f"forward:{LATE}=SIGKILL"}), steps=LONG, kinds=kinds, slow=side)
    assert compared_steps() == list(range(LATE))


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


# ------------------------------------------------------------------- the policy alone, on a switchboard made of lists


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each step asked for by a message of its own, however short it is."""
    monkeypatch.setattr(pace, "MAX_TOGETHER", 1)


class ListBoard:
    """A switchboard whose two workers answer when the test says so."""

    def __init__(self) -> None:
        self.sent: dict[str, list[Message]] = {"torch": [], "paddle": []}
        self.together: dict[str, list[int]] = {"torch": [], "paddle": []}
        self.open: list[tuple[str, Message]] = []
        self.answered: list[tuple[str, int]] = []
        self.prefer: Callable[[list[tuple[str, Message]]], int] = lambda waiting: 0
        self.on_send: Callable[[], None] = lambda: None
        self.room: dict[str, int] = {}
        self.kinds: Callable[[int], tuple[str, ...]] = lambda step: ()
        self.recorded = ""

    def is_recorded(self, role: str) -> bool:
        return role == self.recorded

    def room_bytes(self, role: str) -> int | None:
        return self.room.get(role)

    def send(self, role: str, message: Message) -> None:
        each = list(message.each()) if isinstance(message, Batches) else [message]
        if isinstance(message, (Batch, Batches)):
            self.together[role].append(len(each))
        self.sent[role] += each
        self.open += [(role, item) for item in each]
        self.on_send()

    def next(self, deadline: float, waited_for: Any, phase: str) -> tuple[str, Message]:
        role, message = self.open.pop(self.prefer(self.open))
        if isinstance(message, LoadState):
            return role, StateLoaded()
        if isinstance(message, SendCheckpoint):
            return role, Checkpoint({}, "", "", 0.0)
        assert isinstance(message, Batch)
        self.answered.append((role, message.step))
        tensors: dict[str, Any] = {kind: {} for kind in self.kinds(message.step)}
        return role, StepResult(message.step, [0.1], np.asarray(1.0), "d", tensors, (), 0.0)

    def poll(self, timeout_s: float) -> None:
        return None

    def taken_in(self) -> None:
        return None

    def steps(self, role: str) -> list[int]:
        return [message.step for message in self.sent[role] if isinstance(message, Batch)]


def drive(
    board: ListBoard,
    steps: int = 8,
    on_pair: Callable[[StepPair], None] = lambda pair: None,
    resync: int = 0,
    size_bytes: int = 0,
) -> None:
    lockstep = Lockstep(
        board,
        "torch",
        "paddle",
        lambda step: ({}, "d"),
        10.0,
        lambda result: LoadState({}, {}),  # type: ignore[arg-type]
        lambda role, kinds: size_bytes,
    )
    lockstep.run(StepPlan(0, steps, lambda step: (), lambda step: (), resync), on_pair)


def test_the_next_batch_is_there_before_the_last_result_came(one_by_one: None) -> None:
    board = ListBoard()
    ahead: list[int] = []
    board.on_send = lambda: ahead.append(len(board.open))
    drive(board)
    assert max(ahead) == 2 * BATCHES_AHEAD
    assert board.steps("torch") == board.steps("paddle") == list(range(8))


def test_a_fast_side_runs_ahead_by_a_bounded_lead_only(one_by_one: None) -> None:
    board = ListBoard()
    lead = [0]

    def prefer_torch(waiting: list[tuple[str, Message]]) -> int:
        lead[0] = max(lead[0], len(board.steps("torch")) - sum(role == "paddle" for role, _ in board.answered))
        return next((index for index, (role, _) in enumerate(waiting) if role == "torch"), 0)

    board.prefer = prefer_torch
    pairs: list[int] = []
    drive(board, 20, lambda pair: pairs.append(pair.step))
    assert pairs == list(range(20))
    assert BATCHES_AHEAD < lead[0] <= MAX_LEAD


def test_slow_comparing_holds_the_workers_back(one_by_one: None) -> None:
    board = ListBoard()
    lead = [0]
    compared: list[int] = []

    def compare(pair: StepPair) -> None:
        time.sleep(0.02)
        lead[0] = max(lead[0], len(board.steps("torch")) - len(compared))
        compared.append(pair.step)

    drive(board, 12, compare)
    assert compared == list(range(12))
    assert lead[0] <= MAX_LEAD


def test_messages_grow_with_the_pace_and_are_two_ahead_at_most() -> None:
    board = ListBoard()
    outstanding: list[tuple[int, int]] = []
    board.on_send = lambda: outstanding.append((len(board.steps("torch")), sum(role == "torch" for role, _ in board.answered)))
    drive(board, 500)
    assert board.steps("torch") == board.steps("paddle") == list(range(500))
    assert board.together["torch"][0] == 1 and max(board.together["torch"]) > 8
    assert max(sent - answered for sent, answered in outstanding) <= BATCHES_AHEAD * pace.MAX_TOGETHER


def test_results_that_came_together_are_all_taken_and_nothing_after_the_last_step() -> None:
    board, compared = ListBoard(), []

    def taken_in() -> tuple[str, Message] | None:
        assert len(board.answered) < 2 * 300
        return board.next(0.0, (), "") if board.open else None

    board.taken_in = taken_in  # type: ignore[method-assign,assignment]
    drive(board, 300, lambda pair: compared.append(pair.step))
    assert board.steps("torch") == board.steps("paddle") == compared == list(range(300))


def test_long_steps_are_asked_for_one_by_one() -> None:
    board = ListBoard()
    answer = board.next

    def slowly(*arguments: Any) -> tuple[str, Message]:
        time.sleep(pace.TOGETHER_S / 2)
        return answer(*arguments)

    board.next = slowly  # type: ignore[method-assign]
    drive(board, 12)
    assert board.together["torch"] == [1] * 12


@pytest.mark.parametrize("recorded", ["torch", "paddle"])
def test_a_recorded_side_keeps_to_the_pace_of_the_live_one(recorded: str) -> None:
    board = ListBoard()
    board.recorded = recorded
    answer = board.next

    def slowly(*arguments: Any) -> tuple[str, Message]:
        role, message = answer(*arguments)
        time.sleep(0.0 if role == recorded else pace.TOGETHER_S)
        return role, message

    board.next = slowly  # type: ignore[method-assign]
    drive(board, 12)
    assert board.together[recorded] == [1] * 12


def test_a_message_ends_where_other_things_are_collected_or_a_state_is_to_come() -> None:
    board = ListBoard()
    drive(board, 200, resync=50)
    for role in ("torch", "paddle"):
        assert max(board.together[role]) > 4
    starts = np.cumsum([0, *board.together["paddle"]])
    assert {50, 100, 150, 200} <= set(starts.tolist())

    board = ListBoard()
    lockstep = Lockstep(board, "torch", "paddle", lambda step: ({}, "d"), 10.0)  # type: ignore[arg-type]
    every_ten = StepPlan(0, 100, lambda step: ("gradient",) if step % 10 == 0 else (), lambda step: ())
    board.kinds = every_ten.kinds
    lockstep.run(every_ten, lambda pair: None)
    for role in ("torch", "paddle"):
        starts = np.cumsum([0, *board.together[role]])
        assert set(range(0, 100, 10)) | set(range(1, 100, 10)) <= set(starts.tolist())


def test_a_message_ends_before_a_state_that_is_kept() -> None:
    board = ListBoard()
    kept: list[int] = []
    due = iter(range(10**6))
    keeping = Keeping(lambda interrupted: next(due) % 4 == 3, lambda step, states: kept.append(step))
    lockstep = Lockstep(board, "torch", "paddle", lambda step: ({}, "d"), 10.0)  # type: ignore[arg-type]
    pairs: list[int] = []
    lockstep.run(StepPlan(0, 400, lambda step: (), lambda step: (), 0, keeping), lambda pair: pairs.append(pair.step))
    assert pairs == list(range(400))
    assert kept and max(board.together["torch"]) > 4
    for role in ("torch", "paddle"):
        order = [message.step if isinstance(message, Batch) else -1 for message in board.sent[role]]
        assert [order[index + 1] for index, step in enumerate(order[:-1]) if step == -1] == kept


@pytest.mark.parametrize("size_bytes", [pace.MAX_TOGETHER, TOGETHER_SIZE_BYTES // 4])
def test_a_message_holds_no_more_than_so_many_bytes_of_batches(size_bytes: int) -> None:
    board = ListBoard()
    batches = [{"x": np.full(size_bytes, step % 100, np.uint8)} for step in range(300)]
    lockstep = Lockstep(board, "torch", "paddle", lambda step: (batches[step], "d"), 10.0)  # type: ignore[arg-type]
    lockstep.run(StepPlan(0, 300, lambda step: (), lambda step: ()), lambda pair: None)
    most = max(board.together["torch"])
    assert most == 4 if size_bytes > 1000 else most > 4
    sent = [message for message in board.sent["paddle"] if isinstance(message, Batch)]
    assert all(message.arrays is batches[message.step] and not message.again for message in sent)


@pytest.mark.parametrize("size_bytes", [TOGETHER_SIZE_BYTES // pace.MAX_TOGETHER, TOGETHER_SIZE_BYTES])
def test_steps_that_collect_much_are_asked_for_one_by_one(size_bytes: int) -> None:
    board = ListBoard()
    drive(board, 300, size_bytes=size_bytes)
    assert max(board.together["torch"]) == 1 if size_bytes == TOGETHER_SIZE_BYTES else max(board.together["torch"]) > 4


def test_a_batch_is_sent_once_while_it_is_the_same_and_again_when_it_changes() -> None:
    board = ListBoard()
    first, second = {"x": np.zeros(2)}, {"x": np.zeros(2)}
    order = [first, first, second, second, first]
    digests: list[str] = []
    lockstep = Lockstep(board, "torch", "paddle", lambda step: (order[step], f"d{step}"), 10.0)  # type: ignore[arg-type]
    lockstep.run(StepPlan(0, 5, lambda step: (), lambda step: ()), lambda pair: digests.append(pair.batch_digest))
    for role in ("torch", "paddle"):
        batches = [message for message in board.sent[role] if isinstance(message, Batch)]
        assert [batch.again for batch in batches] == [False, True, False, True, False]
        assert [bool(batch.arrays) for batch in batches] == [True, False, True, False, True]
    assert digests == [f"d{step}" for step in range(5)]


def test_small_values_are_compared_at_once_until_that_takes_long() -> None:
    threads: list[str] = []

    def compare(pair: StepPair) -> None:
        threads.append(threading.current_thread().name)
        if pair.step in (0, 2, 3):
            time.sleep(0.01)

    drive(ListBoard(), 6, compare)
    assert threads[:4] == ["MainThread"] * 4
    assert threads[4].startswith("stepalign-compare")


@pytest.mark.parametrize(
    ("size_bytes", "room", "lead"),
    [
        (LEAD_SIZE_BYTES // 3, None, 3),
        (LEAD_SIZE_BYTES // 3, LEAD_SIZE_BYTES, 3),
        (LEAD_SIZE_BYTES, None, 2),
        (LEAD_SIZE_BYTES, 2 * LEAD_SIZE_BYTES, 2),
        (LEAD_SIZE_BYTES, LEAD_SIZE_BYTES - 1, 1),
        (LEAD_SIZE_BYTES, 0, 1),
    ],
)
def test_large_steps_run_ahead_as_far_as_their_bytes_allow_and_never_stand_still(
    size_bytes: int, room: int | None, lead: int
) -> None:
    board = ListBoard()
    seen = [0]
    compared: list[int] = []
    if room is not None:
        board.room = {"torch": room, "paddle": room}
    board.on_send = lambda: seen.append(len(board.steps("torch")) - len(compared))

    def compare(pair: StepPair) -> None:
        time.sleep(0.01)
        compared.append(pair.step)

    drive(board, 10, compare, size_bytes=size_bytes)
    assert compared == list(range(10))
    assert max(seen) <= lead


def test_a_pair_is_one_step_although_the_answers_come_in_another_order() -> None:
    board = ListBoard()
    random = np.random.default_rng(3)

    def any_role(waiting: list[tuple[str, Message]]) -> int:
        role = waiting[int(random.integers(len(waiting)))][0]
        return next(index for index, (other, _) in enumerate(waiting) if other == role)

    board.prefer = any_role
    pairs: list[StepPair] = []
    drive(board, 30, pairs.append)
    assert [pair.step for pair in pairs] == list(range(30))
    assert all(pair.reference.step == pair.candidate.step == pair.step for pair in pairs)


def test_state_is_sent_to_the_candidate_alone_between_the_right_steps() -> None:
    board = ListBoard()
    drive(board, 7, resync=3)
    order = ["load" if isinstance(message, LoadState) else message.step for message in board.sent["paddle"]]  # type: ignore[union-attr]
    assert order == [0, 1, 2, "load", 3, 4, 5, "load", 6]
    assert not any(isinstance(message, LoadState) for message in board.sent["torch"])


@pytest.mark.parametrize("fault", [WorkerFailure("the paddle worker died"), ProtocolError("the paddle worker lied")])
def test_all_pairs_that_came_before_a_fault_are_compared_before_it_is_raised(fault: Exception) -> None:
    board = ListBoard()
    answer = board.next
    answers = 0

    def fail_later(*arguments: Any) -> tuple[str, Message]:
        nonlocal answers
        answers += 1
        if answers > 7:
            raise fault
        return answer(*arguments)

    board.next = fail_later  # type: ignore[method-assign]
    compared: list[int] = []

    def compare(pair: StepPair) -> None:
        time.sleep(0.02)
        compared.append(pair.step)

    with pytest.raises(type(fault), match="the paddle worker"):
        drive(board, 8, compare)
    assert compared == list(range(len(compared))) and len(compared) >= 2


def test_an_unasked_state_answer_is_refused() -> None:
    board = ListBoard()
    board.next = lambda *_: ("torch", StateLoaded())  # type: ignore[method-assign]
    with pytest.raises(ProtocolError, match="the torch worker sent StateLoaded out of turn"):
        drive(board)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    board = ListBoard()
    result = StepResult(0, [0.1], np.ones(3), "d", {}, (), 0.0)
    board.next = lambda *_: ("torch", result)  # type: ignore[method-assign]
    with pytest.raises(
        ProtocolError, match=r"the torch worker sent a loss of shape \[3\] at step 0, expected a scalar"
    ):
        drive(board)
