"""What the machine refuses, a full disk, too few open files or threads, as one message that says what to do."""

from __future__ import annotations

import errno
import os
import re
import resource
import threading
from typing import Dict, Union

import zmq

from stepalign.protocol.errors import EnvironmentFailure

REFUSALS = (OSError, MemoryError, zmq.ZMQError, RuntimeError)
"""What Python raises where the machine does not give what was asked for: a RuntimeError for a thread alone, or by mistake."""

Refusal = Union[OSError, MemoryError, zmq.ZMQError, RuntimeError]

_NEEDED_FILES = 42
"""Open files that a session of two workers takes at most, some to spare. Without them libzmq ends the whole process."""

_NEEDED_THREADS = 24
"""Threads and processes that a session of two workers comes to have beside ours, those of OpenMP left out: 18, and some to
spare. Without its own libzmq ends the whole process.
"""

_NO_THREAD = re.compile(r"can't start new thread|Resource temporarily unavailable|Cannot fork")
"""What Python, libzmq, libgomp, libstdc++ and the shell say then."""

_ADVICE: Dict[int, str] = {
    errno.ENOSPC: "Free some space, or choose other places with --out DIR and TMPDIR",
    errno.EDQUOT: "Free some of your quota, or choose other places with --out DIR and TMPDIR",
    errno.EFBIG: "Raise the limit on a file's size: ulimit -f",
    errno.EMFILE: "Raise the limit on open files: ulimit -n 1024",
    errno.ENFILE: "Other programs of this machine hold too many files open; end some of them",
    errno.ENOMEM: "Free some memory, or run a smaller case",
    errno.EAGAIN: "Raise the limit on processes and threads: ulimit -u, or the container's (pids.max)",
    errno.EROFS: "Choose other places with --out DIR and TMPDIR",
    errno.EACCES: "Choose other places with --out DIR and TMPDIR",
    errno.ENOENT: "Check that the folder is still there; choose other places with --out DIR and TMPDIR",
}


def machine_trouble(error: Refusal) -> EnvironmentFailure:
    """Return ``error`` as a failure of the environment: what was refused, where, and what to do.

    Raises ``error`` itself if it is none: a RuntimeError about anything but threads.
    """
    if isinstance(error, MemoryError):
        return EnvironmentFailure(f"this machine gave the coordinator no more memory. {_ADVICE[errno.ENOMEM]}.")
    if isinstance(error, RuntimeError):
        if not _NO_THREAD.search(str(error)):
            raise error
        return EnvironmentFailure(f"this machine let the coordinator start no more threads. {_ADVICE[errno.EAGAIN]}.")
    number = error.errno or 0
    reason = os.strerror(number) if number in errno.errorcode else str(error)
    where = getattr(error, "filename", None)
    place = f"{os.fsdecode(where)}: " if isinstance(where, (str, bytes, os.PathLike)) else ""
    advice = _ADVICE.get(number)
    return EnvironmentFailure(f"{place}{reason}." + (f" {advice}." if advice else ""))


def thread_hint(text: str) -> str:
    """Return what to do if ``text``, a worker's last words, tells of a thread or a process that was refused; else nothing."""
    if not _NO_THREAD.search(text):
        return ""
    return " (this machine let it start no more threads: raise the limit, ulimit -u or the container's pids.max)"


def require_threads() -> None:
    """Raise EnvironmentFailure if as many threads as a session takes cannot be had at once; they end before it returns."""
    over, started = threading.Event(), 0
    threads = [threading.Thread(target=over.wait, daemon=True) for _ in range(_NEEDED_THREADS)]
    try:
        for thread in threads:
            thread.start()
            started += 1
    except RuntimeError:
        raise EnvironmentFailure(
            f"too few threads: this process may start {started} more, a run takes {_NEEDED_THREADS}. {_ADVICE[errno.EAGAIN]}."
        ) from None
    finally:
        over.set()
        for thread in threads[:started]:
            thread.join()


def require_open_files() -> None:
    """Raise EnvironmentFailure if this process may not open as many files as a session takes; mends the soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    needed = len(os.listdir("/proc/self/fd")) + _NEEDED_FILES
    if soft >= needed:
        return
    if hard == resource.RLIM_INFINITY or hard >= needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    raise EnvironmentFailure(f"too many open files: this process may have {soft}, a run takes {needed}. {_ADVICE[errno.EMFILE]}.")
