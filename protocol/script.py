"""Loads a user's script and calls it; what goes wrong there is told in the user's own terms.

Used for the two sides' scripts by the workers and for data.py by the coordinator.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, List, Sequence

from stepalign.protocol.errors import CaseError

PAYLOAD_NAME = "payload.pyz"
"""The archive that a worker runs from: its frames say nothing to a user."""

@dataclass(frozen=True)
class CaseView:
    """The case as a script sees it: ``build(case)``, ``schedule(case)`` and data.py's ``batches(case)`` get one."""

    name: str
    steps: int
    mode: str
    dtype: str
    seed: int
    options: Dict[str, Any]
    folder: Path


class ScriptError(CaseError):
    """The user's code raised. ``trimmed`` is its traceback, from the first line of the user's own on."""

    def __init__(self, message: str, trimmed: str) -> None:
        super().__init__(message)
        self.trimmed = trimmed


def load_script(path: Path, folder: Path) -> ModuleType:
    """Import the script at ``path``; its folder and the case's come first on the path from here on.

    A script whose name another module has already (``json.py``, ``torch.py``) does not take that module's place.
    """
    for entry in (str(folder), str(path.parent)):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    name = path.stem if path.stem not in sys.modules else f"stepalign_script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CaseError(f"{path} is not a Python file: name a .py file as the side's script")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    try:
        call_script(f"importing {path.name}", folder, lambda: loader.exec_module(module))
    except CaseError:
        sys.modules.pop(name, None)
        raise
    return module


def loaded_scripts(folder: Path, script: Path) -> Dict[str, str]:
    """Return the SHA-256 of the user's own modules that are loaded, by path relative to the case's ``folder``.

    They are those that lie below the case's folder or the script's, and were not installed there.
    """
    roots = {os.path.join(os.path.realpath(root), "") for root in (folder, script.parent)}
    prefixes = tuple({*roots, os.path.join(folder, ""), os.path.join(script.parent, "")})
    found: Dict[str, str] = {}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.startswith(prefixes) or "-packages" in path:
            continue
        try:
            content = Path(path).read_bytes()
        except OSError:
            continue
        found[os.path.relpath(path, folder)] = hashlib.sha256(content).hexdigest()
    return found


def find_function(module: ModuleType, name: str, path: Path, takes: Sequence[str] = ("case",)) -> Callable[..., Any]:
    """Return the script's function ``name``; raises CaseError if there is none that takes what ``takes`` lists."""
    function = getattr(module, name, None)
    call = f"{name}({', '.join(takes)})"
    if not callable(function):
        raise CaseError(f"{path} has no function {call}; it defines: {', '.join(_functions(module)) or 'none'}")
    try:
        inspect.signature(function).bind(*takes)
    except TypeError as error:
        count = {1: "one argument", 2: "two arguments"}[len(takes)]
        raise CaseError(f"{path}: {name} is called with {count}: def {call}: ... ({error})") from None
    except ValueError:
        pass  # written in C: it tells by itself
    return function  # type: ignore[no-any-return]


def call_script(doing: str, folder: Path, call: Callable[[], Any]) -> Any:
    """Return ``call()``. An exception of the user's becomes a ScriptError that says what was being done."""
    try:
        return call()
    except CaseError:
        raise
    except (Exception, SystemExit) as error:
        name = type(error).__name__
        raise ScriptError(f"{doing} raised {name}: {error}", trim_traceback(error, folder)) from error


def trim_traceback(error: BaseException, folder: Path) -> str:
    """Return the traceback from the first frame that lies in ``folder`` on, without frames of ours; whole if none does.

    A SyntaxError shows its place by itself.
    """
    frames = traceback.extract_tb(error.__traceback__)
    inside = [
        index
        for index, frame in enumerate(frames)
        if _is_below(frame.filename, folder) and not _is_own(frame.filename)
    ]
    if inside:
        frames = traceback.StackSummary.from_list([frame for frame in frames[inside[0] :] if not _is_own(frame.filename)])
    elif isinstance(error, SyntaxError):
        frames = traceback.StackSummary()
    lines = [
        "Traceback (most recent call last):\n",
        *frames.format(),
        *traceback.format_exception_only(type(error), error),
    ]
    return "".join(lines)


def _is_own(filename: str) -> bool:
    """Say whether a frame is ours: of the archive, or of where the archive's code was compiled."""
    compiled_at = os.path.dirname(os.path.dirname(_is_own.__code__.co_filename))
    return PAYLOAD_NAME in filename or filename.startswith(
        tuple(os.path.join(compiled_at, name, "") for name in ("protocol", "workers"))
    )


def _is_below(filename: str, folder: Path) -> bool:
    try:
        return folder.resolve() in Path(filename).resolve().parents
    except OSError:
        return False


def _functions(module: ModuleType) -> List[str]:
    return [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
