"""A worker's end of the conversation: next batch, initial weights, report a step.

Requests about weights and state are answered inside `next_batch`, through the functions of a `StateAccess`, so that a
loop built on this client only sees batches. Where several steps were asked for by one message, results but the last are
written into the journal and wake nobody, unless they take long.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Callable, Deque, Dict, List, Optional, Tuple

import numpy as np
import zmq

from stepalign.protocol import messages
from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.framing import encode
from stepalign.protocol.journal import JournalWriter
from stepalign.protocol.memory import Memory, inherit_memory
from stepalign.protocol.messages import PROTOCOL_VERSION, Message, Named
from stepalign.protocol.sockets import be_ready_for_large, connect_dealer, receive, send_frames
from stepalign.protocol.status import StatusWriter
from stepalign.protocol.tensors import DTYPES, LARGE_SIZE_BYTES, Buffer, digest
from stepalign.workers.capture import own_room, same_bytes

WAKE_AFTER_S = 0.04
"""A result is sent at once, and what the journal holds is read with it, if the last message was sent so long ago."""


@dataclass(frozen=True)
class StateAccess:
    """How the client reads and writes what is trained: weights and buffers together, and the optimizer's state.

    ``share_dropout`` takes the names of places for shared masks; None where each side draws its own. The two of
    checkpoints are None where the training's state is not ours to take, ``read_buffers`` where there is no model.
    """

    read_tensors: Callable[[], Named]
    write_tensors: Callable[[Named], None]
    write_optimizer_state: Callable[[Named], None]
    share_dropout: Optional[Callable[[Dict[str, str]], None]] = None
    take_checkpoint: Optional[Callable[[], messages.Checkpoint]] = None
    put_back_checkpoint: Optional[Callable[[messages.LoadCheckpoint], messages.CheckpointLoaded]] = None
    read_buffers: Optional[Callable[[], Named]] = None


class Client:
    """One worker's connection. Announces itself on creation.

    ``memory`` is shared with the coordinator where both run on one machine; without it everything travels as frames.
    ``journal`` is there where the coordinator started this process.
    """

    def __init__(
        self,
        endpoint: str,
        role: str,
        framework: str,
        status_path: str,
        memory: Optional[Memory] = None,
        journal: Optional[JournalWriter] = None,
    ) -> None:
        self.status = StatusWriter(status_path)
        self._context: "zmq.Context[zmq.Socket[bytes]]" = zmq.Context()
        be_ready_for_large(self._context)
        self._socket = connect_dealer(self._context, endpoint, role)
        self._access: Optional[StateAccess] = None
        self._memory = memory
        self._journal = journal
        self._sent = 0
        self._sent_s = 0.0
        self._waiting: Deque[messages.Batch] = deque()
        self._batch: Optional[messages.Batch] = None
        self._digest: Optional[str] = None
        self._next_task: Optional[messages.Configure] = None
        self._pid = os.getpid()
        self.send(
            messages.Hello(PROTOCOL_VERSION, role, framework, os.getpid(), platform.python_version(), sys.executable)
        )

    def send(self, message: Message) -> None:
        """Send one message; its large arrays must not change until the coordinator has answered."""
        self._end_forks()
        frames = encode(message, self._memory)
        if isinstance(message, messages.StepResult) and self._write_down(frames):
            return
        send_frames(self._socket, frames)
        self._sent += 1
        self._sent_s = time.monotonic()

    def _write_down(self, frames: List[Buffer]) -> bool:
        """Write a result into the journal, if the next step is known already and a message was sent lately."""
        if self._journal is None or not self._waiting or time.monotonic() - self._sent_s >= WAKE_AFTER_S:
            return False
        return self._journal.append(self._sent, frames)

    def receive(self) -> Message:
        """Wait for the coordinator's next message."""
        self._end_forks()
        return receive(self._socket, self._memory)

    def _end_forks(self) -> None:
        """End this process if it is a child that a script forked and let go on: there is one worker a side."""
        if os.getpid() != self._pid:
            print("stepalign: a child that the script forked went on as if it were the worker: it ends here", file=sys.stderr)
            os._exit(0)

    def room(self, shape: Tuple[int, ...], dtype: str) -> np.ndarray:
        """Return an array to copy a tensor into that is to be reported: in shared memory if it is large and fits."""
        if self._memory is not None and math.prod(shape) * DTYPES[dtype].itemsize >= LARGE_SIZE_BYTES:
            shared = self._memory.arena.room(shape, dtype)
            if shared is not None:
                return shared
        return own_room(shape, dtype)

    def configuration(self) -> messages.Configure:
        """Wait for the run's configuration."""
        message = self.receive()
        if not isinstance(message, messages.Configure):
            raise ProtocolError(f"expected Configure, got {type(message).__name__}")
        return _as_found_here(message)

    def serve_state(self, access: StateAccess) -> None:
        """Answer requests for weights and state through ``access`` from here on."""
        self._access = access

    def next_batch(self) -> Optional[messages.Batch]:
        """Wait for the next batch, answering what comes before it; None when the run is over, or another task begins."""
        while not self._waiting:
            message = self.receive()
            if isinstance(message, messages.Batch):
                return self._take(message)
            if isinstance(message, messages.Batches):
                self._waiting.extend(message.each())
                continue
            if isinstance(message, messages.Finish):
                return None
            if isinstance(message, messages.Configure):
                self._next_task = _as_found_here(message)
                return None
            self.send(self.answer(message))
            self.status.leave_step()
        return self._take(self._waiting.popleft())

    def next_task(self) -> Optional[messages.Configure]:
        """Return what came in place of a batch: what is to be done after a training; None if nothing is."""
        task, self._next_task = self._next_task, None
        return task

    def _take(self, batch: messages.Batch) -> messages.Batch:
        """Return a batch with its arrays: its own, or those that were kept of the batch before."""
        if batch.again:
            if self._batch is None or batch.arrays:
                raise ProtocolError(f"step {batch.step} repeats a batch, but none came before it or it has its own")
            batch = messages.Batch(batch.step, self._batch.arrays, batch.kinds, batch.activations)
        else:
            self._digest = None
        self._batch = batch
        return batch

    def batch_digest(self, batch: messages.Batch) -> str:
        """Return the digest of a batch's bytes as they came; of one that is repeated it is known already."""
        if self._batch is None or batch.arrays is not self._batch.arrays:
            return digest(batch.arrays)
        if self._digest is None:
            self._digest = digest(batch.arrays)
        return self._digest

    def report(self, result: messages.StepResult) -> None:
        """Report a finished step."""
        self.send(result)

    def answer(self, message: Message) -> Message:
        """Carry out a request about weights or state and return its answer."""
        if self._access is None:
            raise ProtocolError(f"{type(message).__name__} came before anything was built")
        if isinstance(message, messages.SendWeights):
            self.status.enter("weights")
            return messages.Weights(self._access.read_tensors())
        if isinstance(message, messages.LoadWeights):
            self.status.enter("weights")
            read_buffers = self._access.read_buffers
            built = read_buffers() if message.tell_replaced and read_buffers is not None else {}
            self._access.write_tensors(message.tensors)
            now = self._access.read_tensors()
            return messages.WeightsLoaded(
                {name: now[name] for name, sent in message.tensors.items() if not same_bytes(sent, now[name])},
                _replaced(built, message),
            )
        if isinstance(message, messages.LoadState):
            self.status.enter("weights")
            self._access.write_tensors(message.tensors)
            self._access.write_optimizer_state(message.optimizer_state)
            return messages.StateLoaded()
        if isinstance(message, messages.SendCheckpoint) and self._access.take_checkpoint is not None:
            self.status.enter("checkpoint")
            return self._access.take_checkpoint()
        if isinstance(message, messages.LoadCheckpoint) and self._access.put_back_checkpoint is not None:
            self.status.enter("checkpoint")
            return self._access.put_back_checkpoint(message)
        if isinstance(message, messages.ShareDropout) and self._access.share_dropout is not None:
            self._access.share_dropout(dict(message.places))
            return messages.DropoutShared()
        raise ProtocolError(f"{type(message).__name__} is not a request to a worker that trains")

    def close(self) -> None:
        """Flush what was sent, for a second at most, and close."""
        self._context.destroy(linger=1000)
        self.status.close()
        if self._journal is not None:
            self._journal.close()


def inherited() -> Tuple[Optional[Memory], Optional[JournalWriter]]:
    """Return what this process was started with, if anything: shared memory, and the journal. No child takes them for
    its own.
    """
    shared, journal = (os.environ.pop(name, "") for name in ("STEPALIGN_MEMORY", "STEPALIGN_JOURNAL"))
    return inherit_memory(shared) if shared else None, JournalWriter(int(journal)) if journal else None


def _replaced(built: Named, loaded: messages.LoadWeights) -> Named:
    """Return the buffers that were asked for, as they were built, where other bytes were loaded over them."""
    both = [name for name in loaded.tell_replaced if name in built and name in loaded.tensors]
    return {name: built[name] for name in both if not same_bytes(built[name], loaded.tensors[name])}


def _as_found_here(configuration: messages.Configure) -> messages.Configure:
    """Return the configuration with the case's folder of this machine, where an agent named one."""
    here = os.environ.get("STEPALIGN_CASE")
    if not here:
        return configuration
    script = os.path.join(here, os.path.relpath(configuration.script, configuration.folder))
    return replace(configuration, folder=here, script=os.path.normpath(script))
