"""The folder of a session's socket and payload: private, short-lived, and gone even after a SIGKILL.

It is deleted as soon as the workers no longer need its names: connections and mapped files outlive them. Of an owner that
died before that, a small process that waits for it deletes it; where that was killed too, the next session does: the
owner's lock is free then.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Optional

from stepalign.protocol.sockets import MAX_IPC_PATH_BYTES

_PREFIX = "stepalign-run-"
_LOCK = "owner"
SOCKET_NAME = "s"
_RANDOM_LENGTH = 8
"""What `tempfile` puts behind a prefix."""

_DELETE_UNLESS_TOLD = 'read -r _ || rm -rf -- "$1"'
"""For a shell: its input ends without a line where its parent was killed."""


class PrivateFolder:
    """A new folder that only this user can enter."""

    def __init__(self) -> None:
        parent = _short_parent()
        sweep(parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if (self.path / _LOCK).exists():
                break
            os.close(self._lock)  # a sweep of another session was quicker than our lock
        self._heir = _start_heir(self.path)

    def remove(self) -> None:
        """Delete the folder and all names in it; may be called twice."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1
            if self._heir is not None:
                self._heir.communicate(b"\n")


def _short_parent() -> Path:
    """Return the temporary folder, or another one where its path is too long for the kernel to take a socket below it."""
    chosen = Path(tempfile.gettempdir())
    for parent in (chosen, Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp"), Path("/tmp"), Path("/var/tmp")):
        longest = parent / f"{_PREFIX}{'x' * _RANDOM_LENGTH}" / SOCKET_NAME
        if len(os.fsencode(longest)) <= MAX_IPC_PATH_BYTES and os.access(parent, os.W_OK | os.X_OK):
            return parent
    return chosen


def _start_heir(folder: Path) -> Optional[subprocess.Popen[bytes]]:
    """Start what deletes ``folder`` once this process is gone; None where the system refuses one more process."""
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", _DELETE_UNLESS_TOLD, "stepalign-heir", str(folder)],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None


def sweep(parent: Path) -> None:
    """Delete the folders of this user below ``parent`` whose owners are gone."""
    for folder in parent.glob(_PREFIX + "*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
