"""One conversation with two workers, from their start to their end: start, configure, match names, exchange weights,
step.

Whatever happens inside, `Session` leaves no process, socket or private folder behind.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Callable, Dict, Iterable, Iterator, List, Literal, Mapping, Optional, Tuple, Type

import numpy as np

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.case import Case, WeightsSection
from stepalign.coordinator.cases.collection import step_size_bytes
from stepalign.coordinator.cases.weights_file import read_weights_file
from stepalign.coordinator.comparison.gradient_regimes import losses
from stepalign.coordinator.devices.cores import available_cores
from stepalign.coordinator.processes.machine_trouble import require_open_files, require_threads
from stepalign.coordinator.processes.payload import write_payload
from stepalign.coordinator.processes.private_folder import PrivateFolder
from stepalign.coordinator.processes.remote_link import RemoteLink
from stepalign.coordinator.processes.stopping import stop_workers
from stepalign.coordinator.processes.switchboard import Switchboard, note_fault
from stepalign.coordinator.processes.worker import Worker
from stepalign.coordinator.processes.worker_process import WorkerProcess, WorkerSpec
from stepalign.coordinator.recordings.playback import Playback
from stepalign.coordinator.recordings.recording import Recording
from stepalign.coordinator.sessions.dropout_places import shared_places
from stepalign.coordinator.sessions.lockstep import Lockstep
from stepalign.coordinator.sessions.naming import NameMap, match_names
from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan
from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, WorkerFailure
from stepalign.protocol.messages import Named
from stepalign.protocol.script import PAYLOAD_NAME
from stepalign.protocol.specs import Declaration
from stepalign.protocol.status import Status

Task = Literal["train", "schedule", "optimizer", "construction"]


@dataclass(frozen=True)
class Member:
    """One worker of a session. ``side`` says whose script and framework it runs; ``role`` is its own name.

    Where there is a ``recording`` nothing is started: the recorded side answers.
    ``link`` is the way to its machine where that is not this one.
    """

    role: str
    side: str
    spec: WorkerSpec
    device: str
    threads: int
    jitter: bool = False
    recording: Optional[Recording] = None
    link: Optional[RemoteLink] = None


class Session:
    """Two workers of one case: ``members[0]`` is the reference, ``members[1]`` the candidate; or one side's alone."""

    def __init__(
        self, case: Case, members: Tuple[Member, ...], task: Task, on_tick: Callable[[], None]
    ) -> None:
        self._case = case
        self._members = members
        self._task = task
        self._on_tick = on_tick
        self._workers: List[Worker] = []
        self._open = threading.Lock()
        self._switchboard: Optional[Switchboard] = None
        self._private: Optional[PrivateFolder] = None
        self._meanwhile: Callable[[], None] = lambda: None
        self._built: Dict[str, Named] = {}
        """By role, the weights that came with what a side declared, until they are asked for or others are loaded."""
        self.endings: Tuple[str, ...] = ()
        """Once all is over: which workers did not end as they were asked to, though nothing was wanted of them any more."""
        self.facts: Dict[str, messages.WorkerFacts] = {}
        self.declarations: Dict[str, Declaration] = {}
        self.names: NameMap = NameMap((), ())
        self.replaced: Dict[str, Named] = {}
        """By role, what a side itself had built of buffers that other values were loaded over, where it was asked."""

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            asked = self._switchboard if error is None else None
            stop_workers(self._workers, asked, self._case.file.deadline.stop_s, self._on_tick)
            self.endings = tuple(_unasked_ends(self._workers)) if error is None else ()
        finally:
            with self._open:
                ended, self._workers = self._workers, []
            for worker in ended:
                worker.close()
            if self._switchboard is not None:
                self._switchboard.close()
            if self._private is not None:
                self._private.remove()

    @property
    def switchboard(self) -> Switchboard:
        assert self._switchboard is not None, "the session was not started"
        return self._switchboard

    def states(self) -> Dict[str, Status]:
        """Return where each running worker stands, by role; may be asked from any thread, after the end too."""
        with self._open:
            return {worker.spec.role: worker.status() for worker in self._workers}

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start both workers and have each say who it is.

        ``meanwhile`` is called while they have to be waited for: at once where there is a core for it beside theirs, or else
        when the first has built, whose core it may have. All that it does has to be done without it too.
        """
        require_open_files()
        require_threads()
        self._private = PrivateFolder()
        private = self._private.path
        payload = private / PAYLOAD_NAME
        write_payload(payload)
        self._switchboard = Switchboard(private, self._on_tick)
        for member in self._members:
            if member.recording is not None:
                self._switchboard.add_recorded(member.role, Playback(member.recording, member.jitter))
                continue
            endpoint = self._switchboard.endpoint
            worker: Worker = (
                WorkerProcess(member.spec, payload, endpoint, private)
                if member.link is None
                else member.link.launch(member.side, member.spec, endpoint)
            )
            self._workers.append(worker)
            self._switchboard.add(worker)
        if len(available_cores()) > len(self._workers):
            meanwhile()
        else:
            self._meanwhile = meanwhile
        deadline = self._case.file.deadline
        self._switchboard.greet(deadline.build_s if self._runs_commands else deadline.start_s)

    def build(self) -> None:
        """Have both sides import their framework and build their training; match their tensors by name."""
        self.build_sides()
        self.names = self._match()
        if self._case.file.compare.dropout == "shared":
            self._share_dropout()
        self._forget_names()

    def build_sides(self) -> None:
        """Have all members import their framework and build their training."""
        requests = {member.role: self._configuration(member) for member in self._members}
        build_s, meanwhile = self._case.file.deadline.build_s, self._postponed()
        ready = self.switchboard.ask(requests, messages.Ready, build_s, "build", meanwhile)
        for member in self._members:
            answer = ready[member.role]
            self._take_facts(member, answer.facts)
            self.declarations[member.role] = answer.declaration
            if answer.weights:
                self._built[member.role] = answer.weights

    def build_schedules(self) -> Dict[str, messages.ScheduleReady]:
        """Have both sides build their optimizer and scheduler alone; after a training, in the same processes."""
        requests = {member.role: self._configuration(member, "schedule") for member in self._members}
        build_s, meanwhile = self._case.file.deadline.build_s, self._postponed()
        ready = self.switchboard.ask(requests, messages.ScheduleReady, build_s, "build", meanwhile)
        for member in self._members:
            self._take_facts(member, ready[member.role].facts)
        self._forget_names()
        return ready

    def _postponed(self) -> Callable[[], None]:
        """Return what `start` left to be done beside a build, which is done once."""
        postponed, self._meanwhile = self._meanwhile, lambda: None
        return postponed

    def _forget_names(self) -> None:
        """Delete the private folder: all are connected and have imported what they need of the payload.

        A command may start further processes that import from it later.
        """
        if self._private is not None and not self._runs_commands:
            self._private.remove()

    def read_rates(self, steps: int) -> Dict[str, np.ndarray]:
        """Return each side's rates, float64 [steps, groups]; a schedule that watches the loss sees made-up losses."""
        request = messages.ReadRates(steps, losses(steps))
        answers = self.switchboard.ask(
            {member.role: request for member in self._members}, messages.Rates, self._case.file.deadline.rates_s, "rates"
        )
        return {role: answer.rates for role, answer in answers.items()}

    def read_weights(self, role: str) -> Named:
        """Return one side's parameters and persistent buffers, by its own names."""
        if role in self._built:
            return self._built.pop(role)
        answer = self.switchboard.ask({role: messages.SendWeights()}, messages.Weights, self._weights_s, "weights")
        return dict(answer[role].tensors)

    def load_weights(
        self, tensors: Mapping[str, Named], tell_replaced: Optional[Mapping[str, Tuple[str, ...]]] = None
    ) -> Dict[str, Named]:
        """Load ``role -> tensors`` and return, by role, what was read back with other bytes than were sent.

        ``tell_replaced``: buffers by role, of which `replaced` is to have what they were before.
        """
        wanted = tell_replaced or {}
        for role in tensors:
            self._built.pop(role, None)
        requests = {role: messages.LoadWeights(dict(named), wanted.get(role, ())) for role, named in tensors.items()}
        answers = self.switchboard.ask(requests, messages.WeightsLoaded, self._weights_s, "weights")
        self.replaced = {role: dict(answer.replaced) for role, answer in answers.items()}
        return {role: dict(answer.differing) for role, answer in answers.items()}

    def load_state(self, role: str, state: messages.LoadState) -> None:
        """Have one side continue from another state."""
        self.switchboard.ask({role: state}, messages.StateLoaded, self._weights_s, "weights")

    def take_checkpoints(self, roles: Iterable[str]) -> Dict[str, messages.Checkpoint]:
        """Return the state of some sides as it is now; of a side that owns its loop, that of its random numbers."""
        requests = {role: messages.SendCheckpoint() for role in roles}
        answers = self.switchboard.ask(requests, messages.Checkpoint, self._weights_s, "checkpoint")
        return dict(answers)

    def load_checkpoint(self, states: Mapping[str, messages.LoadCheckpoint]) -> str:
        """Have both sides continue from a state of theirs; return what they could not put back, empty if all is as it
        was.
        """
        answers = self.switchboard.ask(states, messages.CheckpointLoaded, self._weights_s, "weights")
        return next((f"{role}: {answer.problem}" for role, answer in answers.items() if answer.problem), "")

    def exchange_weights(self, tell_replaced: Optional[Mapping[str, Tuple[str, ...]]] = None) -> Dict[str, Named]:
        """Give both sides the case's initial weights; return, by role, all tensors as each side holds them now.

        ``tell_replaced`` as for `load_weights`.
        """
        source = self._case.file.weights.source
        reference, candidate = (member.role for member in self._members)
        if source == "none":
            return {role: self.read_weights(role) for role in (reference, candidate)}
        if source in ("torch", "paddle"):
            origin = reference if source == "torch" else candidate
            other = candidate if source == "torch" else reference
            given = self.read_weights(origin)
            carried = self._carry(source, given, other)
            differing = self.load_weights({other: carried}, tell_replaced)
            return {origin: given, other: {**carried, **differing[other]}}
        given = read_weights_file(self._case.folder / source, self.declarations[reference].tensors)
        carried = self._carry("torch", given, candidate)
        loaded = self.load_weights({reference: given, candidate: carried}, tell_replaced)
        return {reference: {**given, **loaded[reference]}, candidate: {**carried, **loaded[candidate]}}

    def step(self, plan: StepPlan, batches: BatchSource, on_pair: Callable[[StepPair], None]) -> None:
        """Run the plan's steps on both sides."""
        reference, candidate = (member.role for member in self._members)
        Lockstep(
            self.switchboard,
            reference,
            candidate,
            lambda step: (batches[step], batches.digest(step)),
            self._case.file.deadline.step_s,
            self._carry_state,
            functools.cache(lambda role, kinds: step_size_bytes(self.declarations[role], kinds)),
        ).run(plan, on_pair)

    def _carry(self, source: str, arrays: Named, target: str) -> Named:
        """Return one side's tensors in the terms of the worker ``target``, in the memory that it shares."""
        room = functools.partial(self.switchboard.room, target)
        return self.names.carry(source, arrays, self.declarations[target].tensors, room)

    def _carry_state(self, result: messages.StepResult) -> messages.LoadState:
        """Return the reference's state after a step, in the candidate's terms."""
        declaration = self.declarations[self._members[1].role]
        tensors = {**result.tensors.get("parameter", {}), **result.tensors.get("buffer", {})}
        state: Named = {}
        by_slot: Dict[str, Named] = {}
        for name, array in result.tensors.get("optimizer_state", {}).items():
            tensor, _, slot = name.rpartition("/")
            by_slot.setdefault(slot, {})[tensor] = array
        for slot, arrays in by_slot.items():
            for piece in self.names.pieces:
                if piece.torch.tensor not in arrays:
                    continue
                value, name = arrays[piece.torch.tensor], f"{piece.paddle.tensor}/{slot}"
                if value.ndim == 0:
                    state[name] = value
                    continue
                spec = next(item for item in declaration.tensors if item.name == piece.paddle.tensor)
                state.setdefault(name, np.zeros(spec.shape, value.dtype))
                piece.paddle.write(state[name], piece.torch.read(value))
        return messages.LoadState(self._carry("torch", tensors, self._members[1].role), state)

    @property
    def _runs_commands(self) -> bool:
        return any(member.spec.command is not None for member in self._members)

    @property
    def _weights_s(self) -> float:
        return self._case.file.deadline.weights_s

    def _configuration(self, member: Member, task: Optional[Task] = None) -> messages.Configure:
        file, task = self._case.file, task or self._task
        return messages.Configure(
            task=task,
            name=file.name,
            folder=str(self._case.folder),
            script="" if member.spec.command is not None else str(self._case.script(member.side)),
            steps=file.schedule.steps if task == "schedule" else file.steps,
            mode=file.mode,
            dtype=file.dtype,
            seed=file.seed,
            device=member.device,
            threads=member.threads,
            options=file.options,
            dropout=file.compare.dropout,
            jitter=member.jitter,
            accumulate=file.accumulate,
            give_weights=task == "train" and member.spec.command is None and member.role in self._origins(),
        )

    def _origins(self) -> Tuple[str, ...]:
        """Return the roles whose own weights are read before the first step."""
        roles = tuple(member.role for member in self._members)
        return {"none": roles, "torch": roles[:1], "paddle": roles[1:]}.get(self._case.file.weights.source, ())

    def _take_facts(self, member: Member, facts: messages.WorkerFacts) -> None:
        """Keep a worker's facts; refuse one that is not the side it should be (contract 6.2)."""
        if facts.framework != member.side or facts.other_frameworks_loaded:
            loaded = ", ".join(facts.other_frameworks_loaded) or facts.framework
            raise note_fault(
                WorkerFailure(
                    f"the {member.role} worker holds {loaded}: each side is one framework alone in its process; "
                    f"check [{member.side}] python in case.toml"
                ),
                member.role,
                "build",
                None,
            )
        if member.link is not None:
            check_scripts(self._case.folder, facts)
        self.facts[member.role] = facts

    def _share_dropout(self) -> None:
        """Have both sides draw dropout's masks by the common rule, under the same names of places."""
        reference, candidate = (member.role for member in self._members)
        places = shared_places(self.names, self.declarations[reference].modules, self.declarations[candidate].modules)
        requests = {role: messages.ShareDropout(named) for role, named in zip((reference, candidate), places)}
        self.switchboard.ask(requests, messages.DropoutShared, self._case.file.deadline.build_s, "build")

    def _match(self) -> NameMap:
        reference, candidate = (self.declarations[member.role] for member in self._members)
        if self._members[0].side == self._members[1].side:
            return match_names(reference.tensors, candidate.tensors, WeightsSection(), reference.modules, candidate.modules)
        for declaration, member in ((reference, self._members[0]), (candidate, self._members[1])):
            if not any(spec.kind == "parameter" for spec in declaration.tensors):
                raise CaseError(f"the {member.side} side's model has no parameters: there is nothing to train")
        return match_names(
            reference.tensors, candidate.tensors, self._case.file.weights, reference.modules, candidate.modules
        )


def _unasked_ends(workers: Iterable[Worker]) -> Iterator[str]:
    for worker in workers:
        code = worker.exit_code()
        if code:
            yield (
                f"the {worker.spec.role} worker had done all its work, but ended by {worker.describe_end()}, not by itself: "
                f"see {worker.spec.log.name}"
            )


def check_scripts(folder: Path, facts: messages.WorkerFacts) -> None:
    """Raise CaseError for a script that another machine has otherwise than this one has it in ``folder``."""
    for name, digest in facts.scripts.items():
        try:
            content = (folder / name).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() != digest:
            raise CaseError(
                f"{name} of the {facts.framework} side is another file on its machine than in {folder}: "
                "copy the case's folder there anew"
            )
