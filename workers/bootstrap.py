"""A worker's first lines: tie its life to the coordinator's, close the door to the other framework, then speak.

Only the standard library is imported until the process is safe: nothing that it starts outlives it or the coordinator,
a fatal signal leaves a traceback in the log, and the other framework cannot be imported.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from stepalign.workers import guard, startup


def main() -> NoReturn:
    """Run one worker as the environment variables ``STEPALIGN_*`` describe it, or the command that the arguments are, or
    an agent for a coordinator on another machine; never returns.
    """
    if startup.COMMAND_MARK in os.environ:
        startup.run_command(sys.argv[1:])
    if "STEPALIGN_ROLE" not in os.environ:
        _run_agent()
    guard.stand(int(os.environ["STEPALIGN_LIFELINE"]), os.environ["STEPALIGN_STATUS"])
    role = os.environ["STEPALIGN_ROLE"]
    framework = os.environ["STEPALIGN_FRAMEWORK"]
    endpoint = os.environ["STEPALIGN_ENDPOINT"]
    startup.secure(framework)
    try:
        from stepalign.workers import runtime
        from stepalign.workers.client import Client, inherited
    except ImportError as error:
        startup.end_without_packages(error)
    client = Client(endpoint, role, framework, os.environ["STEPALIGN_STATUS"], *inherited())
    code = runtime.serve(client, framework)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a script may have closed or replaced them
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run_agent() -> NoReturn:
    try:
        from stepalign.workers.agent import main as run_agent
    except ImportError as error:
        startup.end_without_packages(error)
    run_agent()
