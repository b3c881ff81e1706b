"""Parts this process in three: two guards, and the worker below them. What the worker starts does not outlive it.

    coordinator --pipe--> outer guard ---> guard (both wait, nothing else) ---> worker ---> its children, and daemons

The guard is the subreaper of all that comes from the worker: a daemon that left its parent, group and session becomes
the guard's own child, whatever it did to its environment and descriptors. Only its own children are ever signalled, and
a child's number is not given to another process before the guard has reaped it. It ends as the worker ended, so that
whoever started it reads the worker's own exit code. The worker ends with its guard.

Either guard may be killed: the outer one, a subreaper too, inherits what the guard leaves, and ends it; the guard ends all
when the outer one is gone. Only who kills both at once leaves a daemon behind.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import time
from typing import Any, List, Mapping, NoReturn, Sequence, Union

from stepalign.protocol import lifeline
from stepalign.protocol.status import note_guard

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
"""Linux, <sys/prctl.h>."""

_ON_ITS_OWN_S, _TERM_S, _KILL_S = 0.2, 0.2, 5.0
"""What is left of a dead worker may end by itself, as helpers do whose pipe was closed; then SIGTERM; then SIGKILL."""

_LOOK_S = 0.005
_FORWARDED = (signal.SIGTERM, signal.SIGUSR1)
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def stand(pipe: int, status_path: str) -> None:
    """Return in the worker, a new process that leads a session; the calling process and a child stay behind as its guards.

    ``pipe`` is the lifeline's reading end: when it is hung up or written to, the worker and all that it started end.
    SIGTERM and SIGUSR1 to the outer guard go to the worker.
    """
    before = {int(number): signal.getsignal(number) for number in (*_FORWARDED, *_IGNORED, signal.SIGCHLD)}
    coordinator, outer = _open_parent(), os.getpid()
    _stay_behind(before, (), to_group=False)
    os.setpgid(0, 0)  # a signal to the outer guard's group comes once, from the outer guard
    above = _open_parent()
    if os.getppid() != outer:
        os._exit(1)
    guard = os.getpid()
    with contextlib.suppress(OSError):  # a coordinator that is gone already is seen at the first look at the pipe
        note_guard(status_path)
    _stay_behind(before, (pipe, *coordinator, *above), to_group=True)
    for descriptor in (*coordinator, *above):
        os.close(descriptor)
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != guard:
        os._exit(1)
    os.set_inheritable(pipe, False)
    lifeline.arm(pipe, os.getpgrp())


def _stay_behind(before: Mapping[int, Any], watched: Sequence[int], to_group: bool) -> None:
    """Return in a new process, with the handlers of ``before``; the calling one becomes its guard and never returns.

    It ends the new one when one of the ``watched`` descriptors is hung up or has something to read. SIGTERM is forwarded to
    the new process, or ``to_group``, which it must lead by then.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waking, False)
    child: List[int] = []

    def forward(number: int, frame: object) -> None:
        for pid in child:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number) if to_group and number != signal.SIGUSR1 else os.kill(pid, number)

    for number in _FORWARDED:
        signal.signal(number, forward)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(woken)
    # Nothing is forwarded before the guard knows to whom.
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    pid = os.fork()
    if not pid:
        signal.set_wakeup_fd(-1)
        for which, handler in before.items():
            signal.signal(which, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        for descriptor in (waking, woken):
            os.close(descriptor)
        return
    _prctl(_PR_SET_NAME, b"stepalign-guard")
    child.append(pid)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    _watch(pid, watched, waking, child)


def _watch(pid: int, watched: Sequence[int], waking: int, child: List[int]) -> NoReturn:
    """Wait for the end of the child, or of whoever wants it, and leave as the child did."""
    status = 1 << 8
    try:
        poll = select.poll()
        for descriptor in (*watched, waking):
            poll.register(descriptor, select.POLLIN)
        found = None
        while found is None:
            ready = dict(poll.poll())
            if not ready.keys().isdisjoint(watched):
                os.kill(pid, signal.SIGKILL)
                found = os.waitpid(pid, 0)[1]
            elif waking in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(waking, 1 << 12)
                found = _reap(pid)
        status = found
    finally:
        child.clear()
        _end_children()
        _leave_as(status)


def _reap(pid: int) -> "int | None":
    """Reap all children that ended; return the exit status of ``pid`` if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if not ended:
                break
            if ended == pid:
                found = status
    return found


def _end_children() -> None:
    """End all that is left. Children of a child that ends become children of ours, and have their turn."""
    for number, patience_s in ((0, _ON_ITS_OWN_S), (signal.SIGTERM, _TERM_S), (signal.SIGKILL, _KILL_S)):
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            _reap(0)
            left = _children()
            if not left:
                return
            for pid in left if number else ():
                with contextlib.suppress(PermissionError):  # a program that runs as another user
                    os.kill(pid, number)
            time.sleep(_LOOK_S)


def _children() -> List[int]:
    """Return the guard's children; the guard has one thread."""
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return list(_children_among_all(own))


def _children_among_all(own: int) -> List[int]:
    """Return the children of ``own`` where the kernel keeps no list of them."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError), open(f"/proc/{entry}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == own:
                found.append(int(entry))
    return found


def _leave_as(status: int) -> NoReturn:
    """End with the exit status of another process: with its exit code, or by its signal, without a core of our own."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # SIGKILL has no handler to take away
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


def _open_parent() -> List[int]:
    """Return a handle of the parent's process, whose end shows there; a fork of the coordinator may still hold the pipe."""
    try:
        return [os.pidfd_open(os.getppid())]
    except (OSError, AttributeError):
        return []


def _prctl(option: int, value: Union[int, bytes]) -> None:
    """Call prctl(2). Without ctypes, descendants that leave their parents escape; nothing else depends on it."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
