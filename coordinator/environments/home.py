"""Where stepalign keeps what outlives a run: the workers' environments and what it learned about interpreters.

``STEPALIGN_HOME`` overrides the place; otherwise it is the platform's folder for a user's data. Nothing here is created
before something is written into it. A file is replaced as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

HOME_VARIABLE = "STEPALIGN_HOME"


def home_folder() -> Path:
    """Give stepalign's own folder as an absolute path; it need not exist."""
    chosen = os.environ.get(HOME_VARIABLE, "")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    import platformdirs

    return platformdirs.user_data_path("stepalign", appauthor=False)


def environments_folder() -> Path:
    """Give the folder that holds the managed environments, one folder each."""
    return home_folder() / "envs"


def interpreter_cache_folder() -> Path:
    """Give the folder that holds what probes of interpreters found."""
    return home_folder() / "interpreters"


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON in one step. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
