"""Every error that stepalign raises on purpose. The class says whose turn it is; the message says what to do."""

from __future__ import annotations

import reprlib
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def shown(value: Any) -> str:
    """Return ``value`` for an error message: at most 60 characters, however large or deep it is."""
    try:
        text = _SHORT.repr(value)
    except ValueError:  # an int of thousands of digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


class StepalignError(Exception):
    """The root of stepalign's own errors; ``exit_code`` is what the command line ends with."""

    exit_code = 3


class CaseError(StepalignError):
    """The case, its scripts, its data or the command line is wrong: the user's turn."""

    exit_code = 2


class EnvironmentFailure(StepalignError):
    """An interpreter or a package that a worker needs is missing or broken."""


class WorkerFailure(StepalignError):
    """A worker ended, raised outside the user's script, or is not what it should be."""


class ProtocolError(StepalignError):
    """A message broke the protocol's rules; the conversation it came from is over."""


class DeadlineExceeded(StepalignError):
    """A worker did not answer within the time that its phase has."""
