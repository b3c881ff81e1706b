"""Keeps secrets of `[torch] env` and `[paddle] env` out of what a run leaves: run folders are handed on.

A variable whose name sounds like a secret is written down by name only. A replay takes its value from case.toml again, or
from its own environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

HIDDEN = "(hidden)"
_SIDES = ("torch", "paddle")
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|AUTH|COOKIE", re.IGNORECASE)
_IN_URL = re.compile(r"://[^/@\s]+@")


def without_secrets(case: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a case's plain values with the values of secret variables hidden."""
    return {**case, **{side: _hidden(case[side]) for side in _SIDES if side in case}}


def not_secret(assignments: Iterable[str]) -> List[str]:
    """Return the ``KEY=VALUE`` texts that set no secret variable."""
    return [text for text in assignments if ".env." not in text.partition("=")[0] or not _SECRET.search(text.partition("=")[0])]


def with_secrets(case: Mapping[str, Any], folder: Path) -> Dict[str, Any]:
    """Return recorded plain values with the hidden ones as case.toml in ``folder`` has them now, or this process's own;
    a variable that neither has is left out.
    """
    written: Dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError), open(folder / "case.toml", "rb") as file:
        written = tomllib.load(file)
    return {**case, **{side: _found(case[side], written.get(side)) for side in _SIDES if side in case}}


def without_credentials(text: str) -> str:
    """Return ``text`` without the user names and passwords that its URLs hold."""
    return _IN_URL.sub("://***@", text)


def _hidden(section: Any) -> Any:
    env = section.get("env") if isinstance(section, dict) else None
    if not isinstance(env, dict):
        return section
    return {**section, "env": {name: HIDDEN if _SECRET.search(name) else value for name, value in env.items()}}


def _found(section: Any, written: Any) -> Any:
    env = section.get("env") if isinstance(section, dict) else None
    if not isinstance(env, dict):
        return section
    now = written.get("env", {}) if isinstance(written, dict) else {}
    values = {name: now.get(name, os.environ.get(name)) if value == HIDDEN else value for name, value in env.items()}
    return {**section, "env": {name: value for name, value in values.items() if value is not None}}
