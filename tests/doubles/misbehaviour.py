"""What a worker can do wrong, as one catalogue of actions; for the numpy double and, put into a case, for real workers.

``STEPALIGN_DOUBLE`` says what happens where: ``POINT[:STEP]=ACTION``, several separated by commas. A point is a phase as
the worker notes it (import, build, weights, forward, ...), ``start``, ``stop``, or for the double the name of a message.
Each happens once. Right before it happens, pids are written to ``STEPALIGN_DOUBLE_NOTE``: this process's own, then those
of what it started. Standard library only, so that an interpreter can run it before anything of a worker's is there.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Optional, Tuple

DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(1000)"


def parse(text: str) -> Dict[Tuple[str, Optional[int]], str]:
    faults = {}
    for part in filter(None, text.split(",")):
        point, _, action = part.partition("=")
        name, _, step = point.partition(":")
        faults[name, int(step) if step else None] = action
    return faults


FAULTS = parse(os.environ.get("STEPALIGN_DOUBLE", ""))
NOTE = os.environ.get("STEPALIGN_DOUBLE_NOTE", "")


def fault(point: str, step: Optional[int] = None) -> str:
    """Return the action for a point, if any; each happens once."""
    return FAULTS.pop((point, step), "") or FAULTS.pop((point, None), "")


def note(*pids: int) -> None:
    """Write the pids down, unless something went wrong before."""
    if not NOTE or os.path.exists(NOTE):
        return
    with open(NOTE + ".part", "w", encoding="ascii") as file:
        file.write(" ".join(str(pid) for pid in (os.getpid(), *pids)))
    os.replace(NOTE + ".part", NOTE)


def misbehave(action: str) -> None:
    """Do what can be done at any point."""
    if not action:
        return
    if action.startswith("SIG"):
        note()
        os.kill(os.getpid(), getattr(signal, action))
        time.sleep(1)
    elif action in _ACTIONS:
        _ACTIONS[action]()
    else:
        raise AssertionError(f"no such action: {action}")


def _noted(call: Callable[[], Any]) -> Callable[[], Any]:
    def act() -> None:
        note()
        call()

    return act


def _raise(error: BaseException) -> None:
    raise error


# ---------------------------------------------------------------------------------------------- ends


def corrupt_heap() -> None:
    """Free what was never allocated: glibc finds out, and aborts."""
    block = ctypes.create_string_buffer(64)
    free = ctypes.CDLL(None).free
    free.argtypes = [ctypes.c_void_p]
    free(ctypes.addressof(block) + 16)


def run_out_of_memory() -> None:
    """Ask for more than this process may have; what is raised is MemoryError."""
    used = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, used[1]))
    bytearray(1 << 41)


def run_out_of_threads() -> None:
    """Start a thread where this user may have no more; what is raised is RuntimeError. Takes root's rights to be another."""
    if not os.getuid():
        os.setresuid(64321, 64321, 64321)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    threading.Thread(target=hang_in_python, daemon=True).start()


def take_memory_and_hang() -> None:
    """Hold memory, touched, inside native code, until somebody ends it: as the kernel does where there is no more."""
    taken = b"x" * (256 << 20)
    note()
    hang_in_native_code()
    del taken


def raise_case_error() -> None:
    from stepalign.protocol.errors import CaseError

    raise CaseError("this double was asked to say that the case is wrong")


# ---------------------------------------------------------------------------------------------- hangs


def watch_the_clock() -> None:
    hang_in_python()


def hang_in_python() -> None:
    while True:
        time.sleep(1000)


def hang_in_native_code() -> None:
    """Sleep with the interpreter's lock held."""
    ctypes.PyDLL(None).sleep(1000)


def hang_busily() -> None:
    while True:
        pass


def hang_deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note()
    hang_in_python()


def hang_in_fork() -> None:
    """Wait for a child that waits for nothing."""
    child = fork_sleeper()
    note(child)
    os.waitpid(child, 0)


def close_lifeline() -> None:
    os.close(int(os.environ["STEPALIGN_LIFELINE"]))
    note()
    hang_busily()


def close_files() -> None:
    os.closerange(3, 256)
    hang_in_python()


# ---------------------------------------------------------------------------------------------- children


def fork_sleeper() -> int:
    pid = os.fork()
    if not pid:
        hang_in_python()
    return pid


def fork_and_hang() -> None:
    child = fork_sleeper()
    note(child)
    hang_in_native_code()


def fork_daemon() -> int:
    """Start what leaves everything behind: parent, group, session, environment, descriptors, working directory."""
    reading, writing = os.pipe()
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(writing, b"%d" % os.getpid())
        os.chdir("/")
        os.closerange(0, 256)
        os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", DEAF], {})
    os.wait()
    daemon = int(os.read(reading, 32))
    os.close(reading)
    os.close(writing)
    return daemon


def daemon_and_hang() -> None:
    note(fork_daemon())
    hang_in_native_code()


def daemon_and_die() -> None:
    note(fork_daemon())
    os.kill(os.getpid(), signal.SIGSEGV)


def leave_orphans() -> None:
    for _ in range(20):
        if not os.fork():
            os.fork()
            os._exit(0)
        os.wait()
    note()


def fork_tidy_child() -> None:
    """Start a child that ends, after some tidying, when this process does; SIGTERM would keep it from that."""
    reading, writing = os.pipe()
    if not os.fork():
        os.close(writing)
        os.read(reading, 1)
        time.sleep(0.05)
        with open(NOTE + ".tidied", "w", encoding="ascii"):
            os._exit(0)


def fork_and_return() -> None:
    """Fork, and have the child go on as if it were the worker."""
    os.fork()


def spawn_child() -> None:
    """Start a program that is in no hurry."""
    note(subprocess.Popen([sys.executable, "-I", "-S", "-c", DEAF]).pid)


# ---------------------------------------------------------------------------------------------- nuisances


def flood() -> None:
    block = b"all work and no play\n" * 4096
    for _ in range(64):
        os.write(1, block)
        os.write(2, block)


def close_output() -> None:
    os.close(1)
    os.close(2)


_ACTIONS: Dict[str, Callable[[], Any]] = {
    "segfault": _noted(lambda: ctypes.string_at(0)),
    "abort": _noted(os.abort),
    "corrupt_heap": _noted(corrupt_heap),
    "os._exit": _noted(lambda: os._exit(9)),
    "sys.exit": _noted(lambda: sys.exit(3)),
    "raise": _noted(lambda: _raise(ValueError("this double was asked to raise"))),
    "raise_case": _noted(raise_case_error),
    "raise_surrogate": _noted(lambda: _raise(OSError("no file \udcff\udcfe here"))),
    "raise_much": _noted(lambda: _raise(ValueError("x" * (100 << 20)))),
    "raise_base": _noted(lambda: _raise(BaseException("beyond Exception"))),
    "memory": _noted(run_out_of_memory),
    "threads": _noted(run_out_of_threads),
    "memory_and_hang": take_memory_and_hang,
    "hang": _noted(hang_in_python),
    "hang_native": _noted(hang_in_native_code),
    "hang_busy": _noted(hang_busily),
    "hang_deaf": hang_deaf,
    "hang_fork": hang_in_fork,
    "fork": fork_and_hang,
    "fork_and_go": lambda: note(fork_sleeper()),
    "fork_and_return": _noted(fork_and_return),
    "spawn_and_go": spawn_child,
    "daemon": daemon_and_hang,
    "daemon_and_go": lambda: note(fork_daemon()),
    "daemon_and_die": daemon_and_die,
    "orphans": leave_orphans,
    "tidy_child": fork_tidy_child,
    "close_lifeline": close_lifeline,
    "close_files": _noted(close_files),
    "close_output": _noted(close_output),
    "flood": _noted(flood),
    "chdir": _noted(lambda: os.chdir("/")),
    "go_on": note,
}


# ---------------------------------------------------------------------------------------------- where


def arm(now: str = "") -> None:
    """From here on, each phase that this worker enters looks for its fault; ``stop`` is right before its last words.

    ``now`` is the phase that it is in already, as a script that is being loaded is in ``build``.
    """
    from stepalign.protocol import status
    from stepalign.workers import client

    enter, close = status.StatusWriter.enter, client.Client.close

    def entering(self: Any, phase: str, step: Optional[int] = None) -> None:
        enter(self, phase, step)
        if FAULTS:
            misbehave(fault(phase, self.step))

    def closing(self: Any) -> None:
        misbehave(fault("stop"))
        close(self)

    status.StatusWriter.enter = entering  # type: ignore[method-assign]
    client.Client.close = closing  # type: ignore[method-assign]
    misbehave(fault(now))


class _AtImport:
    """Misbehaves when the framework is looked for."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == os.environ.get("STEPALIGN_FRAMEWORK") and ("import", None) in FAULTS:
            misbehave(fault("import"))


def arm_interpreter() -> None:
    """For sitecustomize: what happens at the start and at the import of the framework, before any script is there."""
    if os.environ.get("STEPALIGN_ROLE"):
        sys.meta_path.insert(0, _AtImport())  # type: ignore[arg-type]
        misbehave(fault("start"))


def start_clock() -> None:
    """Have a second thread, whose stack is told with the first one's."""
    threading.Thread(target=watch_the_clock, daemon=True).start()
