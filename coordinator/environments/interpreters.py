"""What an interpreter is and holds, learned by running it once and without importing any framework.

An interpreter runs isolated (``-I``): neither ``PYTHONPATH`` nor the user's site-packages lend it a package that a
worker would not see. What it runs reads metadata and source files only. Answers are remembered on disk with the
interpreter's identity and the modification times of every folder it imports from; an entry that is stale, damaged or
cannot be written is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepalign.coordinator.environments.home import interpreter_cache_folder, write_json
from stepalign.protocol.errors import EnvironmentFailure

OLDEST_WORKER_PYTHON = (3, 9)
RUNTIME_PACKAGES = ("numpy", "pyzmq", "msgpack")
FRAMEWORK_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "paddle": ("paddlepaddle", "paddlepaddle-gpu"),
}
"""The distributions that provide each framework; any one of them will do. The first is the one to recommend."""

_OUTPUT_LIMIT_BYTES = 1 << 20
_SENTINEL = "stepalign-probe:"

# Also runs on Python 2.7 and 3.6, whose version is then all that it reports.
_PROBE_SCRIPT = r"""
import json, os, sys
facts = {"python": "%d.%d.%d" % sys.version_info[:3], "executable": sys.executable or "", "prefix": sys.prefix,
         "base_executable": getattr(sys, "_base_executable", None) or sys.executable or "",
         "implementation": getattr(getattr(sys, "implementation", None), "name", "cpython"),
         "packages": {}, "cuda": {}, "folders": []}
if sys.version_info >= (3, 9):
    import importlib.metadata, importlib.util, re
    facts["folders"] = [entry for entry in sys.path if os.path.isdir(entry)]
    for name in %(packages)r:
        try:
            facts["packages"][name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
    for framework, version_file, pattern in (
        ("torch", "version.py", r"^cuda\b.*=\s*['\"]([0-9.]+)['\"]"),
        ("paddle", os.path.join("version", "__init__.py"), r"^cuda_version\s*=\s*['\"]([0-9.]+)['\"]"),
    ):
        spec = importlib.util.find_spec(framework)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            try:
                with open(os.path.join(folder, version_file), encoding="utf-8") as file:
                    found = re.search(pattern, file.read(), re.MULTILINE)
            except (OSError, ValueError):
                continue
            if found:
                facts["cuda"][framework] = found.group(1)
sys.stdout.write("\n%(sentinel)s" + json.dumps(facts) + "\n")
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python executable that a side was given.

    ``path`` is absolute and keeps its links, since a link's place is what makes a virtual environment. ``environment``
    is the managed environment's name, or empty. ``framework`` is what it must hold: ``"torch"``, ``"paddle"`` or empty.
    """

    path: Path
    framework: str = ""
    environment: str = ""


@dataclass(frozen=True)
class InterpreterFacts:
    """What an interpreter reported. ``packages`` maps what stepalign asks about, where installed, to its version.

    ``cuda`` maps a framework to the CUDA version that its build supports; a CPU-only build has no entry.
    """

    python: str
    executable: str
    prefix: str
    base_executable: str
    implementation: str
    packages: Mapping[str, str]
    cuda: Mapping[str, str]

    def framework_version(self, framework: str) -> str:
        """Give the installed version of ``"torch"`` or ``"paddle"``, or an empty string."""
        return next((self.packages[name] for name in FRAMEWORK_PACKAGES[framework] if name in self.packages), "")


def probe(interpreter: Interpreter, timeout_s: float = 60.0) -> InterpreterFacts:
    """Report what the interpreter is and holds.

    Raises EnvironmentFailure if it cannot be run, is older than Python 3.9, or lacks a package that a worker of its
    framework needs; the message has the command that installs it.
    """
    facts = read_facts(interpreter.path, timeout_s)
    missing = missing_packages(interpreter.framework, facts) if interpreter.framework else ()
    if missing:
        side = f"the {interpreter.framework} worker"
        raise EnvironmentFailure(
            f"{interpreter.path} (Python {facts.python}) lacks what {side} needs: {', '.join(missing)}.\n"
            f"Install with: {install_command(interpreter, missing)}"
        )
    return facts


def missing_packages(framework: str, facts: InterpreterFacts) -> tuple[str, ...]:
    """Name the distributions that a worker of this framework still needs, the framework first."""
    missing = [] if facts.framework_version(framework) else [FRAMEWORK_PACKAGES[framework][0]]
    return (*missing, *(name for name in RUNTIME_PACKAGES if name not in facts.packages))


def install_command(interpreter: Interpreter, packages: tuple[str, ...]) -> str:
    """Give the shell command that installs distributions for this interpreter."""
    return shlex.join([str(interpreter.path), "-m", "pip", "install", *packages])


def read_facts(python: Path, timeout_s: float = 60.0) -> InterpreterFacts:
    """Run ``python`` once, or remember a run of the same interpreter, and report what it is.

    Raises EnvironmentFailure if it cannot be run within ``timeout_s`` or is older than Python 3.9.
    """
    remembered = _recall(python)
    if remembered is not None:
        return remembered
    answer = _ask(python, timeout_s)
    version = str(answer.get("python", ""))
    _require_version(python, version)
    try:
        facts = _facts_from(answer)
        folders = [str(folder) for folder in answer["folders"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EnvironmentFailure(f"{python} answered a probe with something else than its facts: {error}.") from None
    _remember(python, facts, folders)
    return facts


def _require_version(python: Path, version: str) -> None:
    parts = version.split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        raise EnvironmentFailure(f"{python} told no Python version (it said {version!r}): is it a Python interpreter?")
    if (int(parts[0]), int(parts[1])) < OLDEST_WORKER_PYTHON:
        needed = ".".join(map(str, OLDEST_WORKER_PYTHON))
        raise EnvironmentFailure(
            f"{python} is Python {version}; a worker needs Python {needed} or newer. Name a newer interpreter."
        )


def _ask(python: Path, timeout_s: float) -> dict[str, Any]:
    packages = (*(name for names in FRAMEWORK_PACKAGES.values() for name in names), *RUNTIME_PACKAGES)
    script = _PROBE_SCRIPT.replace("%(packages)r", repr(packages)).replace("%(sentinel)s", _SENTINEL)
    output, status, overdue = _run_bounded([str(python), "-I", "-c", script], timeout_s)
    for line in reversed(output.splitlines()):
        if line.startswith(_SENTINEL):
            with contextlib.suppress(ValueError):
                answer = json.loads(line[len(_SENTINEL) :])
                if isinstance(answer, dict):
                    return answer
    if overdue:
        raise EnvironmentFailure(f"{python} did not answer a probe within {timeout_s:g} s: is it a Python interpreter?")
    if "unknown option" in output.lower():  # Python 3.3 and older, 2.7 among them
        told, _, _ = _run_bounded([str(python), "-V"], timeout_s)
        if told.startswith("Python "):
            return {"python": told.split()[1]}
    tail = "\n".join(f"  | {line[:200]}" for line in output.strip().splitlines()[-10:]) or "  | (no output)"
    raise EnvironmentFailure(
        f"{python} failed a probe (exit status {status}): is it a Python interpreter? It said:\n{tail}"
    )


def _run_bounded(command: list[str], timeout_s: float) -> tuple[str, int, bool]:
    """Run a command; give the first mebibyte of its output, its exit status, and whether it was killed as overdue."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise EnvironmentFailure(f"interpreter {command[0]} does not exist, or its own loader does not.") from None
    except PermissionError:
        raise EnvironmentFailure(
            f"interpreter {command[0]} is not executable. "
            f"If it is a Python interpreter: chmod +x {shlex.quote(command[0])}"
        ) from None
    except OSError as error:
        raise EnvironmentFailure(f"interpreter {command[0]} cannot be run: {error.strerror or error}.") from None
    overdue = threading.Event()

    def kill() -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    def expire() -> None:
        overdue.set()
        kill()

    timer = threading.Timer(timeout_s, expire)
    timer.daemon = True
    timer.start()
    try:
        assert process.stdout is not None
        with process.stdout:
            output = process.stdout.read(_OUTPUT_LIMIT_BYTES)
            if len(output) == _OUTPUT_LIMIT_BYTES:
                kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    finally:
        timer.cancel()
        timer.join()
        kill()
        status = process.wait()
    return output.decode("utf-8", "replace"), status, overdue.is_set()


def _facts_from(record: Mapping[str, Any]) -> InterpreterFacts:
    """Build facts from plain values. Raises KeyError, TypeError."""

    def text(key: str) -> str:
        if not isinstance(record[key], str):
            raise TypeError(f"{key} is no text")
        return str(record[key])

    def texts(key: str) -> dict[str, str]:
        value = record[key]
        if not isinstance(value, dict) or not all(isinstance(item, str) for pair in value.items() for item in pair):
            raise TypeError(f"{key} is no table of texts")
        return dict(value)

    return InterpreterFacts(
        python=text("python"),
        executable=text("executable"),
        prefix=text("prefix"),
        base_executable=text("base_executable"),
        implementation=text("implementation"),
        packages=texts("packages"),
        cuda=texts("cuda"),
    )


def _identity(python: Path, folders: list[str]) -> dict[str, Any]:
    """Describe all that must stay the same for an earlier answer to hold. Raises OSError if there is no such file."""
    status = os.stat(python)

    def modified(path: str) -> int | None:
        with contextlib.suppress(OSError):
            return os.stat(path).st_mtime_ns
        return None

    watched = {folder: modified(folder) for folder in [*folders, str(python.parent.parent / "pyvenv.cfg")]}
    return {
        "script": hashlib.sha256((_PROBE_SCRIPT + repr((FRAMEWORK_PACKAGES, RUNTIME_PACKAGES))).encode()).hexdigest(),
        "path": str(python),
        "realpath": os.path.realpath(python),
        "mtime_ns": status.st_mtime_ns,
        "mode": status.st_mode,
        "size_bytes": status.st_size,
        "watched": watched,
    }


def _record_path(python: Path) -> Path:
    return interpreter_cache_folder() / (hashlib.sha256(os.fsencode(python)).hexdigest()[:32] + ".json")


def _recall(python: Path) -> InterpreterFacts | None:
    try:
        record = json.loads(_record_path(python).read_text(encoding="utf-8"))
        stored = record["identity"]
        if stored != _identity(python, [folder for folder in stored["watched"] if isinstance(folder, str)]):
            return None
        return _facts_from(record["facts"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _remember(python: Path, facts: InterpreterFacts, folders: list[str]) -> None:
    if os.path.realpath(facts.executable) != os.path.realpath(python):
        return  # a wrapper (pyenv's, say): which interpreter it starts next is not in its own file
    path = _record_path(python)
    with contextlib.suppress(OSError, ValueError):
        record = {"identity": _identity(python, folders), "facts": asdict(facts)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
