"""Where people are written to: a console as wide as text is read well, plain where it is not a terminal."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console

PLAIN_WIDTH = 80
MAX_WIDTH = 100


def open_console(file: TextIO) -> Console:
    """Return a console on ``file``: at most `MAX_WIDTH` columns, `PLAIN_WIDTH` off a terminal; colours obey NO_COLOR."""
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else PLAIN_WIDTH
    return console
