"""One large tensor on its way: copied by another process into room in shared memory, or made a frame, and an array here.

Run as ``python -m benchmarks.transport ENDPOINT ELEMENTS [DESCRIPTORS]`` it is that other process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zmq

from stepalign.protocol.memory import Memory, inherit_memory, open_memory
from stepalign.protocol.messages import SendWeights, Weights
from stepalign.protocol.sockets import bind_router, connect_dealer, ipc_endpoint, receive, receive_from, send

REPEATS = 15
_WAIT_MS = 30_000
_PAGE_ELEMENTS = 1024


def transfer(elements: int, shared: bool) -> tuple[float, float]:
    """Return the least wall seconds from the request to the array that was read, and of a memcpy of it.

    ``shared``: through memory that both map, else as a frame. Every page of the array is read once, as comparing does.
    """
    array = np.full(elements, 2.0, np.float32)  # zeros would be one page, read again and again
    room = np.ones_like(array)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with tempfile.TemporaryDirectory(prefix="stepalign-benchmarks-") as folder:
        endpoint = ipc_endpoint(f"{folder}/s")
        router = bind_router(context, endpoint)
        here = Path(__file__).parents[1]
        memory, descriptors = open_memory(2 * array.nbytes) if shared else (None, ())
        command = [sys.executable, "-m", "benchmarks.transport", endpoint, str(elements)]
        peer = subprocess.Popen([*command, ",".join(map(str, descriptors))], cwd=here, pass_fds=descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        memories = {"sender": memory}
        try:
            role, _ = _next(router, memories)
            taken, copied = float("inf"), float("inf")
            for _ in range(REPEATS):
                started = time.perf_counter()
                send(router, SendWeights(), role, memory)
                _, message = _next(router, memories)
                assert isinstance(message, Weights) and message.tensors["tensor"].size == elements
                message.tensors["tensor"][:: _PAGE_ELEMENTS].sum()
                taken = min(taken, time.perf_counter() - started)
                del message
                started = time.perf_counter()
                np.copyto(room, array)
                copied = min(copied, time.perf_counter() - started)
        finally:
            peer.kill()
            peer.wait()
            context.destroy(linger=0)
    return taken, copied


def _next(router: zmq.Socket[bytes], memories: Mapping[str, Memory | None]) -> tuple[str, object]:
    if not router.poll(_WAIT_MS):
        raise RuntimeError("the other process sent nothing")
    return receive_from(router, memories)


def main(endpoint: str, elements: int, descriptors: str) -> None:
    """Answer every request with the tensor."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = connect_dealer(context, endpoint, "sender")
    tensor = np.random.default_rng(0).standard_normal(elements, dtype=np.float32)
    memory = inherit_memory(descriptors) if descriptors else None
    send(dealer, Weights({}), memory=memory)
    while True:
        receive(dealer, memory)
        room = None if memory is None else memory.arena.room(tensor.shape, "float32")
        if room is not None:
            np.copyto(room, tensor)
        send(dealer, Weights({"tensor": tensor if room is None else room}), memory=memory)
        del room


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
