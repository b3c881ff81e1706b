"""Which case a run is of: a folder with case.toml, or two commands of scripts that own their loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Sequence

from stepalign.coordinator.cases.case import SIDES, Case
from stepalign.coordinator.cases.loading import case_of, load_case, read_toml
from stepalign.coordinator.recordings.recording import check_fit, open_recording
from stepalign.protocol.errors import CaseError

_USE = "stepalign run --torch CMD --paddle CMD --data FILE"


def choose_case(
    folder: Optional[Path],
    commands: Mapping[str, Optional[str]],
    data: Optional[str] = None,
    config: Optional[Path] = None,
    assignments: Sequence[str] = (),
    accumulate: Optional[int] = None,
    against: Optional[Path] = None,
    **overrides: Any,
) -> Case:
    """Return the case of a folder, or that of two commands (by side) which are run in the working directory.

    ``data`` is a .npz or .py file. ``config`` is a file with any other keys of case.toml; paths in it are relative to it.
    ``accumulate`` is how many batches an update takes in. ``against`` is a recording in place of one side, whose script may
    be missing. For ``assignments`` and ``overrides`` see `load_case`. Raises CaseError for both or neither, and for all that
    is wrong in a case.
    """
    if against is not None:
        recording = open_recording(against)
        case = _chosen(folder, commands, data, config, assignments, accumulate, (recording.side,), overrides)
        check_fit(recording, case)
        return replace(case, against=recording)
    return _chosen(folder, commands, data, config, assignments, accumulate, (), overrides)


def _chosen(
    folder: Optional[Path],
    commands: Mapping[str, Optional[str]],
    data: Optional[str],
    config: Optional[Path],
    assignments: Sequence[str],
    accumulate: Optional[int],
    without: Sequence[str],
    overrides: Mapping[str, Any],
) -> Case:
    given = {side: command for side, command in commands.items() if command is not None}
    others = {"data": data, "config": config, "accumulate": accumulate}
    named = [*given, *(name for name, value in others.items() if value is not None)]
    if folder is not None:
        if named:
            raise CaseError(f"give a case or commands, not both: the case {folder} goes without {', '.join(named)}")
        return load_case(folder, assignments, without, **overrides)
    if not given and config is None:
        raise CaseError(f"give a case's folder, or the commands of two scripts: {_USE}")
    plain: Dict[str, Any] = {}
    if config is not None:
        plain = read_toml(config)
        _anchor(plain, config.resolve().parent)
    for side in SIDES:
        section = plain.setdefault(side, {})
        if side in given and isinstance(section, dict):
            section.pop("script", None)
            section["command"] = given[side]
        elif isinstance(section, dict) and side in without:
            section.setdefault("command", "recorded")
        elif isinstance(section, dict) and "command" not in section:
            raise CaseError(f"the {side} side has no command: {_USE}")
    if data is not None:
        plain["data"] = {"source": str(Path(data).absolute())}
    elif "data" not in plain and without:
        plain["data"] = {"source": "recorded.npz"}
    elif "data" not in plain:
        raise CaseError(f"the commands have no data to train on: {_USE}")
    return case_of(
        plain, Path.cwd(), config or Path("command line"), assignments, {**overrides, "accumulate": accumulate}, without
    )


def _anchor(plain: Dict[str, Any], folder: Path) -> None:
    """Make the paths of a configuration's files absolute; scripts and commands stay as they are."""
    data, weights = plain.get("data"), plain.get("weights")
    if isinstance(data, dict):
        if isinstance(data.get("source"), str):
            data["source"] = str(folder / data["source"])
        if isinstance(data.get("arrays"), dict):
            data["arrays"] = {name: str(folder / str(file)) for name, file in data["arrays"].items()}
    if isinstance(weights, dict) and str(weights.get("source")).endswith((".npz", ".safetensors")):
        weights["source"] = str(folder / weights["source"])
