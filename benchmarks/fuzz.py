"""``python -m benchmarks.fuzz``: mutated messages over a real socket, in both directions, from one seed.

Each message is one of the golden frames, damaged: bytes set, cut, inserted; frames lost, swapped, doubled; fields replaced
by other values. What comes out at the other end must be a message or a ProtocolError, and memory must stay bounded. The
exit code is 1 if anything else was raised, or if the process grew.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import zmq

from stepalign.protocol import short_result
from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.sockets import bind_router, connect_dealer, ipc_endpoint, receive, receive_from

GOLDEN = Path(__file__).parents[1] / "tests" / "protocol" / "golden"
DIRECTIONS = ("to the coordinator", "to a worker")
ROLE = "torch"
MAX_GROWTH_BYTES = 64 << 20
_WARM_UP = 2000
_MOST_BYTES = 1 << 20
_STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1 << 40, (1 << 64) - 1, -(1 << 63), 0.5, float("nan"), float("inf"), "", "x" * 300, "\u202e", "../../x",
    b"", b"\x00" * 9, [], {}, [[]], {"": None}, [0, 0, "float64", [1 << 40, 1 << 40]], [1, 0, "object", [1]], "object",
)  # fmt: skip

Frames = list[bytes]


def corpus() -> list[Frames]:
    """Return every golden message as its frames."""
    newest = max(GOLDEN.iterdir(), key=lambda folder: int(folder.name[1:]))
    found = []
    for path in sorted(newest.glob("*.hex")):
        frames = [bytes.fromhex(line) for line in path.read_text(encoding="ascii").splitlines()]
        if sum(map(len, frames)) <= _MOST_BYTES:
            found.append(frames)
    return found


def mutations(seed: int, messages: Sequence[Frames]) -> Iterator[Frames]:
    """Yield damaged messages without end; the same ones for the same seed."""
    draw = random.Random(seed)
    parsed = [
        None if frames[0][0] == short_result.MARK else msgpack.unpackb(frames[0], strict_map_key=False) for frames in messages
    ]
    while True:
        number = draw.randrange(len(messages))
        if draw.random() < 0.4 and parsed[number] is not None:
            yield [_with_other_field(parsed[number], draw), *messages[number][1:]]
            continue
        frames = [bytearray(frame) for frame in messages[number]]
        for _ in range(draw.randint(1, 4)):
            _damage(frames, draw)
        yield [bytes(frame) for frame in frames]


def _damage(frames: list[bytearray], draw: random.Random) -> None:
    """Change one thing about the frames, in place."""
    index = draw.randrange(len(frames)) if draw.random() < 0.4 else 0
    frame = frames[index]
    position = draw.randint(0, len(frame))
    kind = draw.randrange(9)
    if kind == 0 and position < len(frame):
        frame[position] = draw.randrange(256)
    elif kind == 1 and position < len(frame):
        frame[position] ^= 1 << draw.randrange(8)
    elif kind == 2:
        del frame[position:]
    elif kind == 3:
        frame[position:position] = draw.randbytes(draw.randint(1, 9))
    elif kind == 4:
        del frame[position : position + draw.randint(1, 9)]
    elif kind == 5:
        frames.append(bytearray(frame))
    elif kind == 6 and len(frames) > 1:
        del frames[index]
    elif kind == 7:
        draw.shuffle(frames)
    elif kind == 8:  # a length of gigabytes, as msgpack writes it
        frame[position:position] = draw.choice((b"\xdb", b"\xc6", b"\xdd", b"\xdf")) + draw.randbytes(4)


def _with_other_field(header: list[Any], draw: random.Random) -> bytes:
    """Return the header with one value, anywhere in it, replaced; packed."""

    def changed(value: Any) -> Any:
        if isinstance(value, dict) and value and draw.random() < 0.8:
            key = draw.choice(sorted(value, key=str))
            if draw.random() < 0.1:
                return {name: held for name, held in value.items() if name != key}
            return {**value, key: changed(value[key])}
        if isinstance(value, list) and value and draw.random() < 0.8:
            index = draw.randrange(len(value))
            return [*value[:index], changed(value[index]), *value[index + 1 :]]
        return draw.choice(_STRANGE)

    packed: bytes = msgpack.packb([header[0], header[1], changed(header[2])] if draw.random() < 0.9 else changed(header))
    return packed


@dataclass
class Found:
    """What came of the messages of one direction."""

    outcomes: Counter[str]
    seconds: float
    growth_bytes: int
    peak_growth_bytes: int

    @property
    def is_sound(self) -> bool:
        """Whether nothing but messages and protocol errors came, in bounded memory."""
        return set(self.outcomes) <= {"message", "ProtocolError"} and self.peak_growth_bytes < MAX_GROWTH_BYTES


def fuzz(count: int, seed: int, direction: str) -> Found:
    """Send ``count`` damaged messages through a socket of the private kind and read them as that end reads them."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with tempfile.TemporaryDirectory(prefix="saz-") as folder:
        endpoint = ipc_endpoint(f"{folder}/s")
        router, dealer = bind_router(context, endpoint), connect_dealer(context, endpoint, ROLE)
        try:
            dealer.send(b"")
            router.recv_multipart()
            send, read = _ends(router, dealer, direction)
            return _count(send, read, mutations(seed, corpus()), count)
        finally:
            context.destroy(linger=0)


def _ends(
    router: "zmq.Socket[bytes]", dealer: "zmq.Socket[bytes]", direction: str
) -> tuple[Callable[[Frames], Any], Callable[[], object]]:
    """Return how a message is sent, and how the other end reads it: a message, or a ProtocolError raised or returned."""
    if direction == DIRECTIONS[0]:
        return dealer.send_multipart, lambda: receive_from(router)[1]
    return lambda frames: router.send_multipart([ROLE.encode(), *frames]), lambda: receive(dealer)


def _count(send: Callable[[Frames], Any], read: Callable[[], object], source: Iterator[Frames], count: int) -> Found:
    outcomes: Counter[str] = Counter()
    started, before, peak = time.monotonic(), 0, 0
    for number in range(count):
        if number == min(_WARM_UP, count // 2):
            before, peak = _memory_bytes("VmRSS"), _memory_bytes("VmHWM")
        send(next(source))
        try:
            got = read()
            outcomes["ProtocolError" if isinstance(got, ProtocolError) else "message"] += 1
        except ProtocolError:
            outcomes["ProtocolError"] += 1
        except Exception as error:  # what must not come is counted by name
            outcomes[f"{type(error).__name__}: {error}"[:100]] += 1
    grown, highest = _memory_bytes("VmRSS") - before, _memory_bytes("VmHWM") - peak
    return Found(outcomes, time.monotonic() - started, grown, highest)


def _memory_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) << 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz both directions and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, metavar="N", help="in all, half of them each way")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    options = parser.parse_args(arguments)
    sound = True
    for number, direction in enumerate(DIRECTIONS):
        found = fuzz(options.messages // 2, options.seed + number, direction)
        sound &= found.is_sound
        told = ", ".join(f"{times} {what}" for what, times in found.outcomes.most_common(8))
        print(
            f"{direction:19} seed {options.seed + number}: {told}; {found.seconds:.0f} s; memory grew by "
            f"{found.growth_bytes / 2**20:.1f} MiB, {found.peak_growth_bytes / 2**20:.1f} MiB at most",
            flush=True,
        )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
