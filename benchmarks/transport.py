"""One large tensor on its way: made a message in another process, sent over ipc, made an array here.

Run as ``python -m benchmarks.transport ENDPOINT ELEMENTS`` it is that other process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zmq

from stepalign.protocol.messages import SendWeights, Weights
from stepalign.protocol.sockets import bind_router, connect_dealer, ipc_endpoint, receive, receive_from, send

REPEATS = 15
_WAIT_MS = 30_000


def transfer(elements: int) -> tuple[float, float]:
    """Return the least wall seconds from the request to the array, and of a memcpy of it."""
    array = np.zeros(elements, np.float32)
    room = np.ones_like(array)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with tempfile.TemporaryDirectory(prefix="stepalign-benchmarks-") as folder:
        endpoint = ipc_endpoint(f"{folder}/s")
        router = bind_router(context, endpoint)
        here = Path(__file__).parents[1]
        peer = subprocess.Popen([sys.executable, "-m", "benchmarks.transport", endpoint, str(elements)], cwd=here)
        try:
            role, _ = _next(router)
            taken, copied = float("inf"), float("inf")
            for _ in range(REPEATS):
                started = time.perf_counter()
                send(router, SendWeights(), role)
                _, message = _next(router)
                taken = min(taken, time.perf_counter() - started)
                assert isinstance(message, Weights) and message.tensors["tensor"].size == elements
                del message
                started = time.perf_counter()
                np.copyto(room, array)
                copied = min(copied, time.perf_counter() - started)
        finally:
            peer.kill()
            peer.wait()
            context.destroy(linger=0)
    return taken, copied


def _next(router: zmq.Socket[bytes]) -> tuple[str, object]:
    if not router.poll(_WAIT_MS):
        raise RuntimeError("the other process sent nothing")
    return receive_from(router)


def main(endpoint: str, elements: int) -> None:
    """Answer every request with the tensor."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = connect_dealer(context, endpoint, "sender")
    tensor = np.random.default_rng(0).standard_normal(elements, dtype=np.float32)
    send(dealer, Weights({}))
    while True:
        receive(dealer)
        send(dealer, Weights({"tensor": tensor}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
