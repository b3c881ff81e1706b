"""Managed environments on disk: their names, folders, markers and locks.

An environment is complete when its marker file is there, and the marker is written last: whatever ends its making early
leaves something that is recognised. A folder that bears neither our marker nor our sign of a making is not ours, and is
never changed. A name is never a path.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepalign.coordinator.environments.home import HOME_VARIABLE, environments_folder, write_json
from stepalign.protocol.errors import CaseError, EnvironmentFailure

MARKER = "stepalign-env.json"
MAKING = "stepalign-making"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MARKER_SCHEMA = 1


@dataclass(frozen=True)
class Environment:
    """One managed environment, as its folder and marker tell; without a marker only the first three fields are known.

    ``packages`` maps every installed distribution to its version. ``requested`` are the extra packages that were
    asked for, ``requirements_sha256`` is that of the requirements file. ``created`` is an ISO 8601 time in UTC.
    """

    name: str
    folder: Path
    complete: bool
    framework: str = ""
    distribution: str = ""
    version: str = ""
    python: str = ""
    base_python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    requested: tuple[str, ...] = ()
    requirements_sha256: str = ""
    created: str = ""

    @property
    def interpreter(self) -> Path:
        """The environment's own Python executable."""
        return self.folder / "bin" / "python"


def checked_name(name: str) -> str:
    """Return the name. Raises CaseError unless it fits the pattern of names, which no path does."""
    if not _NAME.fullmatch(name):
        raise CaseError(
            f"{name!r} is no environment's name: expected up to 64 of letters, digits, '.', '_' and '-', "
            "starting with a letter or a digit."
        )
    return name


def is_name(text: str) -> bool:
    """Tell whether ``text`` could name an environment."""
    return _NAME.fullmatch(text) is not None


def environment_folder(name: str) -> Path:
    """Give the folder of the environment ``name``, which need not exist. Raises CaseError for a bad name."""
    return environments_folder() / checked_name(name)


def read_environment(name: str) -> Environment | None:
    """Read what is known of the environment ``name``; None if there is no such folder of ours."""
    folder = environment_folder(name)
    try:
        text = (folder / MARKER).read_text(encoding="utf-8")
    except (OSError, ValueError):
        ours = os.path.lexists(folder / MAKING) or os.path.lexists(folder / MARKER)
        return Environment(name, folder, complete=False) if ours else None
    try:
        return _parse_marker(name, folder, json.loads(text))
    except (ValueError, KeyError, TypeError, RecursionError):
        return Environment(name, folder, complete=False)


def _parse_marker(name: str, folder: Path, record: Any) -> Environment:
    if not isinstance(record, dict) or record["schema"] != _MARKER_SCHEMA:
        raise ValueError("not a marker of this version")
    environment = Environment(
        name=name,
        folder=folder,
        complete=os.access(folder / "bin" / "python", os.X_OK),
        framework=record["framework"],
        distribution=record["distribution"],
        version=record["version"],
        python=record["python"],
        base_python=record["base_python"],
        packages={str(key): str(value) for key, value in record["packages"].items()},
        requested=tuple(map(str, record["requested"])),
        requirements_sha256=record["requirements_sha256"],
        created=record["created"],
    )
    texts = (environment.framework, environment.distribution, environment.version, environment.python)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a marker's field is no text")
    return environment


def write_marker(environment: Environment) -> None:
    """Declare the environment complete, in one step. Raises OSError."""
    record = {
        "schema": _MARKER_SCHEMA,
        "framework": environment.framework,
        "distribution": environment.distribution,
        "version": environment.version,
        "python": environment.python,
        "base_python": environment.base_python,
        "packages": dict(environment.packages),
        "requested": list(environment.requested),
        "requirements_sha256": environment.requirements_sha256,
        "created": environment.created,
    }
    write_json(environment.folder / MARKER, record)
    (environment.folder / MAKING).unlink()


def begin_folder(name: str) -> Path:
    """Give an empty folder for ``name`` that bears the sign of a making; what we had there before is removed.

    Raises EnvironmentFailure if a folder that is not ours is there, and OSError.
    """
    folder = environment_folder(name)
    if os.path.lexists(folder):
        clear_folder(name)
    folder.mkdir(parents=True)
    (folder / MAKING).touch()
    return folder


def clear_folder(name: str) -> None:
    """Remove the folder of ``name``; from the first moment on the environment is gone. Raises like `begin_folder`."""
    folder = environment_folder(name)
    discarded = folder.parent / f".removing-{name}"
    if os.path.lexists(discarded):
        shutil.rmtree(discarded)
    if not os.path.lexists(folder):
        return
    is_empty = folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
    if not is_empty and (folder.is_symlink() or read_environment(name) is None):
        raise EnvironmentFailure(
            f"{folder} was not made by stepalign, so it is left alone. Move it away, use another name, or choose "
            f"another place by {HOME_VARIABLE}. (As an interpreter it can be used by its path.)"
        )
    folder.rename(discarded)
    shutil.rmtree(discarded)


@contextlib.contextmanager
def only_user(name: str, on_wait: Callable[[], None], deadline_s: float) -> Iterator[None]:
    """Hold the lock on ``name``. ``on_wait`` is called once if another holds it. The kernel frees a dead holder's lock.

    Raises EnvironmentFailure if it is not free within ``deadline_s`` or cannot be taken at all.
    """
    import filelock

    path = environment_folder(name).parent / f".{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            on_wait()
            lock.acquire(timeout=deadline_s, poll_interval=0.2)
    except filelock.Timeout:
        raise EnvironmentFailure(
            f"Another stepalign still held environment {name} after {deadline_s:g} s ({path}). "
            "Wait for it, or stop it, and try again."
        ) from None
    except OSError as error:
        raise EnvironmentFailure(
            f"{path.parent} cannot be written: {error.strerror or error}. "
            f"Mend that, or choose another place by {HOME_VARIABLE}."
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_in_use(name: str) -> bool:
    """Tell whether another process is making or removing ``name`` right now. Creates nothing."""
    import filelock

    path = environment_folder(name).parent / f".{name}.lock"
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False
