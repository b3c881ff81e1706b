"""The archive that a worker is started from: `protocol/` and `workers/` below the import name, and a `__main__`.

Made anew for each run, from the very files that this coordinator runs, so that both ends of the wire are one version.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import stepalign
import stepalign.protocol
from stepalign.protocol.errors import EnvironmentFailure

_MAIN = "from stepalign.workers.bootstrap import main\n\nmain()\n"
_SITECUSTOMIZE = "from stepalign.workers.startup import begin_python\n\nbegin_python()\n"
"""Runs where the archive is on PYTHONPATH: in a user's own command."""



def write_payload(path: Path) -> None:
    """Write the archive to ``path``. Raises OSError that names it."""
    try:
        _write(path)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error


def _write(path: Path) -> None:
    protocol = Path(stepalign.protocol.__path__[0])
    workers = _workers_folder()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("__main__.py", _MAIN)
        archive.writestr("sitecustomize.py", _SITECUSTOMIZE)
        archive.writestr("stepalign/__init__.py", f'__version__ = "{stepalign.__version__}"\n')
        for name, folder in (("protocol", protocol), ("workers", workers)):
            for file in sorted(folder.rglob("*.py")):
                if "_root" not in file.parts:
                    archive.writestr(f"stepalign/{name}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def _workers_folder() -> Path:
    """Return the folder of the workers' package, without importing it: the coordinator runs none of its code."""
    from importlib.util import find_spec

    spec = find_spec("stepalign.workers")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFailure("the workers' code is not installed: reinstall stepalign")
    return Path(next(iter(spec.submodule_search_locations)))
