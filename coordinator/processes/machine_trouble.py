"""What the machine refuses, a full disk or too few open files, as one message that says what to do."""

from __future__ import annotations

import errno
import os
import resource
from typing import Dict, Union

import zmq

from stepalign.protocol.errors import EnvironmentFailure

REFUSALS = (OSError, MemoryError, zmq.ZMQError)
"""What Python raises where the machine does not give what was asked for."""

_NEEDED_FILES = 40
"""Open files that a session of two workers takes at most, some to spare. Without them libzmq ends the whole process."""

_ADVICE: Dict[int, str] = {
    errno.ENOSPC: "Free some space, or choose other places with --out DIR and TMPDIR",
    errno.EDQUOT: "Free some of your quota, or choose other places with --out DIR and TMPDIR",
    errno.EFBIG: "Raise the limit on a file's size: ulimit -f",
    errno.EMFILE: "Raise the limit on open files: ulimit -n 1024",
    errno.ENFILE: "Other programs of this machine hold too many files open; end some of them",
    errno.ENOMEM: "Free some memory, or run a smaller case",
    errno.EAGAIN: "Raise the limit on processes: ulimit -u",
    errno.EROFS: "Choose other places with --out DIR and TMPDIR",
    errno.EACCES: "Choose other places with --out DIR and TMPDIR",
    errno.ENOENT: "Check that the folder is still there; choose other places with --out DIR and TMPDIR",
}


def machine_trouble(error: Union[OSError, MemoryError, zmq.ZMQError]) -> EnvironmentFailure:
    """Return ``error`` as a failure of the environment: what was refused, where, and what to do."""
    if isinstance(error, MemoryError):
        return EnvironmentFailure(f"this machine gave the coordinator no more memory. {_ADVICE[errno.ENOMEM]}.")
    number = error.errno or 0
    reason = os.strerror(number) if number in errno.errorcode else str(error)
    where = getattr(error, "filename", None)
    place = f"{os.fsdecode(where)}: " if isinstance(where, (str, bytes, os.PathLike)) else ""
    advice = _ADVICE.get(number)
    return EnvironmentFailure(f"{place}{reason}." + (f" {advice}." if advice else ""))


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
