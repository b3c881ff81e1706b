"""What lockstep sends, when and to whom: the policy alone, on a switchboard made of lists."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

import numpy as np
import pytest

from stepalign.coordinator.sessions import pace
from stepalign.coordinator.sessions.lockstep import (
    BATCHES_AHEAD,
    LEAD_SIZE_BYTES,
    MAX_LEAD,
    TOGETHER_SIZE_BYTES,
    Lockstep,
)
from stepalign.coordinator.sessions.step_plan import Keeping, StepPair, StepPlan
from stepalign.protocol.errors import ProtocolError, WorkerFailure
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


def test_a_worker_has_its_next_message_while_it_works_whatever_the_pace_has_become(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credit counts messages: counted in steps at the newest pace, a pace that falls left workers waiting at every second one."""

    class Changing(pace.Pace):
        """Asks for eight steps and for four in turns."""

        messages = 0

        def asked(self, first: int, count: int, now_s: float) -> None:
            self.messages += 1
            super().asked(first, count, now_s)

        @property  # type: ignore[override]
        def together(self) -> int:
            return 4 if self.messages % 2 else 8

        @together.setter
        def together(self, value: int) -> None: ...

    monkeypatch.setattr("stepalign.coordinator.sessions.lockstep.Pace", Changing)
    board = ListBoard()
    waiting = []
    answer = board.next

    def next_one(*arguments: Any) -> tuple[str, Message]:
        for role in ("torch", "paddle"):
            ends = np.cumsum(board.together[role])
            answered = sum(name == role for name, _ in board.answered)
            waiting.append(int((ends > answered).sum()) if ends[-1] < 300 else BATCHES_AHEAD)
        return answer(*arguments)

    board.next = next_one  # type: ignore[method-assign]
    drive(board, 300)
    assert {4, 8} <= set(board.together["torch"])
    assert set(waiting) == {BATCHES_AHEAD}


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
