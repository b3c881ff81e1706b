"""`case.json`: the case of a run as it was run, and how another case differs from it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from stepalign.coordinator.cases.case import SIDES, Case, CaseFile
from stepalign.coordinator.cases.secrets import not_secret, with_secrets, without_secrets
from stepalign.coordinator.recordings.recording import open_recording
from stepalign.coordinator.results.records import read_result, to_strict, write_json
from stepalign.protocol.errors import CaseError
from stepalign.protocol.schema import SchemaError, from_plain, to_plain

CASE_NAME = "case.json"
_WEIGHTS_FILES = (".npz", ".safetensors")
_FREE_SECTIONS = ("deadline", "network", "resume")
"""What may change between a run and its continuation: it decides no number."""


def write_case_record(folder: Path, case: Case) -> None:
    """Write what a replay needs to know of the case: its folder, its values after all that the command line set, and
    the digests of its scripts.
    """
    record = {
        "folder": str(case.folder),
        "case": without_secrets(to_plain(case.file)),
        "assignments": not_secret(case.assignments),
        "files": _file_digests(case),
    }
    if case.against is not None:
        record["against"] = str(case.against.place.resolve())
        record["against_digest"] = case.against.digest
    write_json(folder / CASE_NAME, record)


def read_case_record(folder: Path) -> Case:
    """Return the case of a run folder, as it was run. Raises CaseError if it is not there, or its scripts are gone."""
    path = folder / CASE_NAME
    record = _read(folder)
    try:
        against = open_recording(Path(record["against"])) if "against" in record else None
        assignments = tuple(record.get("assignments", ()))
        home = Path(record["folder"])
        case = Case(home, from_plain(CaseFile, with_secrets(record["case"], home)), against, assignments)
    except (KeyError, TypeError, SchemaError) as error:
        raise CaseError(f"{path}: not a case that stepalign recorded: {error}") from None
    for side in SIDES:
        if (against is None or side != against.side) and not case.side(side).command and not case.script(side).is_file():
            raise CaseError(f"{path}: the script {case.script(side)} is no longer there: a replay needs the case as it was")
    return case


def recorded_against(folder: Path) -> Optional[Path]:
    """Return the recording that stood for a side when the run began, if one did. Raises CaseError."""
    place = _read(folder).get("against")
    return None if place is None else Path(str(place))


def recorded_assignments(folder: Path) -> Tuple[str, ...]:
    """Return what the command line set over case.toml when the run began. Raises CaseError."""
    assignments = _read(folder).get("assignments", [])
    if not isinstance(assignments, list) or not all(isinstance(item, str) for item in assignments):
        raise CaseError(f"{folder / CASE_NAME}: not a case that stepalign recorded: assignments")
    return tuple(assignments)


def check_same_case(folder: Path, case: Case) -> None:
    """Raise CaseError that names what has changed unless ``case`` is the one that the run in ``folder`` began with."""
    record = _read(folder)
    before, now = record.get("case"), to_strict(without_secrets(to_plain(case.file)))
    if not isinstance(before, dict):
        raise CaseError(f"{folder / CASE_NAME}: not a case that stepalign recorded")
    if before.get("name") != now["name"]:
        raise CaseError(f"{folder} is a run of the case {before.get('name')!r}, not of {now['name']!r}")
    changed = [f"{key} was {was!r}, is {is_!r}" for key, was, is_ in _changes(before, now)]
    against = None if case.against is None else str(case.against.place.resolve())
    if record.get("against") != against:
        changed.append(f"the recording that stands for a side was {record.get('against')}, is {against}")
    elif case.against is not None and record.get("against_digest") != case.against.digest:
        changed.append(f"the recording {against} is another than it was")
    files, present = dict(record.get("files", {})), _file_digests(case)
    changed += [f"{name} has changed" for name in sorted({*files, *present}) if files.get(name) != present.get(name)]
    if changed:
        raise CaseError(
            f"{folder}: the case has changed since: {'; '.join(changed)}. Put it back as it was, or begin a new run"
        )


def _read(folder: Path) -> Dict[str, Any]:
    path = folder / CASE_NAME
    if not path.is_file():
        raise CaseError(f"{folder} has no {CASE_NAME}: give the folder of a run")
    return read_result(path)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> List[Tuple[str, Any, Any]]:
    changed = []
    for key in sorted({*before, *now}):
        was, is_ = before.get(key), now.get(key)
        if (not path and key in _FREE_SECTIONS) or was == is_:
            continue
        if isinstance(was, dict) and isinstance(is_, dict):
            changed += _changes(was, is_, f"{path}{key}.")
        else:
            changed.append((f"{path}{key}", was, is_))
    return changed


def _file_digests(case: Case) -> Dict[str, str]:
    """Return the SHA-256 of the files that the case names, but data: their batches' digests are in steps.jsonl."""
    paths = [case.script(side) for side in SIDES]
    data, weights = case.file.data.source or "", case.file.weights.source
    paths += [case.folder / data] if data.endswith(".py") else []
    paths += [case.folder / weights] if weights.endswith(_WEIGHTS_FILES) else []
    return {
        os.path.relpath(path, case.folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.is_file()
    }
