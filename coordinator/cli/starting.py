"""``stepalign init``."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from stepalign.protocol.errors import CaseError

INIT_CASE = Path(__file__).parent.parent / "cases" / "init_case"


def init(options: argparse.Namespace) -> int:
    """Write a commented case."""
    folder: Path = options.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CaseError(f"{folder} is not a new or empty folder: name another, nothing in it was changed")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(INIT_CASE.iterdir()):
            if file.suffix in (".toml", ".py"):
                shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise CaseError(f"{folder} cannot be written: {error.strerror}") from None
    print(f"wrote {folder}: read its case.toml, then: stepalign run {folder}")
    return 0
