"""The files of a recording, in a folder or one .zip: JSON and .npz, each with its SHA-256. Nothing is unpickled.

A recording appears whole or not at all: it is written beside its place and moved there at the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict, Mapping, Optional

import numpy as np

from stepalign.coordinator.results.records import to_strict
from stepalign.protocol.errors import CaseError, EnvironmentFailure

INDEX_NAME = "recording.json"
Arrays = Dict[str, np.ndarray]


class RecordingWriter:
    """Collects the files of a recording for ``place``, a .zip or a folder that must not exist yet."""

    def __init__(self, place: Path) -> None:
        if place.exists():
            raise CaseError(f"{place} is there already: name another place with --out, nothing was overwritten")
        self._place = place
        self._part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
        self._digests: Dict[str, str] = {}
        self._archive: Optional[zipfile.ZipFile] = None
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.suffix == ".zip":
                self._archive = zipfile.ZipFile(self._part, "x", zipfile.ZIP_STORED)
            else:
                self._part.mkdir()
        except OSError as error:
            raise CaseError(f"{place} cannot be written: {error.strerror}") from None

    def add(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Add the file ``name``, a .npz of named arrays."""
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **{key: np.asarray(array) for key, array in arrays.items()})
        content = stream.getvalue()
        self._digests[name] = hashlib.sha256(content).hexdigest()
        self._write(name, content)

    def finish(self, index: Mapping[str, Any]) -> None:
        """Write the index, with the digests of all files, and move everything to its place."""
        written = {**index, "files": self._digests}
        self._write(INDEX_NAME, json.dumps(to_strict(written), indent=1, allow_nan=False).encode() + b"\n")
        if self._archive is not None:
            self._archive.close()
        os.replace(self._part, self._place)

    def discard(self) -> None:
        """Remove what was written; nothing happens once `finish` was called."""
        if self._archive is not None:
            self._archive.close()
            self._part.unlink(missing_ok=True)
        else:
            shutil.rmtree(self._part, ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        try:
            if self._archive is not None:
                self._archive.writestr(zipfile.ZipInfo(name), content)
                return
            path = self._part / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise EnvironmentFailure(f"{self._place} cannot be written: {error.strerror}") from None


class RecordingFiles:
    """Reads the files of a recording; each is checked by its digest as it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.index: Dict[str, Any] = {}
        try:
            index = json.loads(self._read(INDEX_NAME))
        except ValueError as error:
            raise CaseError(f"{place}: {INDEX_NAME} is not JSON: {error}") from None
        if not isinstance(index, dict) or not isinstance(index.get("files"), dict):
            raise CaseError(f"{place}: {INDEX_NAME} is not the index of a recording")
        self.index = index

    def __contains__(self, name: str) -> bool:
        return name in self.index["files"]

    def arrays(self, name: str) -> Arrays:
        """Return the named arrays of a file. Raises CaseError where it is missing, changed or damaged."""
        content = self._read(name)
        if hashlib.sha256(content).hexdigest() != self.index["files"].get(name):
            raise CaseError(f"{self.place}: {name} is not what was recorded: its digest differs; get the recording again")
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise CaseError(f"{self.place}: {name} holds no plain arrays: {error}") from None

    def _read(self, name: str) -> bytes:
        try:
            if self.place.is_dir():
                return (self.place / name).read_bytes()
            with zipfile.ZipFile(self.place) as archive:
                return archive.read(name)
        except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise CaseError(f"{self.place}: {name} cannot be read: {reason}; give what `stepalign record` wrote") from None
