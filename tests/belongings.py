"""What this process has and what was started by it: processes, threads, open files, temporary files, shared memory."""

from __future__ import annotations

import os
import stat
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

MARK = f"STEPALIGN_TESTS_{uuid.uuid4().hex}"
"""A name in the environment of everything that this test session starts, however far removed."""


@dataclass(frozen=True)
class Belongings:
    """What this process has, and what was started by it."""

    processes: frozenset[tuple[int, str]]
    threads: frozenset[threading.Thread]
    open_files: Mapping[int, str]
    temporary: frozenset[str]
    shared_memory: frozenset[str]

    @staticmethod
    def now(folder: Path) -> Belongings:
        return Belongings(
            frozenset(_processes()),
            frozenset(threading.enumerate()),
            _open_files(),
            frozenset(_temporary(folder)),
            frozenset(_shared_memory()),
        )

    def since(self, before: Belongings) -> list[str]:
        """Describe what came to be since ``before``."""
        pids = {pid for pid, _ in before.processes}
        return (
            [f"process {pid}: {what}" for pid, what in sorted(self.processes) if pid not in pids]
            + [f"thread {thread.name}" for thread in self.threads - before.threads]
            + [
                f"file descriptor {number}: {target}"
                for number, target in self.open_files.items()
                if before.open_files.get(number) != target
            ]
            + [f"temporary {path}" for path in sorted(self.temporary - before.temporary)]
            + [f"shared memory {path}" for path in _ownerless(self.shared_memory - before.shared_memory)]
        )


def _processes() -> Iterator[tuple[int, str]]:
    """List all living descendants, orphans too, and our own children that nobody reaped."""
    own, mark = os.getpid(), f"{MARK}=".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == own:
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            with open(f"/proc/{entry}/environ", "rb") as file:
                marked = mark in file.read()
            if marked or int(fields[1]) == own:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
                yield int(entry), f"{fields[0].decode()} {words[:200]}"
        except OSError:
            continue


def _open_files() -> dict[int, str]:
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
    return {number: target for number, target in found.items() if not target.startswith(("/proc/", "/dev/urandom"))}


def _temporary(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        try:
            if path.name.startswith("stepalign") or stat.S_ISSOCK(path.lstat().st_mode):
                yield str(path)
        except OSError:
            continue


def _shared_memory() -> Iterator[str]:
    if os.path.isdir("/dev/shm"):
        yield from (f"/dev/shm/{name}" for name in os.listdir("/dev/shm"))


def _ownerless(paths: Collection[str]) -> list[str]:
    """Leave out what another program of this machine holds: a process that this session did not start."""
    if not paths:
        return []
    ours = {os.getpid(), *(pid for pid, _ in _processes())}
    used = "".join(_mapped(int(entry)) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) not in ours)
    return [path for path in sorted(paths) if path not in used and os.path.exists(path)]


def _mapped(pid: int) -> str:
    """Return the files that a process has mapped or open; nothing of one that is gone."""
    try:
        opened = [os.readlink(f"/proc/{pid}/fd/{entry}") for entry in os.listdir(f"/proc/{pid}/fd")]
        return "\n".join((Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace"), *opened))
    except OSError:
        return ""
