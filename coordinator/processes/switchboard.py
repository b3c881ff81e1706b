"""One poll over the workers' messages, their process handles and a deadline; a dead or hung worker is an error at once.

A SIGKILLed peer leaves a ZeroMQ socket silent for ever, so each process handle is polled beside it. What a worker sent
before it died is read first: its own last word says more than its exit code. A worker's journal is read in front of
each of its messages, when nothing comes, and before a fault is told.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from pathlib import Path
from typing import (
    Callable,
    Collection,
    Deque,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Protocol,
    Tuple,
    Type,
    TypeVar,
    Union,
    cast,
)

import numpy as np
import zmq

from stepalign.coordinator.processes.machine_trouble import thread_hint
from stepalign.coordinator.processes.private_folder import SOCKET_NAME
from stepalign.coordinator.processes.worker import Worker
from stepalign.protocol import messages
from stepalign.protocol.errors import (
    CaseError,
    DeadlineExceeded,
    EnvironmentFailure,
    ProtocolError,
    StepalignError,
    WorkerFailure,
)
from stepalign.protocol.framing import decode
from stepalign.protocol.journal import JournalReader
from stepalign.protocol.memory import Memory
from stepalign.protocol.messages import Message
from stepalign.protocol.sockets import MAX_FRAME_SIZE_BYTES, bind_router, ipc_endpoint, receive_from, send

M = TypeVar("M")
_TICK_S = 0.1
_LAST_WORD_S = 0.1
"""How long a dead worker's last messages may take from the kernel's buffers to us."""

_MAX_WAITING = 64
"""Messages taken in at once; an honest worker has far fewer under way, a babbling one is not listened to for ever."""

_AFTER_CONNECTION_S = 5.0
"""How long a worker may run on without its connection: one that ends closes it first."""

_EXIT_MISSING_PACKAGE = 78

_HINTS = {-signal.SIGKILL: " (where nobody killed it, the machine ran out of memory: `dmesg` has the kernel's word)"}
"""What an exit code alone does not say."""

_STATES = {"T": ", stopped by a signal (SIGSTOP)", "D": ", waiting inside the kernel (a disk, a driver)"}
"""What the kernel's letter for a process's state says of one that hangs and cannot tell its stacks."""


class Interrupted(StepalignError):
    """The user asked to stop."""

    exit_code = 130


class Answering(Protocol):
    """What answers in a worker's place, at once: a recorded side."""

    def answer(self, message: Message) -> Optional[Message]:
        """Return the answer to a message, or None where there is none to give."""


class Switchboard:
    """The coordinator's end of all conversations of one run."""

    def __init__(self, private: Path, on_tick: Callable[[], None]) -> None:
        self.endpoint = ipc_endpoint(str(private / SOCKET_NAME))
        self._context: "zmq.Context[zmq.Socket[bytes]]" = zmq.Context()
        self._router = bind_router(self._context, self.endpoint)
        self._ends = self._router.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._ended_at: Optional[float] = None
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._workers: Dict[str, Worker] = {}
        self._memories: Dict[str, Optional[Memory]] = {}
        self._journals: Dict[str, JournalReader] = {}
        self._received: Dict[str, int] = {}
        self._recorded: Dict[str, Answering] = {}
        self._inbox: Deque[Tuple[str, Union[Message, StepalignError]]] = deque()
        self._on_tick = on_tick

    def add(self, worker: Worker) -> None:
        """Listen to a worker from here on."""
        self._workers[worker.spec.role] = worker
        self._memories[worker.spec.role] = worker.memory
        self._received[worker.spec.role] = 0
        if worker.journal is not None:
            self._journals[worker.spec.role] = worker.journal
        self._poller.register(worker.pidfd, zmq.POLLIN)

    def add_recorded(self, role: str, recorded: Answering) -> None:
        """Have a recorded side answer for ``role``."""
        self._recorded[role] = recorded

    def is_recorded(self, role: str) -> bool:
        """Say whether ``role`` is a recorded side."""
        return role in self._recorded

    @property
    def roles(self) -> Tuple[str, ...]:
        return (*self._workers, *self._recorded)

    def stop_ticking(self) -> None:
        """Call ``on_tick`` no more: the interruption that it told of is being dealt with."""
        self._on_tick = lambda: None

    def close(self) -> None:
        """Close the sockets; nothing is waited for."""
        self._context.destroy(linger=0)
        self._inbox.clear()
        self._memories.clear()
        self._journals.clear()

    def send(self, role: str, message: Message) -> None:
        """Send one message to one worker; to one that died, nothing: `poll` tells of its death, after what it had said."""
        if role in self._recorded:
            for each in message.each() if isinstance(message, messages.Batches) else (message,):
                answer = self._recorded[role].answer(each)
                if answer is not None:
                    self._inbox.append((role, answer))
            return
        try:
            send(self._router, message, role, self._memories.get(role))
        except zmq.ZMQError as error:
            worker = self._workers[role]
            if worker.wait(1.0):
                return
            status = worker.status()
            where = status.phase + ("" if status.step is None else f" of step {status.step}")
            failure = WorkerFailure(
                f"the {role} worker cannot be reached, yet runs on: {error}. It is in phase {where}. "
                f"A script may close only the files that it opened"
            )
            raise note_fault(failure, role, status.phase, status.step) from None

    def room_bytes(self, role: str) -> Optional[int]:
        """Return how much room is left in the memory that a worker shares, its fragments together; None without any."""
        memory = self._memories.get(role)
        return None if memory is None else memory.window.size_bytes - memory.window.in_use_bytes()

    def give_pages_back(self) -> None:
        """Take all shared memory out of this process's resident set; it is read in again where it is needed."""
        for memory in list(self._memories.values()):
            if memory is not None:
                memory.window.drop_resident()
                memory.arena.drop_resident()

    def room(self, role: str, shape: Tuple[int, ...], dtype: str) -> np.ndarray:
        """Return an array of zeros to be filled and sent to a worker: in the memory shared with it, where that has room."""
        memory = self._memories.get(role)
        array = None if memory is None else memory.arena.room(shape, dtype)
        if array is None:
            return np.zeros(shape, dtype)
        array.fill(0)
        return array

    def greet(self, timeout_s: float) -> None:
        """Wait until every worker has said who it is; raises if one is not what it was started as."""
        for role, hello in self.gather(self._workers, messages.Hello, timeout_s, "start").items():
            worker = self._workers[role]
            if hello.role != role or hello.framework != worker.spec.framework or worker.pid not in (None, hello.pid):
                error = ProtocolError(
                    f"the {role} worker (pid {worker.pid}) introduced itself as {hello.role} for {hello.framework}, pid {hello.pid}"
                )
                raise note_fault(error, role, "start", None)

    def ask(
        self,
        requests: Mapping[str, Message],
        expected: Type[M],
        timeout_s: float,
        phase: str,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Dict[str, M]:
        """Send each worker its request at once and return all answers; ``meanwhile`` is called once the first has come."""
        for role, message in requests.items():
            self.send(role, message)
        return self.gather(requests, expected, timeout_s, phase, meanwhile)

    def gather(
        self,
        roles: Iterable[str],
        expected: Type[M],
        timeout_s: float,
        phase: str,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Dict[str, M]:
        """Wait for one ``expected`` message of each role; ``meanwhile`` is called once the first has come."""
        missing = list(roles)
        found: Dict[str, M] = {}
        deadline = time.monotonic() + timeout_s
        while missing:
            role, message = self.next(deadline, missing, phase)
            if role not in missing or not isinstance(message, expected):
                wanted = expected.__name__ if role in missing else "nothing more"
                error = ProtocolError(f"the {role} worker sent {type(message).__name__} in phase {phase}, expected {wanted}")
                raise note_fault(error, role, phase, None)
            missing.remove(role)
            found[role] = message
            if len(found) == 1:
                meanwhile()
        return found

    def next(self, deadline: float, waited_for: Iterable[str], phase: str) -> Tuple[str, Message]:
        """Return the next message of any worker; raises DeadlineExceeded, WorkerFailure, or what a worker reports."""
        waited_for = list(waited_for)
        while True:
            message = self.poll(min(_TICK_S, max(0.0, deadline - time.monotonic())))
            if message is not None:
                return message
            if self._is_cut_off():
                raise self._cut_off(waited_for)
            if time.monotonic() >= deadline:
                raise self._hung(waited_for, phase)

    def poll(self, timeout_s: float) -> Optional[Tuple[str, Message]]:
        """Return a message that came within ``timeout_s``, or None. What came before a fault is given before it is
        raised.
        """
        if self._inbox:
            return self._take()
        events = dict(self._poller.poll(int(timeout_s * 1000)))
        self._on_tick()
        self._drain()
        if self._inbox:
            return self._take()
        dead = [role for role, worker in self._workers.items() if worker.pidfd in events]
        if dead:
            self._drain(_LAST_WORD_S)
        self._read_journals(dead)
        if self._inbox:
            return self._take()
        if dead:
            self._raise_if_dead(dead)
        return None

    def taken_in(self) -> Optional[Tuple[str, Message]]:
        """Return a message that came with another one, or None: nothing is looked for."""
        return self._take() if self._inbox else None

    def _take(self) -> Tuple[str, Message]:
        role, message = self._inbox.popleft()
        if isinstance(message, StepalignError):
            raise message
        return role, message

    def _drain(self, patience_s: float = 0.0) -> None:
        """Take in what came; with ``patience_s``, until nothing more has come for so long."""
        while len(self._inbox) < _MAX_WAITING and self._has_message(patience_s):
            role, message = receive_from(self._router, self._memories)
            if role not in self._workers:
                continue
            if isinstance(message, (ProtocolError, messages.Failed)):
                self._read_journals()  # what all have done by now is not lost by the fault of one
            else:
                self._read_journal(role)
            self._received[role] += 1
            self._admit(role, message)

    def _admit(self, role: str, message: Union[Message, ProtocolError]) -> None:
        if isinstance(message, ProtocolError):
            error = ProtocolError(f"the {role} worker broke the protocol: {message}")
            self._inbox.append((role, note_fault(error, role, *self._whereabouts(role))))
        elif isinstance(message, messages.Failed):
            self._inbox.append((role, self._as_error(role, message)))
        else:
            self._inbox.append((role, message))

    def _read_journals(self, dead: Collection[str] = ()) -> None:
        """Take in what all journals hold; of the dead, also what came after a message that is lost."""
        for role in self._journals:
            self._read_journal(role, role in dead)

    def _read_journal(self, role: str, dead: bool = False) -> None:
        """Take in what a worker wrote into its journal before it sent anything that has not come yet."""
        if role not in self._journals:
            return
        try:
            for frames in self._journals[role].take(None if dead else self._received[role]):
                message = decode(frames, self._memories.get(role))
                if not isinstance(message, messages.StepResult):
                    raise ProtocolError(f"{type(message).__name__} came by the journal, which takes results of steps alone")
                self._admit(role, message)
        except ProtocolError as error:
            self._admit(role, error)

    def _has_message(self, patience_s: float) -> bool:
        if cast(int, self._router.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            return True
        return patience_s > 0 and bool(self._router.poll(int(patience_s * 1000), zmq.POLLIN))

    def _whereabouts(self, role: str) -> Tuple[str, Optional[int]]:
        status = self._workers[role].status()
        return status.phase, status.step

    def _as_error(self, role: str, failed: messages.Failed) -> StepalignError:
        where = f"the {role} side failed in phase {failed.phase}" + (
            "" if failed.step is None else f" of step {failed.step}"
        )
        kind = {"case": CaseError, "environment": EnvironmentFailure, "protocol": ProtocolError}.get(
            failed.turn, WorkerFailure
        )
        traceback = f"\n{failed.traceback.rstrip()}" if failed.traceback else ""
        error = kind(f"{where}: {failed.message}{thread_hint(failed.message)}{traceback}")
        return note_fault(error, role, failed.phase, failed.step)

    def _raise_if_dead(self, roles: Iterable[str]) -> None:
        for role in roles:
            worker = self._workers[role]
            worker.wait(1.0)
            code = worker.exit_code()
            if code is None:
                continue
            self._drain(_LAST_WORD_S)
            last_word = next((item for name, item in self._inbox if name == role and isinstance(item, StepalignError)), None)
            if last_word is not None:
                raise last_word
            status = worker.status()
            tail = worker.log_tail()
            if code == _EXIT_MISSING_PACKAGE:
                raise note_fault(EnvironmentFailure(tail), role, status.phase, None)
            where = f"in phase {status.phase}" + ("" if status.step is None else f" of step {status.step}")
            message = f"the {role} worker died {where}: {worker.describe_end()}{_HINTS.get(code, '') or thread_hint(tail)}"
            if worker.spec.command is not None and status.phase == "start":
                message = (
                    f"the {role} command ended before it called attach(): {worker.describe_end()}; "
                    f"its script needs `from stepalign.workers import attach` and `client = attach()`"
                )
            if tail:
                message += f"\nthe end of {worker.spec.log.name}:\n{tail}"
            raise note_fault(WorkerFailure(message), role, status.phase, status.step, worker.describe_end())

    def _is_cut_off(self) -> bool:
        """Say whether a connection ended some seconds ago, and nothing has come since, neither messages nor an end."""
        if self._ended_at is None and self._ends.poll(0):
            self._ended_at = time.monotonic()
        return self._ended_at is not None and time.monotonic() > self._ended_at + _AFTER_CONNECTION_S

    def _cut_off(self, waited_for: List[str]) -> StepalignError:
        role = next((role for role in waited_for if role in self._workers), "")
        phase, step = self._whereabouts(role) if role else ("", None)
        return note_fault(
            ProtocolError(
                f"the {role} worker's connection ended, yet it runs on: it closed it, or sent a frame of more than "
                f"{MAX_FRAME_SIZE_BYTES >> 20} MiB, which is refused unread"
            ),
            role,
            phase,
            step,
        )

    def _hung(self, waited_for: List[str], phase: str) -> StepalignError:
        for role in waited_for:
            worker = self._workers[role]
            if worker.exit_code() is None:
                status = worker.status()
                stacks = worker.dump_stacks()
                where = ("" if status.step is None else f" of step {status.step}") + _STATES.get(worker.state(), "")
                message = (
                    f"the {role} worker gave no answer in time: it is in phase {status.phase}{where}. "
                    f"If it only needs longer, raise the time in [deadline] of case.toml"
                )
                if stacks:
                    message += f"\nwhat it is doing:\n{stacks.rstrip()}"
                return note_fault(DeadlineExceeded(message), role, status.phase, status.step)
        return DeadlineExceeded(f"no answer came in phase {phase}")


def note_fault(
    error: StepalignError, side: str, phase: str, step: Optional[int], ended_by: Optional[str] = None
) -> StepalignError:
    """Attach where an error happened, for result.json; return the error."""
    error.fault = {"side": side, "phase": phase, "step": step, "signal": ended_by}  # type: ignore[attr-defined]
    return error
