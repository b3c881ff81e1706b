"""Passes on what workers write to their log files, line by line, while they run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Callable, Dict, Optional

_ROLES = ("torch", "paddle")
_MOST_BYTES = 1 << 16


class LogTail:
    """Reads the two logs of a run folder as they grow; a flood is passed on in part, the file has all of it."""

    def __init__(self, on_line: Callable[[str, str], None]) -> None:
        self._on_line = on_line
        self._folder: Optional[Path] = None
        self._positions: Dict[str, int] = dict.fromkeys(_ROLES, 0)

    def follow(self, folder: Path) -> None:
        """Start with the logs of ``folder``, from their present end on."""
        self._folder = folder
        for role in _ROLES:
            with contextlib.suppress(OSError):
                self._positions[role] = (folder / f"{role}.log").stat().st_size

    def read(self) -> None:
        """Pass on the whole lines that are new."""
        if self._folder is None:
            return
        for role in _ROLES:
            try:
                with open(self._folder / f"{role}.log", "rb") as log:
                    log.seek(self._positions[role])
                    new = log.read(_MOST_BYTES)
                    if len(new) == _MOST_BYTES:
                        log.seek(0, 2)
                        self._positions[role] = log.tell()
                        self._on_line(role, f"... much output, see {role}.log")
                        continue
            except FileNotFoundError:
                continue
            whole, newline, _ = new.rpartition(b"\n")
            if newline:
                self._positions[role] += len(whole) + 1
                for line in whole.decode("utf-8", "replace").splitlines():
                    self._on_line(role, line)
