"""Fill one environment's folder: a virtual environment, the framework alone and by its exact version, then the rest.

Everything after the framework is installed under a constraints file that holds the framework's version: installing
torchvision beside a CPU build of torch once replaced it by a CUDA build. The file stays for later use.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stepalign.coordinator.cases.secrets import without_credentials
from stepalign.coordinator.environments.installer import OnLine, Outcome, quote, run_module
from stepalign.coordinator.environments.interpreters import RUNTIME_PACKAGES
from stepalign.protocol.errors import DeadlineExceeded, EnvironmentFailure

CONSTRAINTS = "stepalign-constraints.txt"
_TEMPORARY = "stepalign-tmp"


@dataclass(frozen=True)
class Recipe:
    """What goes into an environment: the framework by its exact version, then what every worker needs."""

    framework: str
    distribution: str
    version: str
    runtime: tuple[str, ...] = RUNTIME_PACKAGES


@dataclass(frozen=True)
class Making:
    """One making of one environment: where, from which base interpreter, with which options, whom to tell.

    ``repeat`` is the command that a failure's message recommends.
    """

    folder: Path
    base: Path
    pip_args: tuple[str, ...]
    on_line: OnLine
    deadline_s: float
    repeat: str


def fill(making: Making, recipe: Recipe, packages: tuple[str, ...], requirements: Path | None) -> dict[str, str]:
    """Make and fill the environment; give every installed distribution with its version.

    Raises EnvironmentFailure with the last lines of what failed and the command to repeat, and OSError.
    """
    with _temporary_folder(making):
        _make_venv(making)
        _install(making, (f"{recipe.distribution}=={recipe.version}",))
        version = _installed(making).get(normalised(recipe.distribution))
        if version is None:
            raise EnvironmentFailure(
                f"pip installed no {recipe.distribution} into {making.folder}. Try again: {making.repeat}"
            )
        pin = f"{recipe.distribution}=={version}"
        constraints = making.folder / CONSTRAINTS
        constraints.write_text(pin + "\n", encoding="utf-8")
        more = ("-r", str(requirements.resolve())) if requirements is not None else ()
        if recipe.runtime or packages or more:
            _install(making, ("--constraint", str(constraints), pin, *recipe.runtime, *packages, *more))
        return _installed(making)


def normalised(distribution: str) -> str:
    """Give a distribution's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@contextlib.contextmanager
def _temporary_folder(making: Making) -> Iterator[None]:
    """Keep pip's temporary files, gigabytes at times, inside the environment: its removal removes them too."""
    path = making.folder / _TEMPORARY
    path.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _make_venv(making: Making) -> None:
    making.on_line(f"Making environment {making.folder.name} in {making.folder} with {making.base}")
    prompt = f"stepalign-{making.folder.name}"
    outcome = _run(making, making.base, "venv", ("--prompt", prompt, str(making.folder)), making.on_line)
    if outcome.status != 0:
        raise EnvironmentFailure(
            f"{making.base} could not make a virtual environment in {making.folder}:\n{quote(outcome.tail)}\n"
            "Debian and Ubuntu package the module apart: apt install python3-venv. "
            f"Or choose another interpreter: {making.repeat} --python PATH"
        )


def _install(making: Making, arguments: tuple[str, ...]) -> None:
    python = making.folder / "bin" / "python"
    command = ("install", *making.pip_args, *arguments)
    making.on_line(without_credentials("pip " + shlex.join(command)))
    outcome = _run(making, python, "pip", command, making.on_line)
    if outcome.status != 0:
        killed = outcome.status < 0
        ending = f"was ended by signal {-outcome.status}" if killed else f"ended with status {outcome.status}"
        raise EnvironmentFailure(
            without_credentials(
                f"pip {ending} while making environment {making.folder.name}:\n{quote(outcome.tail)}\n"
                f"pip's command was: {shlex.join([str(python), '-m', 'pip', *command])}\n"
                f"Make the environment again with: {making.repeat}"
            )
        )


def _installed(making: Making) -> dict[str, str]:
    lines: list[str] = []
    outcome = _run(making, making.folder / "bin" / "python", "pip", ("list", "--format=json"), lines.append)
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return {normalised(entry["name"]): str(entry["version"]) for entry in json.loads(line)}
    raise EnvironmentFailure(f"pip list failed in {making.folder}:\n{quote(outcome.tail)}\nTry again: {making.repeat}")


def _run(making: Making, python: Path, module: str, arguments: tuple[str, ...], on_line: OnLine) -> Outcome:
    temporary = making.folder / _TEMPORARY
    try:
        return run_module(python, module, arguments, on_line, making.deadline_s, temporary, making.folder)
    except DeadlineExceeded as error:
        raise EnvironmentFailure(f"{error}\nMake the environment again with: {making.repeat}") from None
