"""Ends this process group when the coordinator ends, however it ends and whatever this process is doing.

The worker holds the reading end of a pipe whose only writer is the coordinator. The kernel is asked to send SIGKILL to
the whole process group when that pipe is hung up or written to: no thread of ours has to run, so it works inside native
code that holds the interpreter lock, and for children in the same group. What left the group is the guard's part.
"""

from __future__ import annotations

import fcntl
import os
import signal

F_SETSIG = 10
"""Linux, <fcntl.h>; the `fcntl` module does not name it before Python 3.11."""


def hold(pipe: int) -> None:
    """Arm the reading end ``pipe``. The process must lead its own group.

    The guard holds the same open pipe, so closing it here does not disarm it.
    """
    os.set_inheritable(pipe, False)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(pipe, F_SETSIG, int(signal.SIGKILL))
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
