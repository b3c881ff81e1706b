"""Ends this process group when the coordinator ends, however it ends and whatever this process is doing.

The worker holds the reading end of a pipe whose only writer is the coordinator. The kernel is asked to send SIGKILL to
the whole process group when that pipe is hung up: no thread of ours has to run, so it works inside native code that
holds the interpreter lock, and for children in the same group.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading

F_SETSIG = 10
"""Linux, <fcntl.h>; the `fcntl` module does not name it before Python 3.11."""


def hold(pipe: int) -> None:
    """Arm the reading end ``pipe``. The process must lead its own group."""
    os.set_inheritable(pipe, False)
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(pipe, F_SETSIG, int(signal.SIGKILL))
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    threading.Thread(target=_end_with, args=(pipe,), name="stepalign-lifeline", daemon=True).start()


def _end_with(pipe: int) -> None:
    """Cover the coordinator's death before the pipe was armed, and kernels that send no signal."""
    try:
        os.read(pipe, 1)
    finally:
        os.killpg(os.getpgrp(), signal.SIGKILL)
