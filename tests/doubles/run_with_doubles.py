"""The command line with numpy doubles for workers: ``python run_with_doubles.py run CASE ...``.

Everything else is real: arguments, coordinator, processes, run folder. What a double does wrong is in ``[torch] env`` or
``[paddle] env`` of the case, as `misbehaviour` reads it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from stepalign.coordinator.cli.main import main
from stepalign.coordinator.environments.interpreters import Interpreter, InterpreterFacts
from stepalign.coordinator.sessions import members


def find(name_or_path: str, framework: str, case_folder: Path | None = None) -> Interpreter:
    """Find the double, whatever is asked for."""
    return Interpreter(Path(__file__).with_name("double"), framework)


def probe(interpreter: Interpreter, timeout_s: float = 60.0) -> InterpreterFacts:
    """Say of the double what is known of this interpreter."""
    version = ".".join(str(number) for number in sys.version_info[:3])
    return InterpreterFacts(version, sys.executable, sys.prefix, sys.executable, "cpython", {}, {})


if __name__ == "__main__":
    os.environ["STEPALIGN_DOUBLE_PYTHON"] = sys.executable
    patched: Any = members
    patched.managed.find, patched.probe = find, probe
    sys.exit(main())
