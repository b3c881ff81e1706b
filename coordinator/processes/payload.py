"""The archive that a worker is started from: `protocol/` and `workers/` below the import name, and a `__main__`.

Made anew for each run, from the very files that this coordinator runs, so that both ends of the wire are one version.
Beside each source lies what this Python has compiled it to: a worker of the same Python takes that, another the source.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import py_compile
import sys
import zipfile
from pathlib import Path
from typing import Optional

import stepalign
import stepalign.protocol
from stepalign.protocol.errors import EnvironmentFailure

_MAIN = "from stepalign.workers.bootstrap import main\n\nmain()\n"
_SITECUSTOMIZE = "from stepalign.workers.startup import begin_python\n\nbegin_python()\n"
"""Runs where the archive is on PYTHONPATH: in a user's own command."""

_TIMESTAMP_BASED, _UNCHECKED_HASH = (0).to_bytes(4, "little"), (1).to_bytes(4, "little")
"""The second field of a .pyc (PEP 552): it is of the source of a time and a size, or of this source, which nobody checks."""


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
                    source, place = file.read_bytes(), f"stepalign/{name}/{file.relative_to(folder).as_posix()}"
                    archive.writestr(place, source)
                    code = _compiled(file)
                    if code is not None:
                        header = importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + importlib.util.source_hash(source)
                        archive.writestr(f"{place}c", header + code)


def _compiled(file: Path) -> Optional[bytes]:
    """Return the marshalled code of a module from the __pycache__ that Python keeps, made there if need be; None where
    there is none to be had.
    """
    cache = Path(importlib.util.cache_from_source(file, optimization=""))
    code = _kept(file, cache)
    if code is None and not sys.dont_write_bytecode:
        with contextlib.suppress(OSError, py_compile.PyCompileError):
            py_compile.compile(str(file), str(cache), doraise=True, optimize=0)
            code = _kept(file, cache)
    return code


def _kept(file: Path, cache: Path) -> Optional[bytes]:
    """Return the code of a .pyc if it is of this Python and of the source as it is now."""
    try:
        content, now = cache.read_bytes(), file.stat()
    except OSError:
        return None
    of = (int(now.st_mtime) & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF)
    header = importlib.util.MAGIC_NUMBER + _TIMESTAMP_BASED + b"".join(part.to_bytes(4, "little") for part in of)
    return content[len(header) :] if content.startswith(header) else None


def _workers_folder() -> Path:
    """Return the folder of the workers' package, without importing it: the coordinator runs none of its code."""
    spec = importlib.util.find_spec("stepalign.workers")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFailure("the workers' code is not installed: reinstall stepalign")
    return Path(next(iter(spec.submodule_search_locations)))
