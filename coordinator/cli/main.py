"""Runs one command and turns whatever it raises into one message and the contract's exit code.

This is one of two places that catch every exception.
"""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import traceback
from typing import Optional, Sequence

from stepalign.coordinator.cli.parser import build_parser
from stepalign.coordinator.languages.translation import choose, say
from stepalign.protocol.errors import StepalignError

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
"""Before numpy is imported: the coordinator's arithmetic keeps off the workers' cores. Workers are told their own
number.
"""

_INTERRUPTED = 130


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``arguments`` (default: the process's own) and return its exit code."""
    code = _run(arguments)
    if arguments is None and code == _INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not change how the process ends
    return code


def _run(arguments: Optional[Sequence[str]]) -> int:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        from stepalign.coordinator.cli.completing import answer

        answer(parser)
    options = parser.parse_args(arguments)
    choose(getattr(options, "lang", None))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character still gets the rest
    module, _, function = options.handler.partition(":")
    try:
        code: int = getattr(importlib.import_module(module), function)(options)
        sys.stdout.flush()
        return code
    except StepalignError as error:
        print(f"stepalign: {say(str(error), 'errors')}", file=sys.stderr)
        if getattr(options, "json", False):
            print_failure(error)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"stepalign: {say('interrupted')}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return 141
    except Exception as error:
        failure = _refusal(error)
        if failure is not None:
            print(f"stepalign: {failure}", file=sys.stderr)
            _forget_output()
            return failure.exit_code
        traceback.print_exc()
        print("stepalign: this is a mistake of stepalign's own; please report it with the lines above", file=sys.stderr)
        return 3


def _refusal(error: Exception) -> Optional[StepalignError]:
    """Return what the machine refused, as a failure, or None where it refused nothing."""
    from stepalign.coordinator.processes.machine_trouble import REFUSALS, machine_trouble

    try:
        return machine_trouble(error) if isinstance(error, REFUSALS) else None
    except RuntimeError:  # that is no refusal
        return None


def _forget_output() -> None:
    """Send what is still to be written to standard output nowhere: the interpreter would fail on it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_failure(error: StepalignError) -> None:
    """Print what stands for result.json where a run did not come to have one."""
    import json

    import stepalign

    record = {
        "schema": 1, "stepalign": stepalign.__version__, "verdict": "failed", "exit_code": error.exit_code,
        "error": {"message": str(error)},
    }  # fmt: skip
    print(json.dumps(record, indent=1))
