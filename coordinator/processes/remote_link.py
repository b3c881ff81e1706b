"""The coordinator's end of all machines but its own: one socket, CURVE, on an address that the user named.

    switchboard <--ipc-- this thread <--CURVE, tcp--> agents, one a side, each on its machine

A peer is admitted by its key alone, and is heard only under the side that the key was made for. Workers' messages are
passed on unread, to and from a socket that the switchboard takes for the worker's own. The thread answers signs of life
also while the coordinator computes; a machine that gives none for ten seconds is lost, with its workers.
"""

from __future__ import annotations

import itertools
import queue
import socket as network
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple

import zmq

import stepalign
from stepalign.coordinator.processes.remote_worker import RemoteWorker
from stepalign.coordinator.processes.worker_process import WorkerSpec
from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, EnvironmentFailure, ProtocolError, WorkerFailure
from stepalign.protocol.framing import decode
from stepalign.protocol.keys import LOST_S, SideKey, make_pair, secure_coordinator
from stepalign.protocol.messages import Message
from stepalign.protocol.sockets import bind_router, connect_dealer, send

_DOMAIN = "stepalign"
_TICK_MS = 200
_HANDSHAKE_MS = 5000


@dataclass
class Machine:
    """What is known of one side's machine. ``heard`` is when it last gave a sign of life."""

    introduction: Optional[messages.Attached] = None
    heard: float = 0.0
    workers: Dict[str, RemoteWorker] = field(default_factory=dict)
    doors: Dict[str, "zmq.Socket[bytes]"] = field(default_factory=dict)
    problem: str = ""


class RemoteLink:
    """Binds ``address`` (``HOST`` or ``HOST:PORT``) and makes a key for each of ``sides``."""

    def __init__(self, address: str, sides: Tuple[str, ...]) -> None:
        self._context: "zmq.Context[zmq.Socket[bytes]]" = zmq.Context()
        public, secret = make_pair()
        self.keys = {side: SideKey(side, public, *make_pair()) for side in sides}
        self._sides = {key.public: side for side, key in self.keys.items()}
        self._machines = {side: Machine() for side in sides}
        self._changed = threading.Condition()
        self._commands: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
        self._numbers = itertools.count(1)
        self._stopping = False
        from zmq.auth.thread import ThreadAuthenticator  # asyncio with it, which most runs have no use for

        self._authenticator = ThreadAuthenticator(self._context)
        self._authenticator.start()
        try:
            self._authenticator.configure_curve_callback(_DOMAIN, credentials_provider=self)
            self._router, self.endpoint = self._bind(address, secret)
            self._waking, self._woken = (self._context.socket(zmq.PAIR) for _ in range(2))
            self._woken.bind("inproc://wake")
            self._waking.connect("inproc://wake")
        except BaseException:
            self._authenticator.stop()
            self._context.destroy(linger=0)
            raise
        self._thread = threading.Thread(target=self._serve, name="stepalign-remote", daemon=True)
        self._thread.start()

    def callback(self, domain: str, key: bytes) -> bool:
        """Say whether a peer with this public key is admitted; called by the authenticator."""
        return key.decode("ascii", "replace") in self._sides

    def _bind(self, address: str, secret: str) -> "Tuple[zmq.Socket[bytes], str]":
        host, colon, port = address.rpartition(":")
        if not colon:
            host, port = address, ""
        try:
            router = bind_router(
                self._context, f"tcp://{host}:{port or '*'}", lambda socket: _prepare(socket, secret)
            )
        except zmq.ZMQError as error:
            raise CaseError(
                f"network.bind: {address!r} cannot be bound ({error}): give the address of one of this machine's interfaces, "
                "as IP or IP:PORT"
            ) from None
        bound = router.getsockopt(zmq.LAST_ENDPOINT)
        assert isinstance(bound, bytes)
        return router, bound.rstrip(b"\0").decode("ascii")

    def wait_for(self, side: str, timeout_s: float, on_tick: Callable[[], None]) -> messages.Attached:
        """Wait for the agent of ``side``. Raises EnvironmentFailure if none comes in time."""
        deadline = time.monotonic() + timeout_s
        machine = self._machines[side]
        while True:
            with self._changed:
                if machine.introduction is None:
                    self._changed.wait(0.1)
                if machine.introduction is not None:
                    return machine.introduction
            on_tick()
            if time.monotonic() >= deadline:
                raise EnvironmentFailure(
                    f"no worker for the {side} side came to {self.endpoint} in {timeout_s:.0f} s"
                    + (f": {machine.problem}" if machine.problem else "; [network] wait_s says how long to wait")
                )

    def launch(self, side: str, spec: WorkerSpec, endpoint: str) -> RemoteWorker:
        """Have a worker started on the machine of ``side``, to speak at the switchboard's ``endpoint``."""
        machine = self._machines[side]
        if machine.introduction is None:
            raise WorkerFailure(f"the {side} side's machine is lost: {machine.problem}")
        tag = f"{spec.role}#{next(self._numbers)}"
        worker = RemoteWorker(spec, machine.introduction.host, lambda how: self._do(lambda: self._end(side, tag, how)))
        self._do(lambda: self._launch(side, tag, worker, endpoint))
        return worker

    def close(self) -> None:
        """Dismiss all agents and give everything back; a second at most is waited for them."""
        self._do(self._dismiss)
        self._thread.join()
        self._authenticator.stop()
        self._context.destroy(linger=500)

    def _do(self, command: Callable[[], None]) -> None:
        """Have the thread do something: sockets belong to it alone."""
        with self._changed:
            self._commands.put(command)
            if not self._stopping:
                self._waking.send(b"")

    def _serve(self) -> None:
        while not self._stopping:
            sockets = [self._router, self._woken, *(door for each in self._machines.values() for door in each.doors.values())]
            poller = zmq.Poller()
            for socket in sockets:
                poller.register(socket, zmq.POLLIN)
            ready = dict(poller.poll(_TICK_MS))
            while self._woken.poll(0):
                self._woken.recv()
            while not self._commands.empty():
                self._commands.get()()
            for _ in range(64):
                if not self._router.poll(0):
                    break
                self._hear(self._router.recv_multipart(copy=False))
            for side, machine in self._machines.items():
                for tag, door in machine.doors.items():
                    if door in ready:
                        frames: List[Any] = door.recv_multipart(copy=False)
                        self._send(side, [f"{side}/data".encode(), tag.encode(), *frames])
            self._count_the_lost()

    def _hear(self, frames: List[Any]) -> None:
        """Take one message of a peer: under another identity than its key's it is dropped."""
        identity = bytes(frames[0].buffer)
        side = self._sides.get(str(frames[-1].get("User-Id")))
        if side is None or len(frames) < 2:
            return
        if identity == f"{side}/data".encode():
            door = self._machines[side].doors.get(bytes(frames[1].buffer).decode("utf-8", "replace"))
            if door is not None:
                door.send_multipart(frames[2:], copy=False)
        elif identity == f"{side}/control".encode():
            try:
                self._follow(side, decode([frame.buffer for frame in frames[1:]]))
            except ProtocolError as error:
                self._machines[side].problem = str(error)
                self._tell(side, messages.Dismissed(str(error)))

    def _follow(self, side: str, message: Message) -> None:
        machine = self._machines[side]
        if isinstance(message, messages.Attached):
            if message.stepalign != stepalign.__version__:
                raise ProtocolError(
                    f"stepalign {message.stepalign} runs there, {stepalign.__version__} here: copy the archive anew"
                )
            self._lose(side, "another agent took its place")
            with self._changed:
                machine.introduction, machine.heard = message, time.monotonic()
                self._changed.notify_all()
        elif isinstance(message, messages.Heartbeat) and machine.introduction is not None:
            machine.heard = time.monotonic()
            for report in message.workers:
                if report.tag in machine.workers:
                    machine.workers[report.tag].take_report(report)
        else:
            raise ProtocolError(f"{type(message).__name__} is nothing that an agent says now")
        self._tell(side, messages.Heard())

    def _count_the_lost(self) -> None:
        for side, machine in self._machines.items():
            if machine.introduction is not None and time.monotonic() - machine.heard > LOST_S:
                machine.problem = (
                    f"{machine.introduction.host} gave no sign of life for {LOST_S:.0f} s: "
                    "the link is down, or the machine, or its agent was ended"
                )
                machine.introduction = None
                self._lose(side, machine.problem)

    def _lose(self, side: str, why: str) -> None:
        for worker in self._machines[side].workers.values():
            worker.lose(why)

    def _launch(self, side: str, tag: str, worker: RemoteWorker, endpoint: str) -> None:
        machine = self._machines[side]
        machine.workers[tag] = worker
        machine.doors[tag] = connect_dealer(self._context, endpoint, worker.spec.role)
        self._tell(side, messages.Launch(tag, worker.spec.framework, dict(worker.spec.env)))

    def _end(self, side: str, tag: str, how: str) -> None:
        machine = self._machines[side]
        self._tell(side, messages.EndWorker(tag, how))  # type: ignore[arg-type]
        if how == "forget":
            machine.workers.pop(tag, None)
            if tag in machine.doors:
                machine.doors.pop(tag).close(linger=0)

    def _dismiss(self) -> None:
        for side in self._machines:
            self._tell(side, messages.Dismissed(""))
        with self._changed:
            self._stopping = True

    def _tell(self, side: str, message: Message) -> None:
        with suppress(zmq.ZMQError):  # not there, or not there any more: silence tells
            send(self._router, message, f"{side}/control")

    def _send(self, side: str, frames: List[Any]) -> None:
        with suppress(zmq.ZMQError):
            self._router.send_multipart(frames, copy=False)


def _prepare(socket: "zmq.Socket[bytes]", secret: str) -> None:
    """Set what a socket that other machines reach needs before it is bound."""
    secure_coordinator(socket, secret, _DOMAIN.encode())
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 2000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 60000)


def address_of(endpoint: str) -> str:
    """Return the endpoint as another machine names it: where all interfaces are bound, by this machine's name."""
    host, _, port = endpoint.rpartition("//")[2].rpartition(":")
    return f"tcp://{network.gethostname() if host in ('0.0.0.0', '[::]') else host}:{port}"
