"""The journal: records whole or absent, in order with the messages around them, there although their writer was killed."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.framing import decode, encode
from stepalign.protocol.journal import MAX_RECORD_BYTES, JournalReader, JournalWriter, open_journal
from stepalign.protocol.messages import StepResult

Ends = tuple[JournalReader, JournalWriter, int]


@pytest.fixture
def ends() -> Iterator[Ends]:
    reader, descriptor = open_journal()
    writer = JournalWriter(descriptor)
    yield reader, writer, descriptor
    reader.close()
    writer.close()


def joined(taken: list[list[bytes]]) -> list[list[bytes]]:
    return [[bytes(frame) for frame in frames] for frames in taken]


def test_a_message_comes_out_as_it_went_in(ends: Ends) -> None:
    reader, writer, _ = ends
    result = StepResult(7, [0.5, 0.25], np.asarray(0.125, np.float32), "ab" * 32, {"buffer": {"n": np.arange(3)}}, (), 0.5)
    assert writer.append(0, encode(result))
    (frames,) = reader.take(0)
    message = decode(frames)
    assert isinstance(message, StepResult) and (message.step, message.lr) == (7, [0.5, 0.25])
    assert message.loss.dtype == np.float32 and message.loss.shape == () and message.loss == 0.125
    assert message.tensors["buffer"]["n"].tolist() == [0, 1, 2]
    assert reader.take(0) == []


def test_what_was_written_after_a_message_waits_for_it(ends: Ends) -> None:
    reader, writer, _ = ends
    for before, text in ((0, b"a"), (0, b"b"), (2, b"c"), (3, b"d")):
        assert writer.append(before, [text])
    assert joined(reader.take(0)) == [[b"a"], [b"b"]]
    assert reader.take(1) == []
    assert joined(reader.take(2)) == [[b"c"]]
    assert joined(reader.take(None)) == [[b"d"]]


def test_what_is_too_large_is_refused_and_what_just_fits_is_taken(ends: Ends) -> None:
    reader, writer, _ = ends
    assert not writer.append(0, [bytes(MAX_RECORD_BYTES - 11)])
    assert not writer.append(0, [b"a", b"b", b"c"])
    assert reader.take(None) == []
    largest = [bytes(MAX_RECORD_BYTES - 112), b"x" * 100]
    assert writer.append(0, largest)
    assert joined(reader.take(None)) == [largest]


def test_a_full_journal_takes_nothing_and_loses_nothing(ends: Ends) -> None:
    reader, writer, _ = ends
    written = 0
    while writer.append(0, [b"%4000d" % written]):
        written += 1
    assert 4 <= written < 1000
    found: list[int] = []
    while len(found) < written:
        taken = reader.take(0)
        assert taken
        found += [int(bytes(frame)) for (frame,) in taken]
    assert found == list(range(written))
    assert writer.append(0, [b"room again"])


def test_a_writer_that_nobody_reads_is_told_so() -> None:
    reader, descriptor = open_journal()
    writer = JournalWriter(descriptor)
    reader.close()
    assert not writer.append(0, [b"a"])
    writer.close()


def test_no_child_of_the_writer_inherits_its_end() -> None:
    reader, descriptor = open_journal()
    os.set_inheritable(descriptor, True)
    writer = JournalWriter(descriptor)
    assert not os.get_inheritable(descriptor)
    reader.close()
    writer.close()


def test_what_a_killed_writer_wrote_is_there() -> None:
    reader, descriptor = open_journal()
    pid = os.fork()
    if not pid:
        writer = JournalWriter(descriptor)
        for number in range(100):
            writer.append(0, [b"%d" % number])
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(descriptor)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert [int(bytes(frame)) for (frame,) in reader.take(0)] == list(range(100))
    reader.close()


@pytest.mark.parametrize("head", [(11, 0, 0), (5000, 0, 4), (20, 0, 9), (1 << 31, 0, 1 << 31)])
def test_what_is_no_record_is_refused(ends: Ends, head: tuple[int, int, int]) -> None:
    reader, _, descriptor = ends
    os.write(descriptor, struct.pack("<III", *head) + b"abcdefgh")
    with pytest.raises(ProtocolError, match=f"a record of {head[0]} bytes came"):
        reader.take(0)


def test_a_record_that_comes_in_parts_is_read_when_it_is_whole(ends: Ends) -> None:
    reader, _, descriptor = ends
    whole = struct.pack("<III", 16, 0, 4) + b"abcd"
    for part in (whole[:5], whole[5:14]):
        os.write(descriptor, part)
        assert reader.take(0) == []
    os.write(descriptor, whole[14:] + whole[:3])
    assert joined(reader.take(0)) == [[b"abcd"]]
