"""Has the kernel end a process group when the coordinator ends, however it ends and whatever that group is doing.

A worker holds the reading end of a pipe whose only writer is the coordinator. The kernel is asked to send SIGKILL to a
whole process group when that pipe is hung up or written to: no thread of ours has to run, so it works inside native code
that holds the interpreter lock, and for children in the same group. The coordinator arms it as soon as the process is
there; the worker takes it over for its own group. What left the group is the guard's part (`workers/guard.py`).
"""

from __future__ import annotations

import fcntl
import os
import signal

F_SETSIG = 10
"""Linux, <fcntl.h>; the `fcntl` module does not name it before Python 3.11."""


def arm(pipe: int, group: int) -> None:
    """Have ``group`` killed when the open pipe behind the reading end ``pipe`` is hung up or written to.

    The order stays with the open pipe: it holds as long as any process has that end open.
    """
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -group)
    fcntl.fcntl(pipe, F_SETSIG, int(signal.SIGKILL))
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
