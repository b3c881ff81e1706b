"""Reads case.toml, what the command line sets over it, and checks the result; every error names the key."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Mapping, Sequence

from stepalign.coordinator.cases.case import Case, CaseFile
from stepalign.coordinator.cases.checks import check_case
from stepalign.protocol.errors import CaseError
from stepalign.protocol.schema import SchemaError, from_plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]


def load_case(
    folder: Path, assignments: Sequence[str] = (), without: Sequence[str] = (), **overrides: Any
) -> Case:
    """Read and check ``folder/case.toml``; scripts of the sides ``without`` may be missing.

    ``assignments`` are ``KEY=VALUE`` texts (``options.hidden=64``, ``compare.resync=5``; a bare key that is none of
    case.toml's own is an option); ``overrides`` replace top-level keys and win. Raises CaseError.
    """
    path = folder / "case.toml"
    if folder.name == "case.toml" and folder.is_file():
        folder, path = folder.parent, folder
    if not path.is_file():
        raise CaseError(
            f"no case at {folder}: expected a folder with a case.toml; `stepalign init {folder}` writes one"
        )
    plain = read_toml(path)
    return case_of(plain, folder, path, assignments, overrides, without)


def read_toml(path: Path) -> Dict[str, Any]:
    """Return the tables of a TOML file. Raises CaseError."""
    try:
        plain: Dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CaseError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise CaseError(f"{path} cannot be read: {error.strerror}") from None
    return plain


def case_of(
    plain: Dict[str, Any],
    folder: Path,
    path: Path,
    assignments: Sequence[str],
    overrides: Mapping[str, Any],
    without: Sequence[str] = (),
) -> Case:
    """Return the checked case of plain tables; ``path`` is where they come from. Scripts of the sides ``without`` may be
    missing.
    """
    for assignment in assignments:
        assign(plain, assignment)
    given = {key: value for key, value in overrides.items() if value is not None}
    plain.update(given)
    try:
        file = from_plain(CaseFile, plain)
    except SchemaError as error:
        raise CaseError(f"{path}: {error}") from None
    folder = folder.resolve()
    file = replace(
        file,
        name=file.name or folder.name,
        torch=replace(file.torch, python=file.torch.python or "torch"),
        paddle=replace(file.paddle, python=file.paddle.python or "paddle"),
    )
    made = (*assignments, *(f"{key}={json.dumps(value)}" for key, value in given.items()))
    case = Case(folder, file, assignments=made)
    check_case(case, path, without)
    return case


def assign(plain: Dict[str, Any], assignment: str) -> None:
    """Apply one ``KEY=VALUE`` to the plain tables of a case. The value is TOML; what is not TOML is a string."""
    key, separator, text = assignment.partition("=")
    key = key.strip()
    if not separator or not key:
        raise CaseError(f"--set takes KEY=VALUE, got {assignment!r}: for example --set options.hidden=64")
    parts = key.split(".")
    if len(parts) == 1 and key not in CaseFile.__dataclass_fields__:
        near = difflib.get_close_matches(key, CaseFile.__dataclass_fields__, n=1, cutoff=0.75)
        if near and key not in plain.get("options", {}):
            raise CaseError(
                f"--set {key}: the case has no option of that name; did you mean {near[0]}? "
                f"To add an option, write --set options.{key}=..."
            )
        parts = ["options", key]
    table = plain
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise CaseError(f"--set {key}: {part} is not a table")
    table[parts[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text
