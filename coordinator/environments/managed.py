"""The workers' managed, isolated environments: made, listed, removed, and found by name or path.

Makers of one environment take turns; the second finds the first one's work and reuses it. An interrupted making is
recognised and made again. Importing this module is cheap: what only a making needs is imported by it.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from stepalign.coordinator.environments.home import HOME_VARIABLE, environments_folder
from stepalign.coordinator.environments.installer import OnLine
from stepalign.coordinator.environments.interpreters import Interpreter, InterpreterFacts, probe, read_facts
from stepalign.coordinator.environments.maker import Making, Recipe, fill, normalised
from stepalign.coordinator.environments.records import (
    Environment,
    begin_folder,
    checked_name,
    clear_folder,
    environment_folder,
    is_in_use,
    is_name,
    only_user,
    read_environment,
    write_marker,
)
from stepalign.protocol.errors import CaseError, EnvironmentFailure

__all__ = [
    "DEFAULT_RECIPES",
    "Environment",
    "Interpreter",
    "InterpreterFacts",
    "Recipe",
    "create",
    "create_command",
    "find",
    "list_environments",
    "probe",
    "read_environment",
    "remove",
]

DEFAULT_RECIPES: Mapping[str, Recipe] = {
    "torch": Recipe("torch", "torch", "2.13.0"),
    "paddle": Recipe("paddle", "paddlepaddle", "3.3.1"),
}


def create_command(name: str, framework: str = "", *options: str) -> str:
    """Give the shell command that makes an environment of this name; ``options`` are appended, quoted."""
    chosen = ("--framework", framework) if framework and framework != name else ()
    return shlex.join(["stepalign", "env", "create", name, *chosen, *options])


def create(
    name: str,
    framework: str,
    version: str | None = None,
    python: str | None = None,
    packages: Sequence[str] = (),
    requirements: Path | None = None,
    pip_args: Sequence[str] = (),
    recreate: bool = False,
    on_line: OnLine = lambda line: None,
    distribution: str | None = None,
    recipe: Recipe | None = None,
    deadline_s: float = 7200.0,
) -> Environment:
    """Make the environment ``name``, or give the complete one that is there already.

    python: a path, or a name on PATH, of the interpreter to build on; otherwise the running one's base.
    packages, requirements: more to install, in pip's notation, with the framework's version held.
    pip_args: options for every ``pip install`` (``--extra-index-url`` and the like).
    distribution: what provides the framework, where not the usual one (``paddlepaddle-gpu``).
    recipe: what the framework's defaults are replaced by.
    deadline_s: for waiting on another maker, and again for each command of the making.

    Raises CaseError for a bad name, framework or requirements file. Raises EnvironmentFailure if the complete one that
    is there is not what was asked for, if none can be made, or if pip fails (with its last lines and the command to
    repeat).
    """
    environment_folder(name)
    asked = _Request(
        name,
        _chosen_recipe(framework, version, distribution, recipe),
        is_exact=version is not None or distribution is not None,
        packages=tuple(packages),
        requirements=requirements,
        requirements_sha256=_digest(requirements),
    )
    there = None if recreate else _reusable(asked)
    if there is not None:
        on_line(f"Environment {name} is there: {_describe(there)}.")
        return there
    base = _base_interpreter(python)
    repeat = create_command(name, framework, *_repeated_options(asked, python, pip_args))
    with only_user(name, lambda: on_line(f"Another stepalign is at environment {name}; waiting for it."), deadline_s):
        there = None if recreate else _reusable(asked)
        if there is not None:
            on_line(f"Environment {name} was made meanwhile: {_describe(there)}.")
            return there
        try:
            if read_environment(name) is not None and not recreate:
                on_line(f"Environment {name} was left incomplete; making it again.")
            made = _make(asked, base, tuple(pip_args), on_line, deadline_s, repeat)
        except OSError as error:
            raise EnvironmentFailure(
                f"Environment {name} cannot be made in {environments_folder()}: {error.strerror or error}. "
                f"Mend that, or choose another place by {HOME_VARIABLE}, then: {repeat}"
            ) from error
    on_line(f"Environment {name} is ready: {_describe(made)}.")
    return made


def list_environments() -> tuple[Environment, ...]:
    """List the managed environments by name, incomplete ones too."""
    try:
        names = sorted(entry.name for entry in environments_folder().iterdir() if is_name(entry.name))
    except OSError:
        return ()
    return tuple(found for found in map(read_environment, names) if found is not None)


def remove(name: str, deadline_s: float = 60.0) -> None:
    """Remove the environment ``name``, complete or not.

    Raises CaseError for a bad name, EnvironmentFailure if there is none, another process is at it, or it cannot be
    removed.
    """
    if read_environment(name) is None:
        raise EnvironmentFailure(f"There is no environment {name} to remove. {_inventory()}")
    with only_user(name, lambda: None, deadline_s):
        try:
            clear_folder(name)
        except OSError as error:
            raise EnvironmentFailure(f"Environment {name} cannot be removed: {error.strerror or error}.") from error


def find(name_or_path: str, framework: str, case_folder: Path | None = None) -> Interpreter:
    """Find the interpreter that a side's ``python`` key means.

    What has a path separator, or is an existing file, is an interpreter's path (``~`` is expanded; relative to
    ``case_folder``, or to the working directory without one) or a virtual environment's folder. Anything else is a
    managed environment's name. Raises EnvironmentFailure that says what was looked for and the command that mends it.
    """
    path = (case_folder or Path()).absolute() / os.path.expanduser(name_or_path)
    if os.sep in name_or_path or name_or_path.startswith("~") or path.is_file():
        return Interpreter(_interpreter_at(path, name_or_path, framework), framework)
    if not is_name(name_or_path):
        checked_name(name_or_path)
    found = read_environment(name_or_path)
    mend = create_command(name_or_path, framework)
    if found is None:
        on_path = shutil.which(name_or_path)
        hint = f" ({on_path} is on PATH: to use it, write that path.)" if on_path else ""
        raise EnvironmentFailure(
            f"[{framework}] python = {name_or_path!r}: there is no managed environment of that name in "
            f"{environments_folder()}, and no such file.{hint} {_inventory()}\nMake it with: {mend}"
        )
    if not found.complete:
        if is_in_use(name_or_path):
            raise EnvironmentFailure(f"Environment {name_or_path} is being made right now; wait for that to end.")
        raise EnvironmentFailure(
            f"Environment {name_or_path} ({found.folder}) is incomplete: its making was interrupted, or its base "
            f"interpreter is gone.\nMake it again with: {mend}"
        )
    if framework and found.framework != framework:
        raise EnvironmentFailure(
            f"[{framework}] python = {name_or_path!r}: that environment holds {found.distribution} {found.version}, "
            f"not {framework}. {_inventory()}\nMake one with: {create_command(framework, framework)}"
        )
    return Interpreter(found.interpreter, framework, name_or_path)


@dataclasses.dataclass(frozen=True)
class _Request:
    name: str
    recipe: Recipe
    is_exact: bool
    packages: tuple[str, ...]
    requirements: Path | None
    requirements_sha256: str


def _make(
    asked: _Request, base: Path, pip_args: tuple[str, ...], on_line: OnLine, deadline_s: float, repeat: str
) -> Environment:
    folder = begin_folder(asked.name)
    installed = fill(
        Making(folder, base, pip_args, on_line, deadline_s, repeat), asked.recipe, asked.packages, asked.requirements
    )
    environment = Environment(
        name=asked.name,
        folder=folder,
        complete=True,
        framework=asked.recipe.framework,
        distribution=asked.recipe.distribution,
        version=installed[normalised(asked.recipe.distribution)],
        python=read_facts(folder / "bin" / "python").python,
        base_python=str(base),
        packages=installed,
        requested=asked.packages,
        requirements_sha256=asked.requirements_sha256,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    write_marker(environment)
    return environment


def _reusable(asked: _Request) -> Environment | None:
    """Give the complete environment of that name. Raises EnvironmentFailure if it contradicts what was asked for."""
    there = read_environment(asked.name)
    if there is None or not there.complete:
        return None
    wanted = asked.recipe
    differences = []
    if there.framework != wanted.framework:
        differences.append(f"framework {wanted.framework}")
    elif asked.is_exact and normalised(there.distribution) != normalised(wanted.distribution):
        differences.append(wanted.distribution)
    elif asked.is_exact and wanted.version not in (there.version, there.version.partition("+")[0]):
        differences.append(f"{wanted.distribution} {wanted.version}")
    differences += [package for package in asked.packages if package not in there.requested]
    if asked.requirements is not None and asked.requirements_sha256 != there.requirements_sha256:
        differences.append(f"what {asked.requirements} lists now")
    if differences:
        raise EnvironmentFailure(
            f"Environment {asked.name} is there with {_describe(there)}, made without {', '.join(differences)}. "
            "To make it anew add --recreate; or choose another name."
        )
    return there


def _chosen_recipe(framework: str, version: str | None, distribution: str | None, recipe: Recipe | None) -> Recipe:
    if recipe is None:
        if framework not in DEFAULT_RECIPES:
            raise CaseError(f"framework {framework!r}: expected one of {', '.join(DEFAULT_RECIPES)}.")
        recipe = DEFAULT_RECIPES[framework]
    return dataclasses.replace(
        recipe, version=version or recipe.version, distribution=distribution or recipe.distribution
    )


def _digest(requirements: Path | None) -> str:
    if requirements is None:
        return ""
    try:
        return hashlib.sha256(requirements.read_bytes()).hexdigest()
    except OSError as error:
        raise CaseError(f"requirements file {requirements} cannot be read: {error.strerror or error}.") from None


def _base_interpreter(python: str | None) -> Path:
    """Resolve what to build on; never a virtual environment, which may be removed under the one that is made."""
    if python is None:
        chosen = Path(sys.executable)
    elif os.sep in python or python.startswith("~"):
        chosen = Path(os.path.abspath(os.path.expanduser(python)))
    else:
        found = shutil.which(python)
        if found is None:
            raise EnvironmentFailure(f"No interpreter {python!r} is on PATH. Give a path: --python /path/to/python3")
        chosen = Path(found)
    base = Path(read_facts(chosen).base_executable)
    return base if base.is_file() else chosen


def _repeated_options(asked: _Request, python: str | None, pip_args: Sequence[str]) -> list[str]:
    options: list[str] = []
    if asked.is_exact:
        options += ["--version", asked.recipe.version, "--distribution", asked.recipe.distribution]
    options += ["--python", python] if python else []
    for package in asked.packages:
        options += ["--package", package]
    options += ["--requirements", str(asked.requirements)] if asked.requirements is not None else []
    return options + [f"--pip-arg={argument}" for argument in pip_args]


def _interpreter_at(path: Path, written: str, framework: str) -> Path:
    if path.is_dir() and (path / "bin" / "python").exists():
        return path / "bin" / "python"
    if path.is_dir() or not path.exists():
        what = "is a folder without bin/python" if path.is_dir() else "does not exist"
        raise EnvironmentFailure(
            f"[{framework}] python = {written!r}: {path} {what}. Give an interpreter's path or a managed environment's "
            f"name. {_inventory()}\nA new one: {create_command(framework, framework)}"
        )
    return path


def _inventory() -> str:
    there = [f"{found.name} ({_describe(found)})" for found in list_environments()]
    return f"Managed environments: {', '.join(there)}." if there else "There are no managed environments yet."


def _describe(environment: Environment) -> str:
    if not environment.complete:
        return "incomplete"
    return f"{environment.distribution} {environment.version}, Python {environment.python}"
