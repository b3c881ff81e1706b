"""Drives two workers step by step: batches ahead, results behind, comparing beside.

Results are matched by step; neither worker waits for the other's arithmetic. What bounds memory is credit, in steps and in
bytes: a worker is sent at most `BATCHES_AHEAD` batches that it has not answered, never more than `MAX_LEAD` steps beyond
what was compared, and more than one step beyond it only while all of them together stay below `LEAD_SIZE_BYTES`. A step
whose tensors would not find room in the memory that the worker shares waits until what is there was compared; a step that
nothing is ahead of is never held back. Short steps of which little is collected are asked for several by one message
(`pace`); credit is counted in such messages then, however many steps each asks for. Each is answered, judged and bound to
its deadline by itself.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import lru_cache
from typing import Callable, Deque, Dict, List, Optional, Set, Tuple

from stepalign.coordinator.processes.switchboard import Interrupted, Switchboard, note_fault
from stepalign.coordinator.sessions.comparing_thread import ComparingThread
from stepalign.coordinator.sessions.pace import Pace
from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan
from stepalign.protocol.errors import DeadlineExceeded, ProtocolError, StepalignError, WorkerFailure
from stepalign.protocol.messages import (
    Batch,
    Batches,
    Checkpoint,
    LoadState,
    Message,
    Named,
    SendCheckpoint,
    StateLoaded,
    StepResult,
)

BATCHES_AHEAD = 2
MAX_LEAD = 4
LEAD_SIZE_BYTES = 512 << 20
TOGETHER_SIZE_BYTES = 1 << 20
"""Of batches that are sent, and of tensors that are collected, by one message."""

_KINDS_KEPT = 1024
_TICK_S = 0.1
WIND_DOWN_S = 5.0
"""How long an interrupted run may go on to finish the steps under way and to keep its state."""

_MAY_BE_ABSENT = frozenset({"used_gradient"})
"""Kinds that a worker leaves out where they say no more than another one."""


class Lockstep:
    """One drive of two workers through a plan. ``reference`` and ``candidate`` are the workers' roles."""

    def __init__(
        self,
        switchboard: Switchboard,
        reference: str,
        candidate: str,
        batch: Callable[[int], Tuple[Named, str]],
        step_timeout_s: float,
        carry_state: Optional[Callable[[StepResult], LoadState]] = None,
        step_size_bytes: Callable[[str, Tuple[str, ...]], int] = lambda role, kinds: 0,
    ) -> None:
        self._switchboard = switchboard
        self._roles = (reference, candidate)
        self._batch = batch
        self._step_timeout_s = step_timeout_s
        self._carry_state = carry_state
        self._step_size_bytes = step_size_bytes
        self._sent: Dict[str, int] = {}
        self._answered: Dict[str, int] = {}
        self._results: Dict[int, Dict[str, StepResult]] = {}
        self._busy_since: Dict[str, float] = {}
        self._paces = {role: Pace() for role in self._roles}
        self._states: Dict[int, LoadState] = {}
        self._loading = 0
        self._last_sent: Dict[str, Named] = {}
        self._digests: Dict[int, str] = {}
        self._compared: Deque["Future[None]"] = deque()
        self._done = 0
        self._kept_before: Set[int] = set()
        self._asked: Set[Tuple[str, int]] = set()
        self._kept: Dict[int, Dict[str, Checkpoint]] = {}

    def run(self, plan: StepPlan, on_pair: Callable[[StepPair], None]) -> None:
        """Run the plan; ``on_pair`` is called once for each step, in order, on a thread of its own.

        Everything that came in pairs is given to ``on_pair`` even if a worker fails; then the failure is raised.
        """
        plan = replace(plan, kinds=lru_cache(_KINDS_KEPT)(plan.kinds))
        self._sent = dict.fromkeys(self._roles, plan.first)
        self._answered = dict.fromkeys(self._roles, plan.first)
        self._done = plan.first
        self._last_sent = {}
        self._digests = {}
        with ThreadPoolExecutor(1, thread_name_prefix="stepalign-compare") as pool:
            pool.submit(int)  # its thread is there from now on, not from the first pair or state that comes to it
            beside = ComparingThread(pool, self._compared, on_pair, plan.keeping)
            try:
                self._drive(plan, beside)
            except Interrupted:
                self._wind_down(plan, beside)
                raise
            self._collect_compared(wait=True)

    def _drive(self, plan: StepPlan, beside: ComparingThread, until: Optional[float] = None) -> None:
        while self._done < plan.last:
            self._collect_compared()
            beside.collect_kept()
            for role in self._roles:
                self._send_ahead(role, plan)
            self._receive(plan, beside, until)

    def _wind_down(self, plan: StepPlan, beside: ComparingThread) -> None:
        """Keep both sides' state where they can be brought to one step in time, and run one more step to prove it by; else
        take what came.
        """
        target = max(self._sent.values())
        self._switchboard.stop_ticking()
        try:
            if plan.keeping is None or target in (plan.first, plan.last) or not plan.keeping.due(True):
                self._take_what_came(plan, beside)
                return
            self._kept_before.add(target)
            self._drive(replace(plan, last=target + 1, keeping=None), beside, time.monotonic() + WIND_DOWN_S)
            self._collect_compared(wait=True)
        except StepalignError:
            return  # why it was interrupted is what counts

    def _take_what_came(self, plan: StepPlan, beside: ComparingThread) -> None:
        while (found := self._switchboard.poll(0)) is not None:
            self._take(*found, plan, beside)

    def _collect_compared(self, wait: bool = False) -> None:
        while self._compared and (wait or self._compared[0].done()):
            self._compared.popleft().result()

    def _send_ahead(self, role: str, plan: StepPlan) -> None:
        while self._sent[role] < plan.last:
            step, together = self._sent[role], self._together(role)
            if not self._has_credit(role, plan) or not self._resynchronised(role, step, plan):
                return
            now = time.monotonic()
            if self._quiet(role):
                self._busy_since[role] = now
            self._ask_for_state(role, step, plan)
            batches = self._next_batches(role, step, self._end_of_message(role, step, together, plan))
            kinds, activations = plan.kinds(step), plan.activations(step)
            if len(batches) == 1:
                arrays = batches[0]
                self._switchboard.send(role, Batch(step, arrays or {}, kinds, activations, arrays is None))
            else:
                self._switchboard.send(role, Batches(step, batches, kinds, activations))
            self._sent[role] += len(batches)
            self._paces[role].asked(step, len(batches), now)

    def _together(self, role: str) -> int:
        """Return how many steps to ask for by one message. A recorded side, which answers at once, keeps to the live one's
        pace: it would lead by so many steps that both are hardly ever at one step to keep their state.
        """
        paces = [pace for each, pace in self._paces.items() if not self._switchboard.is_recorded(each)]
        return paces[0].together if self._switchboard.is_recorded(role) and paces else self._paces[role].together

    def _end_of_message(self, role: str, step: int, together: int, plan: StepPlan) -> int:
        """Return the step before which one message ends: where another is to come between, or other things are collected."""
        kinds = plan.kinds(step)
        size_bytes = self._step_size_bytes(role, kinds)
        if size_bytes * together > TOGETHER_SIZE_BYTES or "activation" in kinds:
            return step + 1
        end = min(step + together, plan.last, *(kept for kept in self._kept_before if kept > step))
        if plan.resync and role == self._roles[1]:
            end = min(end, step - step % plan.resync + plan.resync)
        return next((number for number in range(step + 1, end) if plan.kinds(number) != kinds), end)

    def _next_batches(self, role: str, step: int, end: int) -> List[Optional[Named]]:
        """Return the batches of steps from ``step`` to ``end`` (exclusive) as far as they are small together, one at least;
        None for one that is the same as the one before.
        """
        batches: List[Optional[Named]] = []
        size_bytes = 0
        for number in range(step, end):
            arrays, digest = self._batch(number)
            again = self._last_sent.get(role) is arrays
            size_bytes += 0 if again else sum(array.nbytes for array in arrays.values())
            if batches and size_bytes > TOGETHER_SIZE_BYTES:
                break
            self._digests[number] = digest
            self._last_sent[role] = arrays
            batches.append(None if again else arrays)
        return batches

    def _has_credit(self, role: str, plan: StepPlan) -> bool:
        """Say whether a worker may be sent one more message."""
        step, answered, compared = self._sent[role], self._answered[role], self._done - len(self._compared)
        if step == compared:
            return True
        pace = self._paces[role]
        if pace.unanswered >= BATCHES_AHEAD or pace.ahead_of(compared) >= MAX_LEAD:
            return False
        sizes = {number: self._step_size_bytes(role, plan.kinds(number)) for number in range(compared, step + 1)}
        to_come = sum(size for number, size in sizes.items() if number >= answered)
        room = self._switchboard.room_bytes(role)
        if room is not None and to_come > room:
            return False
        return step == compared + 1 or sum(sizes.values()) <= LEAD_SIZE_BYTES

    def _ask_for_state(self, role: str, step: int, plan: StepPlan) -> None:
        """Before a step, ask for the state that it starts from, of both sides or of none: the first to come decides."""
        leads = step > plan.first and step == max(self._sent.values())
        if plan.keeping is not None and leads and not self._kept_before and plan.keeping.due(False):
            self._kept_before.add(step)
        if step in self._kept_before and (role, step) not in self._asked:
            self._asked.add((role, step))
            self._switchboard.send(role, SendCheckpoint())

    def _take_state(self, role: str, state: Checkpoint, beside: ComparingThread) -> None:
        step = self._answered[role]
        if (role, step) not in self._asked:
            raise _out_of_turn(role, state)
        self._asked.discard((role, step))
        states = self._kept.setdefault(step, {})
        states[role] = state
        if len(states) == len(self._roles):
            self._kept_before.discard(step)
            beside.keep(step, self._kept.pop(step))

    def _resynchronised(self, role: str, step: int, plan: StepPlan) -> bool:
        """Before a step that both sides start from the reference's state: send it to the candidate; False if not here
        yet.
        """
        if not plan.resync or step == plan.first or step % plan.resync or role != self._roles[1]:
            return True
        if step - 1 not in self._states or self._answered[role] < step:
            return False
        self._switchboard.send(role, self._states.pop(step - 1))
        self._loading += 1
        return True

    def _quiet(self, role: str) -> bool:
        return self._sent[role] == self._answered[role]

    def _receive(self, plan: StepPlan, beside: ComparingThread, until: Optional[float]) -> None:
        waiting = [role for role in self._roles if not self._quiet(role)]
        if not waiting:
            wait(list(self._compared)[:1], _TICK_S)
            unasked = self._switchboard.poll(0)
            if unasked is not None:
                raise _out_of_turn(*unasked)
            return
        deadline = min(self._busy_since[role] for role in waiting) + self._step_timeout_s
        if until is not None and time.monotonic() >= until:
            raise DeadlineExceeded("the steps under way take longer than an interruption may")
        self._take(*self._switchboard.next(min(deadline, until or deadline), waiting, "step"), plan, beside)
        while self._done < plan.last and (found := self._switchboard.taken_in()) is not None:
            self._take(*found, plan, beside)

    def _take(self, role: str, message: Message, plan: StepPlan, beside: ComparingThread) -> None:
        """Take one message of a worker; raises what is wrong with it."""
        if isinstance(message, Checkpoint):
            self._take_state(role, message, beside)
            return
        if isinstance(message, StateLoaded) and self._loading and role == self._roles[1]:
            self._loading -= 1
            return
        if not isinstance(message, StepResult) or self._quiet(role):
            raise _out_of_turn(role, message)
        _check_result(role, message, self._answered[role], plan.kinds(self._answered[role]))
        if message.other_frameworks_loaded:
            raise note_fault(
                WorkerFailure(
                    f"the {role} worker has come to hold {', '.join(message.other_frameworks_loaded)} by step {message.step}: "
                    "each side is one framework alone in its process"
                ),
                role,
                "step",
                message.step,
            )
        self._answered[role] += 1
        self._busy_since[role] = now = time.monotonic()
        self._paces[role].answered(self._answered[role], now)
        if (
            plan.resync
            and role == self._roles[0]
            and self._carry_state
            and (message.step + 1) % plan.resync == 0
        ):
            self._states[message.step] = self._carry_state(message)
        pair = self._results.setdefault(message.step, {})
        pair[role] = message
        if len(pair) == len(self._roles):
            del self._results[message.step]
            self._done += 1
            digest = self._digests.pop(message.step)
            beside.compare(StepPair(message.step, pair[self._roles[0]], pair[self._roles[1]], digest))


def _out_of_turn(role: str, message: Message) -> Exception:
    step = getattr(message, "step", None)
    what = type(message).__name__ + ("" if step is None else f" of step {step}")
    return note_fault(ProtocolError(f"the {role} worker sent {what} out of turn"), role, "step", step)


def _check_result(role: str, result: StepResult, step: int, kinds: Tuple[str, ...]) -> None:
    """Raise ProtocolError unless ``result`` is that of ``step`` and has all that was asked for."""
    problem = ""
    missing = [kind for kind in kinds if kind not in result.tensors and kind not in _MAY_BE_ABSENT]
    if result.step != step:
        problem = f"sent a result of step {result.step}, expected step {step}"
    elif missing:
        problem = f"sent a result of step {step} without {', '.join(missing)}, which it was asked for"
    elif result.loss.shape:
        problem = f"sent a loss of shape {list(result.loss.shape)} at step {step}, expected a scalar"
    if problem:
        raise note_fault(ProtocolError(f"the {role} worker {problem}"), role, "step", step)
