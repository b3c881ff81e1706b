"""Look at all that a run needs, change nothing, and say what is missing with the command that mends it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import stepalign
from stepalign.coordinator.devices.cores import available_cores
from stepalign.coordinator.devices.gpus import gpu_inventory
from stepalign.coordinator.environments.home import environments_folder, home_folder
from stepalign.coordinator.environments.managed import (
    DEFAULT_RECIPES,
    Environment,
    Interpreter,
    create_command,
    list_environments,
    probe,
)
from stepalign.protocol.errors import EnvironmentFailure

DEPENDENCIES = (
    "numpy",
    "pyzmq",
    "msgpack",
    "platformdirs",
    "filelock",
    "nvidia-ml-py",
    "rich",
    "jinja2",
    "safetensors",
)
"""What the coordinator imports, for an installation that tells no requirements of its own."""

OLDEST_PYTHON = (3, 10)
LONGEST_SOCKET_PATH_BYTES = 107
ROOM_FOR_AN_ENVIRONMENT_BYTES = 4 << 30
ROOM_FOR_SHARED_MEMORY_BYTES = 256 << 20

_SOCKET_NAME = "stepalign-12345678/s"
_MARKS = {"ok": "ok", "note": "note", "warning": "WARN", "missing": "MISS"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    ``state`` is ``"ok"``, ``"note"`` (worth knowing), ``"warning"`` (something will be worse) or ``"missing"``
    (`stepalign demo` needs it). ``command`` mends what is wrong, if a command can.
    """

    section: str
    subject: str
    state: str
    detail: str
    command: str = ""


@dataclass(frozen=True)
class Report:
    """All checks, in the order in which they are told."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0, or 3 if something that `stepalign demo` needs is missing."""
        return 3 if any(check.state == "missing" for check in self.checks) else 0


def examine() -> Report:
    """Look at the coordinator, the environments (each one's interpreter is run once), the GPUs and the machine."""
    sections = (_coordinator(), _environments(), _gpus(), _machine())
    return Report(tuple(check for section in sections for check in section))


def format_report(report: Report) -> str:
    """Lay a report out as text: a block for each section, and at the end the commands that mend what is missing."""
    lines: list[str] = []
    section = ""
    width = max((len(check.subject) for check in report.checks), default=0)
    for check in report.checks:
        if check.section != section:
            lines += [""] * bool(lines) + [check.section]
            section = check.section
        first, *more = check.detail.splitlines() or [""]
        lines.append(f"  {_MARKS[check.state]:<4}  {check.subject:<{width}}  {first}".rstrip())
        lines += [f"  {'':<4}  {'':<{width}}  {line}".rstrip() for line in more]
    lines.append("")
    missing = [check for check in report.checks if check.state == "missing"]
    if not missing:
        return "\n".join([*lines, "All that `stepalign demo` needs is there."])
    lines.append(f"Missing: {', '.join(check.subject for check in missing)}.")
    commands = dict.fromkeys(check.command for check in missing if check.command)
    return "\n".join([*lines, *(["Mend with:"] if commands else []), *(f"  {command}" for command in commands)])


def _coordinator() -> Iterator[Check]:
    section = "Coordinator"
    yield Check(section, "stepalign", "ok", f"{stepalign.__version__} in {Path(stepalign.__file__).parent}")
    version = platform.python_version()
    if sys.version_info >= OLDEST_PYTHON:
        yield Check(section, "python", "ok", f"{version} ({sys.executable})")
    else:
        needed = ".".join(map(str, OLDEST_PYTHON))
        yield Check(section, "python", "missing", f"{version} ({sys.executable}); {needed} or newer is needed")
    for name in _dependencies():
        try:
            yield Check(section, name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            command = shlex.join([sys.executable, "-m", "pip", "install", name])
            yield Check(section, name, "missing", "not installed", command)


def _dependencies() -> Iterable[str]:
    try:
        declared = importlib.metadata.requires("stepalign") or []
    except importlib.metadata.PackageNotFoundError:
        declared = []
    names = [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in declared if ";" not in line]
    return names or DEPENDENCIES


def _environments() -> Iterator[Check]:
    section = "Environments"
    yield _home(section)
    there = {environment.name: environment for environment in list_environments()}
    for framework in DEFAULT_RECIPES:
        if framework not in there:
            command = create_command(framework, framework)
            yield Check(
                section, framework, "missing", f"not made yet; `stepalign demo` makes it, or: {command}", command
            )
    for name, environment in there.items():
        yield _environment(section, environment, is_needed=name in DEFAULT_RECIPES)


def _home(section: str) -> Check:
    home = home_folder()
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return Check(section, "home", "warning", f"{home} cannot be written: set STEPALIGN_HOME to another place")
    free_bytes = _free_bytes(existing)
    if free_bytes is not None and free_bytes < ROOM_FOR_AN_ENVIRONMENT_BYTES:
        return Check(section, "home", "warning", f"{environments_folder()}: only {_gigabytes(free_bytes)} free")
    return Check(section, "home", "ok", f"{environments_folder()}, {_gigabytes(free_bytes)} free")


def _environment(section: str, environment: Environment, is_needed: bool) -> Check:
    bad = "missing" if is_needed else "warning"
    name = environment.name
    framework = environment.framework or (name if name in DEFAULT_RECIPES else "")
    again = create_command(name, framework)
    if not environment.complete:
        detail = f"incomplete: its making was interrupted or goes on, or its base interpreter is gone; again: {again}"
        return Check(section, name, bad, detail, again)
    if is_needed and environment.framework != name:
        again = create_command(name, name, "--recreate")
        return Check(section, name, bad, f"holds {environment.framework}, not {name}; anew: {again}", again)
    try:
        facts = probe(Interpreter(environment.interpreter, environment.framework, name))
    except EnvironmentFailure as error:
        again = create_command(name, framework, "--recreate")
        return Check(section, name, bad, f"{error}\nOr anew: {again}", again)
    build = facts.cuda.get(environment.framework)
    parts = [
        f"{environment.distribution} {facts.framework_version(environment.framework)}",
        f"CUDA {build}" if build else "CPU build",
        f"Python {facts.python}",
        *(
            f"{package} {facts.packages[package]}"
            for package in facts.packages
            if package in ("numpy", "pyzmq", "msgpack")
        ),
    ]
    return Check(section, name, "ok", ", ".join(parts))


def _gpus() -> Iterator[Check]:
    section = "GPUs"
    inventory = gpu_inventory()
    if inventory.driver:
        yield Check(section, "driver", "ok", inventory.driver)
    for position, gpu in enumerate(inventory.gpus):
        free, total = _gigabytes(gpu.memory_free_bytes), _gigabytes(gpu.memory_total_bytes)
        yield Check(section, f"gpu:{position}", "ok", f"{gpu.name}, {free} of {total} free, {gpu.uuid}")
    if inventory.reason:
        yield Check(section, "none" if not inventory.gpus else "others", "note", inventory.reason)


def _machine() -> Iterator[Check]:
    section = "Machine"
    yield _system(section)
    cores = available_cores()
    listed = ", ".join(map(str, cores))
    if len(cores) == 1:
        yield Check(section, "cores", "warning", f"1 ({listed}): both sides will share it")
    else:
        yield Check(section, "cores", "ok", f"{len(cores)} ({listed})")
    yield _temporary_folder(section)
    yield _shared_memory(section)
    yield _anonymous_memory(section)


def _system(section: str) -> Check:
    detail = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return Check(section, "system", "ok" if platform.system() == "Linux" else "warning", detail)


def _temporary_folder(section: str) -> Check:
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        return Check(section, "temp folder", "missing", str(error), "export TMPDIR=/path/to/a/writable/folder")
    length_bytes = len(os.fsencode(Path(folder) / _SOCKET_NAME))
    limit = f"a socket's path there has {length_bytes} bytes, of {LONGEST_SOCKET_PATH_BYTES} possible"
    if length_bytes > LONGEST_SOCKET_PATH_BYTES:
        return Check(section, "temp folder", "missing", f"{folder}: {limit}", "export TMPDIR=/tmp")
    return Check(section, "temp folder", "ok", f"{folder} ({limit}), {_gigabytes(_free_bytes(Path(folder)))} free")


def _shared_memory(section: str) -> Check:
    folder = Path("/dev/shm")
    free_bytes = _free_bytes(folder)
    if free_bytes is None:
        return Check(section, "/dev/shm", "note", "not there; stepalign does without")
    state = "ok" if free_bytes >= ROOM_FOR_SHARED_MEMORY_BYTES else "note"
    return Check(section, "/dev/shm", state, f"{_gigabytes(free_bytes)} free")


def _anonymous_memory(section: str) -> Check:
    make = getattr(os, "memfd_create", None)
    if make is not None:
        with contextlib.suppress(OSError):
            os.close(make("stepalign-doctor"))
            return Check(section, "memfd", "ok", "anonymous memory files work")
    return Check(section, "memfd", "warning", "no anonymous memory files here: large tensors travel more slowly")


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _gigabytes(size_bytes: int | None) -> str:
    return "an unknown size" if size_bytes is None else f"{size_bytes / 1e9:.1f} GB"
