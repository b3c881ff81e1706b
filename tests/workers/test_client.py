"""The client: batches out, requests about weights and state answered on the way, and the phase noted for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from stepalign.protocol import messages
from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.sockets import bind_router, ipc_endpoint, receive_from, send
from stepalign.protocol.status import Status, create_status, read_status
from stepalign.protocol.tensors import digest
from stepalign.workers import client as client_module
from stepalign.workers.client import Client, StateAccess


@dataclass
class Desk:
    """The coordinator's end, in the same thread: what is sent waits in the queue until the client asks."""

    router: Any
    client: Client
    status: int
    held: dict[str, np.ndarray] = field(default_factory=lambda: {"w": np.ones(3, np.float32), "b": np.zeros(0)})
    state: dict[str, np.ndarray] = field(default_factory=dict)
    seen: list[Status] = field(default_factory=list)

    def say(self, *items: messages.Message) -> None:
        for item in items:
            send(self.router, item, "torch")

    def hear(self) -> messages.Message:
        role, message = receive_from(self.router)
        assert role == "torch" and not isinstance(message, ProtocolError)
        return message

    def access(self) -> StateAccess:
        def read() -> dict[str, np.ndarray]:
            self.seen.append(read_status(self.status))
            return dict(self.held)

        return StateAccess(read, self.held.update, self.state.update)


@pytest.fixture
def desk(tmp_path: Path, private_temporary_folder: Path) -> Iterator[Desk]:
    """Return a client that has said hello, with the coordinator's end."""
    import os

    status = create_status(str(tmp_path / "status"))
    path = private_temporary_folder / "c"
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = bind_router(context, ipc_endpoint(str(path)))
    client = Client(ipc_endpoint(str(path)), "torch", "torch", str(tmp_path / "status"))
    desk = Desk(router, client, status)
    hello = desk.hear()
    assert isinstance(hello, messages.Hello)
    assert (hello.role, hello.framework, hello.pid) == ("torch", "torch", os.getpid())
    yield desk
    client.close()
    context.destroy(linger=0)
    os.close(status)
    path.unlink(missing_ok=True)


BATCH = messages.Batch(0, {"x": np.arange(3)}, ("parameter",))


def test_batches_come_in_order_and_then_the_end(desk: Desk) -> None:
    desk.say(BATCH, messages.Batch(1, {}), messages.Finish())
    first = desk.client.next_batch()
    assert first is not None and first.step == 0 and first.kinds == ("parameter",)
    np.testing.assert_array_equal(first.arrays["x"], [0, 1, 2])
    second = desk.client.next_batch()
    assert second is not None and second.step == 1
    assert desk.client.next_batch() is None


def test_a_batch_that_is_repeated_is_kept_with_the_digest_of_what_came(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    other = messages.Batch(2, {"x": np.arange(4)})
    again = messages.Batch(1, {}, ("gradient",), again=True)
    desk.say(BATCH, again, other, messages.Batch(3, {}, again=True))
    counted: list[str] = []
    monkeypatch.setattr(client_module, "digest", lambda arrays: counted.append(digest(arrays)) or counted[-1])
    seen = []
    for _ in range(4):
        batch = desk.client.next_batch()
        assert batch is not None and not batch.again
        assert desk.client.batch_digest(batch) == digest(batch.arrays)
        seen.append((batch.step, batch.kinds, batch.arrays["x"].tolist()))
    assert seen == [(0, ("parameter",), [0, 1, 2]), (1, ("gradient",), [0, 1, 2]), (2, (), [0, 1, 2, 3]), (3, (), [0, 1, 2, 3])]
    assert len(counted) == 2


def test_a_digest_of_other_arrays_is_their_own(desk: Desk) -> None:
    desk.say(BATCH)
    batch = desk.client.next_batch()
    assert batch is not None
    made = replace(batch, arrays={"x": batch.arrays["x"] + 1})
    assert desk.client.batch_digest(made) == digest(made.arrays) != desk.client.batch_digest(batch)


@pytest.mark.parametrize("first", [(), (BATCH,)])
def test_a_repetition_of_nothing_or_with_arrays_of_its_own_is_refused(desk: Desk, first: tuple[messages.Batch, ...]) -> None:
    arrays = BATCH.arrays if first else {}
    desk.say(*first, messages.Batch(1, arrays, again=True))
    for _ in first:
        desk.client.next_batch()
    with pytest.raises(ProtocolError, match="step 1 repeats a batch, but none came before it or it has its own"):
        desk.client.next_batch()


def test_weights_are_sent_when_asked_for_before_the_next_batch(desk: Desk) -> None:
    desk.client.serve_state(desk.access())
    desk.say(messages.SendWeights(), BATCH)
    assert desk.client.next_batch() is not None
    answer = desk.hear()
    assert isinstance(answer, messages.Weights)
    np.testing.assert_array_equal(answer.tensors["w"], np.ones(3, np.float32), strict=True)
    assert answer.tensors["b"].shape == (0,)
    assert desk.seen == [Status(None, "weights")]
    assert read_status(desk.status).phase == "wait"


def test_loaded_weights_are_read_back_and_nothing_differs(desk: Desk) -> None:
    desk.client.serve_state(desk.access())
    desk.say(messages.LoadWeights({"w": np.array([1, np.nan, -0.0], np.float32)}), BATCH)
    desk.client.next_batch()
    assert desk.hear() == messages.WeightsLoaded({})
    assert np.signbit(desk.held["w"][2])


@pytest.mark.parametrize(
    "held",
    [np.array([1, 2, 3], np.float64), np.array([[1, 2, 3]], np.float32), np.array([1, 2, 4], np.float32)],
    ids=["dtype", "shape", "value"],
)
def test_a_weight_that_is_held_otherwise_is_reported_as_it_is_held(desk: Desk, held: np.ndarray) -> None:
    access = desk.access()
    desk.client.serve_state(
        StateAccess(access.read_tensors, lambda arrays: desk.held.update(w=held), access.write_optimizer_state)
    )
    desk.say(messages.LoadWeights({"w": np.array([1, 2, 3], np.float32)}), BATCH)
    desk.client.next_batch()
    answer = desk.hear()
    assert isinstance(answer, messages.WeightsLoaded)
    np.testing.assert_array_equal(answer.differing["w"], held, strict=True)


def test_a_minus_zero_that_became_zero_is_a_difference(desk: Desk) -> None:
    access = desk.access()
    write = lambda arrays: desk.held.update({name: array + 0.0 for name, array in arrays.items()})  # noqa: E731
    desk.client.serve_state(StateAccess(access.read_tensors, write, access.write_optimizer_state))
    desk.say(messages.LoadWeights({"w": np.array([-0.0], np.float32)}), BATCH)
    desk.client.next_batch()
    answer = desk.hear()
    assert isinstance(answer, messages.WeightsLoaded) and list(answer.differing) == ["w"]


def test_buffers_that_were_built_otherwise_are_told_as_they_were_before_where_they_are_asked_for(desk: Desk) -> None:
    desk.held.update(grid=np.array([1, 2], np.float32), mask=np.array([1, 0], np.float32), other=np.zeros(2, np.float32))
    read = lambda: {name: array.copy() for name, array in desk.held.items()}  # noqa: E731
    access = desk.access()
    desk.client.serve_state(
        StateAccess(access.read_tensors, access.write_tensors, access.write_optimizer_state, read_buffers=read)
    )
    sent = {name: np.array([1, 0], np.float32) for name in ("grid", "mask", "other")}
    desk.say(messages.LoadWeights(sent, ("grid", "mask", "unknown")), messages.LoadWeights(sent), BATCH)
    desk.client.next_batch()
    answer = desk.hear()
    assert isinstance(answer, messages.WeightsLoaded) and answer.differing == {} and list(answer.replaced) == ["grid"]
    np.testing.assert_array_equal(answer.replaced["grid"], np.array([1, 2], np.float32), strict=True)
    assert desk.hear() == messages.WeightsLoaded({})


def test_state_is_loaded_whole(desk: Desk) -> None:
    desk.client.serve_state(desk.access())
    desk.say(messages.LoadState({"w": np.zeros(3, np.float32)}, {"w/moment1": np.ones(3)}), BATCH)
    desk.client.next_batch()
    assert desk.hear() == messages.StateLoaded()
    assert desk.held["w"].tolist() == [0, 0, 0] and list(desk.state) == ["w/moment1"]


@pytest.mark.parametrize("message", [messages.SendWeights(), messages.ReadRates(5)])
def test_a_request_before_anything_was_built_is_refused(desk: Desk, message: messages.Message) -> None:
    desk.say(message)
    with pytest.raises(ProtocolError, match=f"{type(message).__name__} came before anything was built"):
        desk.client.next_batch()


def test_a_message_that_is_no_request_is_refused(desk: Desk) -> None:
    desk.client.serve_state(desk.access())
    desk.say(messages.ReadRates(5))
    with pytest.raises(ProtocolError, match="ReadRates is not a request to a worker that trains"):
        desk.client.next_batch()


def test_anything_but_a_configuration_is_refused_at_first(desk: Desk) -> None:
    desk.say(BATCH)
    with pytest.raises(ProtocolError, match="expected Configure, got Batch"):
        desk.client.configuration()


def test_a_report_arrives_whole_although_the_client_closes_right_after_it(desk: Desk) -> None:
    array = np.random.default_rng(0).normal(size=1 << 18)
    desk.client.report(messages.StepResult(0, [0.1], np.asarray(1.0), "d", {"parameter": {"w": array}}, (), 0.1))
    desk.client.close()
    answer = desk.hear()
    assert isinstance(answer, messages.StepResult)
    np.testing.assert_array_equal(answer.tensors["parameter"]["w"], array)
