"""Puts English texts into the chosen language when they are shown, not when they are made.

Every message is written once in English, where it arises, numbers and names filled in; result.json keeps it so. A
language's catalogue, ``<language>/<domain>.toml``, maps the English text, with ``{0}``, ``{1}``, ... for what an
f-string fills in, to the translation, which has the same places in any order. What is filled in is translated too. A
text that no entry fits is shown as it is; `sources.py` finds entries that are missing or left over.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

LANGUAGES = ("en", "zh")
DOMAINS = ("views", "causes", "errors")
"""``views``: headings and sentences of what shows a result; ``causes``: what diagnosis and comparison say of a result;
``errors``: messages of errors."""

_FOLDER = Path(__file__).parent
_PLACE = re.compile(r"\{(\d+)\}")
_LETTERS = re.compile(r"[A-Za-z]{2}")
_BETWEEN_WIDE = re.compile(r"(?<=[\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]) (?=[\u3400-\u9fff\uff08])")
_LONGEST = 6000
_DEEPEST = 6
_JOINTS = (("\n", "\n"), ("; ", "；"), (". ", "。"), (": ", "："), (", ", "，"), (" and ", "和"))
_OF_LISTS = ("\n", "; ", ", ")
_MOST_JOINTS = 40
_SURE_LETTERS = 10
_chosen: list[str | None] = [None]


def choose(language: str | None) -> None:
    """Choose the language of everything shown from now on; None leaves it to the locale. Raises ValueError."""
    if language is not None and language not in LANGUAGES:
        raise ValueError(f"language: expected one of {', '.join(LANGUAGES)}, got {language!r}")
    _chosen[0] = language


def language() -> str:
    """Return the chosen language, or the locale's: the first of LC_ALL, LC_MESSAGES and LANG that is set."""
    return _chosen[0] or of_locale(os.environ)


def of_locale(environment: Mapping[str, str]) -> str:
    """Return the language of a process's environment; English where there is no catalogue for it."""
    name = next(filter(None, (environment.get(key, "") for key in ("LC_ALL", "LC_MESSAGES", "LANG"))), "")
    code = re.split(r"[_.@-]", name.lower())[0]
    return code if code in LANGUAGES else "en"


def say(text: str, domain: str = "views") -> str:
    """Return ``text`` in the chosen language."""
    chosen = language()
    return text if chosen == "en" else catalogue(chosen, domain).translate(text)


def message(text: str) -> str:
    """Return ``text`` as it is: marks a message that is given to `say` later, so that `sources.py` finds it."""
    return text


class Catalogue:
    """The messages of one language. A text is matched whole, then in parts, then by templates of few letters.

    With ``is_strict`` those are not tried: where any text may come, as a traceback from a user's script.
    """

    def __init__(self, messages: Mapping[str, str], is_strict: bool = False) -> None:
        self._exact = {english: other for english, other in messages.items() if not _PLACE.search(english)}
        templates = [_Template(english, other) for english, other in messages.items() if _PLACE.search(english)]
        templates.sort(key=lambda item: -item.weight)
        self._sure = [item for item in templates if item.weight >= _SURE_LETTERS]
        self._weak = [item for item in templates if item.weight < _SURE_LETTERS and not is_strict]
        self.translate = lru_cache(maxsize=4096)(self._translate)

    def _translate(self, text: str) -> str:
        """Return the translation; parts that no entry fits stay as they are."""
        translated = self._translated(text, 0)
        return text if translated is None else _BETWEEN_WIDE.sub("", translated)

    def _translated(self, text: str, depth: int) -> str | None:
        if depth > _DEEPEST or len(text) > _LONGEST or not _LETTERS.search(text):
            return self._exact.get(text)
        return (
            self._whole(text, self._sure, depth, of_one_piece=True)
            or self._in_parts(text, depth)
            or self._whole(text, self._sure, depth)
            or self._whole(text, self._weak, depth)
        )

    def _whole(self, text: str, templates: list[_Template], depth: int, of_one_piece: bool = False) -> str | None:
        """Match a whole text; ``of_one_piece``: only if what is filled in does not look like the start of another."""
        if text in self._exact:
            return self._exact[text]
        for template in templates:
            filled = template.match(text)
            if filled is not None and not (of_one_piece and any("; " in part or "\n" in part for part in filled)):
                return template.fill([self._translated(part, depth + 1) or part for part in filled])
        return None

    def _in_parts(self, text: str, depth: int) -> str | None:
        """Translate a text that is made of several: at a joint with a message on both sides, or else on one of them."""
        found = None
        for left, right, joint in _splits(text):
            ours, theirs = (self._whole(part, self._sure, depth + 1) for part in (left, right))
            if ours is not None and theirs is not None:
                return ours + joint + theirs
            if found is None and (ours is not None or theirs is not None):
                found = (left, right, joint, ours, theirs)
        if found is not None:
            left, right, joint, ours, theirs = found
            ours = ours or self._translated(left, depth + 1) or left
            return ours + joint + (theirs or self._translated(right, depth + 1) or right)
        return self._in_list(text, depth)

    def _in_list(self, text: str, depth: int) -> str | None:
        """Translate what is joined alike, item by item, if any item is a message."""
        for joint, other in _JOINTS:
            parts = text.split(joint)
            if joint in _OF_LISTS and 1 < len(parts) <= _MOST_JOINTS:
                translated = [self._whole(part, self._weak, depth + 1) for part in parts]
                if any(part is not None for part in translated):
                    return other.join(new or old for new, old in zip(translated, parts))
        return None


def _splits(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the two sides of each joint, and what joins them in Chinese."""
    for joint, other in _JOINTS:
        start = text.find(joint)
        for _ in range(_MOST_JOINTS):
            if start < 0:
                break
            yield text[:start], text[start + len(joint) :], other
            start = text.find(joint, start + 1)


class _Template:
    """One message with places."""

    def __init__(self, english: str, other: str) -> None:
        self._english, self._other = english, other
        literals = _PLACE.split(english)[::2]
        self._longest = max(literals, key=len)
        self._pattern: re.Pattern[str] | None = None
        self.weight = sum(map(str.isalpha, "".join(literals)))

    def match(self, text: str) -> list[str] | None:
        """Return what stands in the places of ``text``, by number, or None if the text is another one."""
        if self._longest not in text:
            return None
        if self._pattern is None:
            parts = _PLACE.split(self._english)
            body = "".join(f"(?P<p{part}>.*?)" if odd % 2 else re.escape(part) for odd, part in enumerate(parts))
            self._pattern = re.compile(body, re.DOTALL)
        found = self._pattern.fullmatch(text)
        if found is None:
            return None
        return [found[f"p{number}"] for number in range(len(found.groupdict()))]

    def fill(self, parts: list[str]) -> str:
        return _PLACE.sub(lambda place: parts[int(place[1])], self._other)


@lru_cache
def catalogue(chosen: str, domain: str) -> Catalogue:
    """Return a language's catalogue of a domain; the views' entries count in each of them."""
    return Catalogue({**read_messages(chosen, "views"), **read_messages(chosen, domain)}, domain == "errors")


def read_messages(chosen: str, domain: str) -> dict[str, str]:
    """Return the entries of one catalogue file, whatever table they stand in."""
    tables = read_tables(chosen, domain).values()
    return {english: other for table in tables for english, other in table.items()}


def read_tables(chosen: str, domain: str) -> dict[str, dict[str, str]]:
    """Return the tables of one catalogue file: one for each module of the source, and ``words`` and ``composed``."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

    tables: dict[str, dict[str, str]] = tomllib.loads((_FOLDER / chosen / f"{domain}.toml").read_text(encoding="utf-8"))
    return tables
