"""Stands for the coordinator on another machine: starts workers there, and passes on what they say.

    coordinator <--CURVE, tcp--> agent <--ipc, a private folder--> worker

Two connections: one for what the two say themselves, so that a large tensor does not hold up a sign of life, and one for
the workers' messages, which are passed on unread. The agent says every second where its workers stand; if it hears
nothing from the coordinator for ten seconds it ends them all, whatever they are doing, and itself. The key stays with it:
a worker never has it.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import socket as network
import sys
import time
from pathlib import Path
from typing import Dict, List, NoReturn, Optional

import zmq
from zmq.utils.monitor import recv_monitor_message

from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, ProtocolError, StepalignError, WorkerFailure
from stepalign.protocol.keys import HEARTBEAT_S, KEY_VARIABLE, LOST_S, SideKey, find_key, secure_side
from stepalign.protocol.messages import PROTOCOL_VERSION, Message
from stepalign.protocol.sockets import connect_dealer, receive, send
from stepalign.workers.agent_child import Child

_TICK_MS = 100


def main(arguments: Optional[List[str]] = None) -> NoReturn:
    """Run an agent as the command line says; never returns."""
    options = _parse(arguments)
    code = 0
    try:
        key = find_key(options.key)
        os.environ.pop(KEY_VARIABLE, None)
        if not Path(options.case).is_dir():
            raise CaseError(f"--case {options.case}: no such folder: name the folder with the case's scripts here")
        with Agent(options.connect, key, os.path.abspath(options.case), options.gpu, options.wait_s) as agent:
            agent.run()
    except StepalignError as error:
        print(f"stepalign: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="stepalign worker", description="Run one side's workers on this machine for a coordinator on another."
    )
    add_arguments(parser)
    return parser.parse_args(arguments)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what an agent is told on its command line; a key is never among it."""
    parser.add_argument("--connect", required=True, metavar="tcp://HOST:PORT", help="where the coordinator listens")
    parser.add_argument("--key", metavar="FILE", help=f"the side's key file (default: the variable {KEY_VARIABLE})")
    parser.add_argument("--case", default=".", metavar="DIR", help="the folder with the case's scripts on this machine")
    parser.add_argument("--gpu", default="", metavar="ID", help="the GPU to use, by UUID or number (default: the CPU)")
    parser.add_argument(
        "--wait", type=float, default=60.0, metavar="S", dest="wait_s", help="seconds to wait for the coordinator"
    )


class Agent:
    """One side's agent."""

    def __init__(self, endpoint: str, key: SideKey, case: str, gpu: str, wait_s: float) -> None:
        self._endpoint = endpoint
        self._side = key.side
        self._case = case
        self._gpu = gpu
        self._wait_s = wait_s
        self._archive = os.path.abspath(sys.argv[0])
        self._children: Dict[str, Child] = {}
        self._context: "zmq.Context[zmq.Socket[bytes]]" = zmq.Context()
        self._refused = False
        self._stopped = False
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._stop)
        self._control = self._connect(key, "control")
        self._data = self._connect(key, "data")

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            child.close()
        self._control.disable_monitor()
        self._context.destroy(linger=500)

    def _connect(self, key: SideKey, what: str) -> "zmq.Socket[bytes]":
        if not self._endpoint.startswith("tcp://"):
            raise CaseError(f"--connect {self._endpoint}: expected tcp://HOST:PORT, as the coordinator prints it")
        if what == "data":
            return connect_dealer(self._context, self._endpoint, f"{key.side}/data", lambda each: secure_side(each, key))
        return connect_dealer(self._context, self._endpoint, f"{key.side}/control", lambda each: self._watch(each, key))

    def _watch(self, socket: "zmq.Socket[bytes]", key: SideKey) -> None:
        secure_side(socket, key)
        events = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        self._monitor = socket.get_monitor_socket(events)

    def _stop(self, number: int, frame: object) -> None:
        self._stopped = True

    def run(self) -> None:
        """Serve the coordinator until it dismisses this agent. Raises WorkerFailure if it cannot be reached or is lost."""
        self._tell(self._introduction())
        began = heard = told = time.monotonic()
        known = False
        while not self._stopped:
            poller = zmq.Poller()
            for socket in (self._control, self._data, self._monitor, *(each.router for each in self._children.values())):
                poller.register(socket, zmq.POLLIN)
            ready = dict(poller.poll(_TICK_MS))
            now = time.monotonic()
            if self._monitor in ready:
                recv_monitor_message(self._monitor)
                self._refused = True
            while self._control.poll(0):
                heard, known = now, True
                if not self._follow(receive(self._control)):
                    return
            self._pass_on(ready)
            if now - told >= HEARTBEAT_S or any(each.report_due() for each in self._children.values()):
                told = now
                self._tell(messages.Heartbeat(tuple(each.report() for each in self._children.values() if not each.ended)))
            self._check(known, now - heard if known else now - began)

    def _check(self, known: bool, silent_s: float) -> None:
        if not known and (self._refused or silent_s > self._wait_s):
            raise WorkerFailure(
                f"the coordinator at {self._endpoint} "
                + ("refused this key" if self._refused else f"gave no answer in {self._wait_s:.0f} s")
                + ": check the address, and that the key is of this very run: each run makes its own"
            )
        if known and silent_s > LOST_S:
            raise WorkerFailure(f"the coordinator gave no sign of life for {LOST_S:.0f} s: its workers here were ended")

    def _introduction(self) -> messages.Attached:
        from stepalign import __version__

        return messages.Attached(
            PROTOCOL_VERSION,
            __version__,
            self._side,
            network.gethostname(),
            os.getpid(),
            platform.python_version(),
            sys.executable,
            len(os.sched_getaffinity(0)),
            bool(self._gpu),
        )

    def _follow(self, message: Message) -> bool:
        """Do what the coordinator says; False when it says that nothing more is wanted."""
        if isinstance(message, messages.Dismissed):
            if message.reason:
                raise CaseError(message.reason)
            return False
        if isinstance(message, messages.Launch):
            env = {**message.env, "CUDA_VISIBLE_DEVICES": self._gpu, "STEPALIGN_CASE": self._case}
            self._children[message.tag] = Child(self._context, self._archive, message.tag, message.framework, env)
        elif isinstance(message, messages.EndWorker):
            child = self._children.get(message.tag)
            if child is not None and message.how == "forget":
                self._children.pop(message.tag).close()
            elif child is not None:
                child.signal(message.how)
        elif not isinstance(message, messages.Heard):
            raise ProtocolError(f"{type(message).__name__} is nothing to say to an agent")
        return True

    def _pass_on(self, ready: Dict[object, int]) -> None:
        """Pass frames on unread: the worker's to the coordinator, and the coordinator's to the worker."""
        if self._data in ready:
            tag, *frames = self._data.recv_multipart(copy=False)
            child = self._children.get(bytes(tag.buffer).decode("utf-8", "replace"))
            if child is not None:
                try:
                    child.router.send_multipart([child.role.encode(), *frames], copy=False)
                except zmq.ZMQError:
                    return  # it has ended, which the next report says
        for child in self._children.values():
            if child.router in ready:
                _, *frames = child.router.recv_multipart(copy=False)
                self._data.send_multipart([child.tag.encode(), *frames], copy=False)

    def _tell(self, message: Message) -> None:
        try:
            send(self._control, message, flags=zmq.DONTWAIT)
        except zmq.Again:
            return  # the queue is full: the coordinator has not listened for long
