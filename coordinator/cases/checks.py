"""Holds a case's values against what their keys allow, and its files against the disk."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Sequence

from stepalign.coordinator.cases.case import KINDS, MAX_DEADLINE_S, SIDES, Case
from stepalign.coordinator.cases.optimizer_section import check_optimizer
from stepalign.protocol.errors import CaseError


def check_case(case: Case, path: Path, without: Sequence[str] = ()) -> None:
    """Raise CaseError, naming ``path`` and the key, unless the case can be run; scripts of ``without`` may be missing."""
    file = case.file
    for side in SIDES:
        section = case.side(side)
        _check_program(case, side, path, side in without)
        if not re.fullmatch(r"auto|cpu|gpu(:\d+)?", section.device):
            raise CaseError(f'{path}: {side}.device: expected "auto", "cpu", "gpu" or "gpu:1", got {section.device!r}')
        for name, value in section.env.items():
            if not name or "=" in name or "\0" in name + value:
                raise CaseError(f"{path}: {side}.env: {name!r} cannot be an environment variable with that value")
    _check_number(path, "steps", file.steps, 1)
    _check_number(path, "seed", file.seed, 0)
    if file.seed >= 1 << 32:
        raise CaseError(f"{path}: seed: expected less than 2**32, which every random generator takes, got {file.seed}")
    _check_number(path, "threads", file.threads, 0)
    _check_number(path, "accumulate", file.accumulate, 1)
    if file.accumulate > 1 and not all(case.side(side).command for side in SIDES):
        raise CaseError(
            f"{path}: accumulate: only scripts that own their loop take several batches an update: let loss(model, batch) "
            "of build(case) take one batch that is the whole of it"
        )
    _check_number(path, "compare.resync", file.compare.resync, 0)
    _check_number(path, "schedule.steps", file.schedule.steps, 1)
    check_optimizer(path, file.optimizer)
    _check_number(path, "collect.budget_mib", file.collect.budget_mib, 1)
    _check_number(path, "collect.memory_mib", file.collect.memory_mib, 0)
    if bool(file.data.source) == bool(file.data.arrays):
        raise CaseError(
            f'{path}: data: give one of source = "data.npz" (or "data.py") and arrays = {{ name = "file.npy" }}'
        )
    for kind in file.tolerance:
        if kind not in KINDS:
            raise CaseError(f"{path}: tolerance.{kind}: unknown kind; the kinds are {', '.join(KINDS)}")
    for name, entry in file.tolerance.items():
        for key, allowed in (("rtol", entry.rtol), ("atol", entry.atol)):
            if allowed is not None and not 0 <= allowed < float("inf"):
                raise CaseError(f"{path}: tolerance.{name}.{key}: expected a number of at least 0, got {allowed}")
    for item in fields(file.deadline):
        value = getattr(file.deadline, item.name)
        if not 0 < value < MAX_DEADLINE_S:
            raise CaseError(
                f"{path}: deadline.{item.name}: expected seconds, more than 0 and less than {MAX_DEADLINE_S:.0f}, got {value}"
            )
    _check_hosts(case, path)
    if not 0 <= file.resume.every_s < MAX_DEADLINE_S:
        raise CaseError(f"{path}: resume.every_s: expected seconds, 0 or more, got {file.resume.every_s}")
    for milestone in file.schedule.chosen_milestones():
        if not 0 <= milestone < file.schedule.steps:
            raise CaseError(
                f"{path}: schedule.milestones: {milestone} is not one of the steps 0 to {file.schedule.steps - 1}"
            )
    for index, (pattern, _) in enumerate(file.weights.rename):
        try:
            re.compile(pattern)
        except re.error as error:
            raise CaseError(
                f"{path}: weights.rename[{index}]: {pattern!r} is not a regular expression: {error}"
            ) from None
    _check_weights_source(case, path)


def _check_program(case: Case, side: str, path: Path, may_be_missing: bool) -> None:
    """Raise CaseError unless a side has one of a script that is there and a command that can be split."""
    section = case.side(side)
    if bool(section.script) == bool(section.command):
        raise CaseError(
            f'{path}: {side}: give one of script = "{side}_side.py" (it defines build(case)) and command = "python '
            f'train.py" (it owns its loop)'
        )
    if section.script and not may_be_missing and not case.script(side).is_file():
        raise CaseError(f"{path}: {side}.script: no file {case.script(side)}")
    try:
        if section.command and not case.command(side):
            raise ValueError("it is empty")
    except ValueError as error:
        raise CaseError(f"{path}: {side}.command: {section.command!r} cannot be split into words: {error}") from None


def _check_number(path: Path, key: str, value: int, least: int) -> None:
    if value < least:
        raise CaseError(f"{path}: {key}: expected a whole number of at least {least}, got {value}")


def _check_weights_source(case: Case, path: Path) -> None:
    source = case.file.weights.source
    if source in ("torch", "paddle", "none"):
        return
    if not source.endswith((".npz", ".safetensors")):
        raise CaseError(
            f'{path}: weights.source: expected "torch", "paddle", "none", a .npz or a .safetensors file, got {source!r}'
        )
    if not (case.folder / source).is_file():
        raise CaseError(f"{path}: weights.source: no file {case.folder / source}")


def _check_hosts(case: Case, path: Path) -> None:
    for side in SIDES:
        if not case.side(side).host:
            continue
        if case.side(side).command:
            raise CaseError(
                f"{path}: {side}.host: a command that owns its loop runs on this machine only. Record that side there with "
                f"`stepalign record --side {side}` and run here with --against; or give a script with build(case), which may "
                "run on another machine"
            )
        if not case.file.network.bind:
            raise CaseError(
                f"{path}: network.bind: with {side}.host it is needed: this machine's address that {case.side(side).host} "
                "reaches, as IP or IP:PORT (or --bind)"
            )
    if not 0 < case.file.network.wait_s < MAX_DEADLINE_S:
        raise CaseError(f"{path}: network.wait_s: expected seconds, more than 0, got {case.file.network.wait_s}")
