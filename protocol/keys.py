"""Keys of a run whose workers are on several machines: CURVE, made for the run, never on a command line.

The coordinator has one pair and each side has one. What a side's machine is given is a `SideKey`: the coordinator's
public key, by which the coordinator is known, and the side's own pair, by which the side is known.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import zmq

from stepalign.protocol.errors import CaseError
from stepalign.protocol.schema import SchemaError, from_plain, to_plain

KEY_VARIABLE = "STEPALIGN_KEY"
"""The environment variable that may hold a key's text in place of a file."""

HEARTBEAT_S = 1.0
LOST_S = 10.0
"""Either end that hears nothing of the other for so long gives it up."""


@dataclass(frozen=True)
class SideKey:
    """What one side's machine is given; keys as ZeroMQ writes them (Z85, 40 characters)."""

    side: str
    coordinator_public: str
    public: str
    secret: str


def make_pair() -> "tuple[str, str]":
    """Return a new pair: public, secret."""
    public, secret = zmq.curve_keypair()
    return public.decode("ascii"), secret.decode("ascii")


def write_key(path: Path, key: SideKey) -> None:
    """Write a key into a new file that only this user can read."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        json.dump(to_plain(key), file)


def read_key_file(path: Path) -> SideKey:
    """Read a key from a file. Raises CaseError if it is none, or if others may read it."""
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise CaseError(f"{path}: others may read this key: run chmod 600 {path}")
            text = file.read(1 << 12)
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"{path}: the key cannot be read: {error}") from None
    return read_key(text, str(path))


def find_key(file: "str | None") -> SideKey:
    """Read the key from ``file`` or, without one, from the environment. Raises CaseError."""
    if file:
        return read_key_file(Path(file))
    text = os.environ.get(KEY_VARIABLE, "")
    if not text:
        raise CaseError(f"no key: name its file with --key, or put the file's text into the variable {KEY_VARIABLE}")
    return read_key(text, KEY_VARIABLE)


def read_key(text: str, where: str) -> SideKey:
    """Read a key from its text. Raises CaseError, without showing any of it."""
    try:
        key = from_plain(SideKey, json.loads(text))
    except (ValueError, RecursionError, SchemaError):
        raise CaseError(f"{where}: this is not a key that stepalign made") from None
    if key.side not in ("torch", "paddle") or any(
        len(each) != 40 for each in (key.coordinator_public, key.public, key.secret)
    ):
        raise CaseError(f"{where}: this is not a key that stepalign made")
    return key


def secure_side(socket: "zmq.Socket[bytes]", key: SideKey) -> None:
    """Let a socket speak to the coordinator that a key names, and to nobody else; before it connects."""
    socket.curve_serverkey = key.coordinator_public.encode("ascii")
    socket.curve_publickey = key.public.encode("ascii")
    socket.curve_secretkey = key.secret.encode("ascii")


def secure_coordinator(socket: "zmq.Socket[bytes]", secret: str, domain: bytes) -> None:
    """Let a socket be spoken to only by those whom the authenticator of ``domain`` admits; before it binds."""
    socket.curve_server = True
    socket.curve_secretkey = secret.encode("ascii")
    socket.zap_domain = domain
