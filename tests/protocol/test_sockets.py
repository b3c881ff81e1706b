"""The two ends of the wire: arrays of every size pass, what cannot be reached or read is an error at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from stepalign.protocol import sockets
from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.messages import Batch, Finish, Finished, SendWeights
from stepalign.protocol.sockets import (
    MAX_IPC_PATH_BYTES,
    bind_router,
    connect_dealer,
    ipc_endpoint,
    receive,
    receive_from,
    send,
)


@pytest.fixture
def ends(private_temporary_folder: Path) -> Iterator[Any]:
    """Return a ROUTER and a DEALER named torch that have greeted each other."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    path = private_temporary_folder / "s"
    router = bind_router(context, ipc_endpoint(str(path)))
    dealer = connect_dealer(context, ipc_endpoint(str(path)), "torch")
    send(dealer, SendWeights())
    assert receive_from(router) == ("torch", SendWeights())
    yield router, dealer
    context.destroy(linger=0)
    path.unlink(missing_ok=True)


LARGE_AFTER_SMALL = """
import os, sys
import numpy as np, zmq
from stepalign.protocol.messages import Batch
from stepalign.protocol.sockets import be_ready_for_large, bind_router, connect_dealer, ipc_endpoint, receive_from, send

context = zmq.Context()
be_ready_for_large(context)
router = bind_router(context, ipc_endpoint(sys.argv[1]))
dealer = connect_dealer(context, ipc_endpoint(sys.argv[1]), "torch")
for length in (1, 1 << 20, 1 << 20):
    send(dealer, Batch(0, {"x": np.zeros(length)}))
    receive_from(router)
    print(len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")))
context.destroy(linger=0)
"""


def test_a_first_large_message_brings_no_threads_and_no_descriptors(private_temporary_folder: Path) -> None:
    path = private_temporary_folder / "s"
    done = subprocess.run(
        [sys.executable, "-c", LARGE_AFTER_SMALL, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    path.unlink(missing_ok=True)
    small, *large = done.stdout.splitlines()
    assert large == [small, small]


@pytest.mark.parametrize("length", [0, 1, 999, 1 << 13, 1 << 20])
def test_arrays_of_every_size_pass_both_ways(ends: Any, length: int) -> None:
    router, dealer = ends
    array = np.random.default_rng(0).normal(size=length)
    send(router, Batch(3, {"x": array, "flag": np.array([True])}), "torch")
    got = receive(dealer)
    assert isinstance(got, Batch)
    np.testing.assert_array_equal(got.arrays["x"], array, strict=True)
    assert all(item.flags.aligned for item in got.arrays.values())
    send(dealer, got)
    role, again = receive_from(router)
    assert role == "torch" and isinstance(again, Batch)
    np.testing.assert_array_equal(again.arrays["x"], array, strict=True)


@pytest.mark.parametrize("beyond", [-1, 0, 1, 3 * 4096 - 1, 3 * 4096, 3 * 4096 + 1])
def test_what_is_larger_than_a_frame_may_be_goes_in_several(
    private_temporary_folder: Path, monkeypatch: pytest.MonkeyPatch, beyond: int
) -> None:
    monkeypatch.setattr(sockets, "MAX_FRAME_SIZE_BYTES", 4096)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    path = private_temporary_folder / "s"
    try:
        router = bind_router(context, ipc_endpoint(str(path)))
        dealer = connect_dealer(context, ipc_endpoint(str(path)), "torch")
        random = np.random.default_rng(0)
        arrays = {
            "small": np.arange(3.0), "x": random.integers(0, 255, 4096 + beyond, np.uint8), "y": random.normal(size=(600, 5)),
        }  # fmt: skip
        send(dealer, Batch(3, arrays))
        role, got = receive_from(router)
        assert role == "torch" and isinstance(got, Batch) and set(got.arrays) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(got.arrays[name], array, strict=True)
            assert got.arrays[name].flags.aligned
        dealer.send_multipart([b"x", bytes(4096)])
        assert "nothing follows it" in str(receive_from(router)[1])
    finally:
        context.destroy(linger=0)
        path.unlink(missing_ok=True)


GIGABYTES = """
import sys, time
import numpy as np, zmq
from stepalign.protocol.messages import SendWeights
from stepalign.protocol.sockets import bind_router, connect_dealer, ipc_endpoint, receive_from, send

def peak_bytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))

context = zmq.Context()
router = bind_router(context, ipc_endpoint(sys.argv[1]))
dealer = connect_dealer(context, ipc_endpoint(sys.argv[1]), "torch")
send(dealer, SendWeights())
receive_from(router)
before = peak_bytes()
for _ in range(3):
    dealer.send(np.zeros(1 << 30, np.uint8), copy=False)
    print(router.poll(500))
send(dealer, SendWeights())
print(receive_from(router)[0], (peak_bytes() - before) >> 20)
context.destroy(linger=0)
"""


def test_a_frame_of_a_gigabyte_is_refused_before_room_is_made_for_it(private_temporary_folder: Path) -> None:
    path = private_temporary_folder / "s"
    done = subprocess.run(
        [sys.executable, "-c", GIGABYTES, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    path.unlink(missing_ok=True)
    *polled, last = done.stdout.splitlines()
    assert polled == ["0", "0", "0"], "none came"
    assert last.startswith("torch ") and int(last.split()[1]) < 32, last


def test_messages_keep_their_order(ends: Any) -> None:
    router, dealer = ends
    for step in range(300):
        send(dealer, Batch(step, {"x": np.full(step * 40, step)}))
    assert [receive_from(router)[1].step for _ in range(300)] == list(range(300))


def test_a_message_to_nobody_is_an_error(ends: Any) -> None:
    with pytest.raises(zmq.ZMQError, match="Host unreachable|No route to host"):
        send(ends[0], Finish(), "paddle")


@pytest.mark.parametrize("frames", [[b""], [b"\xc1"], [b"\x93\x01\xa6Finish\x80", b"surplus"], [b"x"] * 1000])
def test_what_is_no_message_is_an_error_with_its_sender(ends: Any, frames: list[bytes]) -> None:
    router, dealer = ends
    dealer.send_multipart(frames)
    role, error = receive_from(router)
    assert role == "torch" and isinstance(error, ProtocolError)
    send(dealer, Finished())
    assert receive_from(router) == ("torch", Finished())


def test_too_many_frames_are_an_error_with_their_sender(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "MAX_FRAMES", 10)
    router, dealer = ends
    dealer.send_multipart([b"x"] * 11)
    role, error = receive_from(router)
    assert role == "torch" and "a message of 11 frames came, more than 10" in str(error)


def test_a_worker_that_gets_garbage_raises(ends: Any) -> None:
    router, dealer = ends
    router.send_multipart([b"torch", b"garbage"])
    with pytest.raises(ProtocolError):
        receive(dealer)


def test_the_longest_path_that_the_kernel_takes_works_and_the_next_is_refused_with_a_way_out(
    private_temporary_folder: Path,
) -> None:
    longest = str(private_temporary_folder).ljust(MAX_IPC_PATH_BYTES, "x")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        bind_router(context, ipc_endpoint(longest)).close(linger=0)
    finally:
        context.destroy(linger=0)
        Path(longest).unlink(missing_ok=True)
    with pytest.raises(ProtocolError, match="has 108 bytes, the kernel takes 107: set TMPDIR to a shorter folder"):
        ipc_endpoint(longest + "x")


def test_a_paths_length_is_that_of_its_bytes() -> None:
    with pytest.raises(ProtocolError, match="has 120 bytes"):
        ipc_endpoint("é" * 60)
