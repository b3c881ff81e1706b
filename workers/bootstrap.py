"""A worker's first lines: tie its life to the coordinator's, close the door to the other framework, then speak.

Only the standard library is imported until the process is safe: nothing that it starts outlives it or the coordinator,
a fatal signal leaves a traceback in the log, and the other framework cannot be imported.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from typing import NoReturn

from stepalign.protocol.status import note_pid
from stepalign.workers import guard, isolation

EXIT_MISSING_PACKAGE = 78


def main() -> NoReturn:
    """Run one worker as the environment variables ``STEPALIGN_*`` describe it; never returns."""
    guard.stand(int(os.environ["STEPALIGN_LIFELINE"]))
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    note_pid(os.environ["STEPALIGN_STATUS"])
    role = os.environ["STEPALIGN_ROLE"]
    framework = os.environ["STEPALIGN_FRAMEWORK"]
    endpoint = os.environ["STEPALIGN_ENDPOINT"]
    isolation.forbid_other_frameworks(framework)
    try:
        from stepalign.protocol.memory import inherit_memory
        from stepalign.workers import runtime
        from stepalign.workers.client import Client
    except ImportError as error:
        print(
            f"stepalign: {sys.executable} lacks a package that every worker needs: {error}. "
            f"Install it with: {sys.executable} -m pip install numpy pyzmq msgpack",
            file=sys.stderr,
        )
        sys.exit(EXIT_MISSING_PACKAGE)
    shared = os.environ.get("STEPALIGN_MEMORY")
    memory = inherit_memory(shared) if shared else None
    client = Client(endpoint, role, framework, os.environ["STEPALIGN_STATUS"], memory)
    code = runtime.serve(client, framework)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a script may have closed or replaced them
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
