"""Headers: their version first, bounded, and nothing in them but plain values."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import msgpack
import pytest

from stepalign.protocol import framing, tensors
from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.framing import MAX_HEADER_SIZE_BYTES, decode, encode
from stepalign.protocol.messages import PROTOCOL_VERSION, Configure, Finish, Message, StepResult
from stepalign.protocol.schema import SchemaError

from .message_examples import EXAMPLES, name_of


def header(name: str = "Finish", body: Any = None, version: Any = PROTOCOL_VERSION) -> bytes:
    packed: bytes = msgpack.packb([version, name, {} if body is None else body, []])
    return packed


def error_of(*frames: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        decode(frames)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("version", [0, 1, 2, 99, -1, 1.0, True, "1", None, [1], {}])
def test_another_version_is_refused_first_and_says_what_to_do(version: Any) -> None:
    if version == PROTOCOL_VERSION and type(version) is int:
        pytest.skip("the version that is spoken")
    text = error_of(header("NoSuchMessage", {"nonsense": 1}, version))
    assert f"came, expected {PROTOCOL_VERSION}: both sides must run the same stepalign" in text


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "is not msgpack"),
        (b"\xc1", "is not msgpack"),
        (b"\x93\x01", "is not msgpack"),
        (header() + b"\x00", "is not msgpack"),
        (b"\x94%c\xa6Finish\x81\xc4\x01a\x01\x90" % PROTOCOL_VERSION, "unknown key|a key is a string"),
        (b"\x93\x01\xa6Finish\x81\x05\x01", "is not msgpack"),
        (b"\x93\x01\xa2\xff\xfe\x80", "is not msgpack"),
        (b"\xc0", r"a header is \[version, message name, body, released\]"),
        (b"\x92\x01\xa6Finish", r"a header is \[version, message name, body, released\]"),
        (header("finish"), "message 'finish' is unknown"),
        (header("x" * 100000), "message 'xxx.*is unknown"),
        (header(name=3), "message 3 is unknown"),  # type: ignore[arg-type]
        (header("__class__"), "is unknown"),
        (msgpack.packb([PROTOCOL_VERSION, "Finish", msgpack.ExtType(5, b"abc"), []]), r"a msgpack extension \(type 5\) came"),
        (msgpack.packb([PROTOCOL_VERSION, "Finish", msgpack.Timestamp(1), []]), "Finish: expected a table, got|msgpack extension"),
        (header("Finish", []), r"Finish: expected a table, got \[\]"),
        (header("Finish", {"a": 1}), "Finish.a: unknown key"),
        (b"\xdd\xff\xff\xff\xff", "is not msgpack"),
        (b"\xdf\xff\xff\xff\xff", "is not msgpack"),
        (b"\xc6\xff\xff\xff\xff", "is not msgpack"),
        (b"\xdb\xff\xff\xff\xff", "is not msgpack"),
    ],
)
def test_a_header_that_is_none_is_refused(frame: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode([frame])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([float(PROTOCOL_VERSION), "Finish", {}, []], f"protocol version {float(PROTOCOL_VERSION)} came"),
        ([PROTOCOL_VERSION, ["Finish"], {}, []], r"message \['Finish'\] is unknown"),
        ([PROTOCOL_VERSION, "Finish", {}, 5], "Finish does not end with a list of what was released"),
        ([PROTOCOL_VERSION, "Finish", {}, {"0": 64}], "Finish does not end with a list of what was released"),
        ([PROTOCOL_VERSION, "Finish", {}, [64]], "memory at 64 was released, but none is shared"),
    ],
)
def test_each_part_of_a_header_has_its_type(parts: list[Any], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decode([msgpack.packb(parts)])


def test_no_frame_is_no_message() -> None:
    assert error_of() == "a message without a frame came"


@pytest.mark.parametrize("depth", [10, 100, 400, 2000, 100_000])
def test_depth_is_bounded(depth: int) -> None:
    prefix = b"\x93\x01\xa6Finish"
    assert error_of(prefix + b"\x91" * depth + b"\xc0")
    options = b"\x81\xa1a" * depth + b"\xc0"
    assert error_of(b"\x93\x01\xa9Configure\x81\xa7options" + options)
    assert error_of(b"\x93" + b"\x91" * depth + b"\xc0\xc0\xc0")


def test_a_header_beyond_the_limit_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing.msgpack, "unpackb", None)
    text = error_of(bytes(MAX_HEADER_SIZE_BYTES + 1))
    assert text == f"a header of {MAX_HEADER_SIZE_BYTES + 1} bytes came, more than {MAX_HEADER_SIZE_BYTES}"


def test_a_header_beyond_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_HEADER_SIZE_BYTES", 9)
    with pytest.raises(ProtocolError, match="the header of Finish has"):
        encode(Finish())


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_a_message_without_one_of_its_fields_or_with_one_more_is_refused_with_the_path(example: Message) -> None:
    first, *rest = encode(example)
    version, name, body, released = msgpack.unpackb(first)
    needed = [item.name for item in fields(example) if item.default is item.default_factory is MISSING]
    for field in needed:
        without = {key: value for key, value in body.items() if key != field}
        with pytest.raises(SchemaError, match=f"{name}.{field}: this key is missing"):
            decode([msgpack.packb([version, name, without, released]), *rest])
    with pytest.raises(ProtocolError, match=f"{name}.surplus: unknown key"):
        decode([msgpack.packb([version, name, {**body, "surplus": 1}, released]), *rest])


@pytest.mark.parametrize("value", [b"bytes", {"a": b"bytes"}, [b"bytes"], 1 << 63, nested(65)])
def test_free_values_are_plain_ones(value: Any) -> None:
    example = next(item for item in EXAMPLES if isinstance(item, Configure))
    version, name, body, released = msgpack.unpackb(encode(example)[0])
    body["options"] = {"value": value}
    with pytest.raises(SchemaError, match="Configure.options"):
        decode([msgpack.packb([version, name, body, released])])


def test_a_promise_of_gigabytes_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    example = next(item for item in EXAMPLES if isinstance(item, StepResult))
    first, *rest = encode(example)
    version, name, body, released = msgpack.unpackb(first)
    body["loss"] = [0, 0, "float64", [1 << 31]]
    monkeypatch.setattr(tensors.np, "empty", None)
    monkeypatch.setattr(tensors.np, "frombuffer", None)
    with pytest.raises(ProtocolError, match="StepResult.loss: float64.* needs 17179869184 bytes, but frame 0 has"):
        decode([msgpack.packb([version, name, body, released]), *rest])


def test_an_error_names_the_array_by_its_path() -> None:
    example = next(item for item in EXAMPLES if isinstance(item, StepResult))
    first, *rest = encode(example)
    version, name, body, released = msgpack.unpackb(first)
    body["tensors"]["gradient"]["weight"][2] = "object"
    with pytest.raises(ProtocolError, match=r"StepResult.tensors.gradient.weight: dtype 'object' is not one of"):
        decode([msgpack.packb([version, name, body, released]), *rest])
