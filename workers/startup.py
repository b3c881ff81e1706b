"""What makes a process of a user's own command safe before its first line runs: standard library only.

The command is started below a guard, as every worker is. The first Python process in it then gets what a worker gets: a
fatal signal leaves a traceback in the log, and the other framework cannot be imported. Python imports `sitecustomize`
by itself, and so reads this before the script's first line.
"""

from __future__ import annotations

import faulthandler
import importlib.machinery
import importlib.util
import os
import signal
import sys
from typing import NoReturn, Sequence

from stepalign.protocol.status import note_pid
from stepalign.workers import guard, isolation

COMMAND_MARK = "STEPALIGN_COMMAND"
"""In the environment of a command until its first Python process is safe; children of that one are told nothing."""

EXIT_MISSING_PACKAGE = 78
_EXIT_NO_COMMAND = 127


def run_command(words: Sequence[str]) -> NoReturn:
    """Become the command, below a guard that ends whatever it starts."""
    guard.stand(int(os.environ.pop("STEPALIGN_LIFELINE")), os.environ["STEPALIGN_STATUS"])
    try:
        os.execvp(words[0], list(words))
    except OSError as error:
        print(f"stepalign: {words[0]} does not start: {error.strerror}", file=sys.stderr)
    os._exit(_EXIT_NO_COMMAND)


def secure(framework: str) -> None:
    """Make this process safe, and have it known as the worker."""
    os.environ.pop(COMMAND_MARK, None)
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    note_pid(os.environ["STEPALIGN_STATUS"])
    isolation.forbid_other_frameworks(framework)


def begin_python() -> None:
    """Make the first Python process of a command safe, then run the `sitecustomize` that ours hides."""
    if COMMAND_MARK in os.environ:
        secure(os.environ["STEPALIGN_FRAMEWORK"])
    _run_hidden_sitecustomize()


def end_without_packages(error: ImportError) -> NoReturn:
    """Say which package the interpreter lacks, and end as the coordinator expects it."""
    print(
        f"stepalign: {sys.executable} lacks a package that every worker needs: {error}. "
        f"Install it with: {sys.executable} -m pip install numpy pyzmq msgpack",
        file=sys.stderr,
    )
    sys.exit(EXIT_MISSING_PACKAGE)


def _run_hidden_sitecustomize() -> None:
    own = os.path.dirname(getattr(sys.modules.get("sitecustomize"), "__file__", None) or "")
    spec = importlib.machinery.PathFinder.find_spec(
        "sitecustomize", [entry for entry in sys.path if os.path.abspath(entry) != os.path.abspath(own)]
    )
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)
