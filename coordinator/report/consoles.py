"""Where people are written to: a console as wide as text is read well, plain where it is not a terminal."""

from __future__ import annotations

import re
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

PLAIN_WIDTH = 80
MAX_WIDTH = 100


def open_console(file: TextIO) -> Console:
    """Return a console on ``file``: at most `MAX_WIDTH` columns, `PLAIN_WIDTH` off a terminal; colours obey NO_COLOR."""
    console = Console(file=file, highlight=False, markup=False, emoji=False)
    console.width = min(console.width, MAX_WIDTH) if console.is_terminal else PLAIN_WIDTH
    return console


_WIDE = "\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
_PIECES = re.compile(rf"[{_WIDE}][，。；：、）！？]*|[^\s{_WIDE}]+[，。；：、）！？]*|\s+")


def wrap(line: Text, console: Console, width: int) -> list[Text]:
    """Return ``line`` in parts of at most ``width`` columns; Chinese may be parted between any two characters.

    Punctuation that closes stays with what it closes.
    """
    if not re.search(f"[{_WIDE}]", line.plain):
        return list(line.wrap(console, width))
    breaks, start, column = [], 0, 0
    for piece in _PIECES.finditer(line.plain):
        size = cell_len(piece.group())
        if column and column + size > width and not piece.group().isspace():
            breaks.append(piece.start())
            column = 0
        start = piece.end()
        column += size
        while column > width and not piece.group().isspace():  # a name longer than the line
            breaks.append(start - (column - width))
            column -= width
    return list(line.divide(breaks)) if breaks else [line]
