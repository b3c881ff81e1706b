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
from typing import NamedTuple

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
_JOINTS = (("; ", "；"), (". ", "。"), (": ", "："), (", ", "，"), (" and ", "和"))
_MOST_JOINTS = 12
_LONGEST_JOINED = 800
_MOST_KNOWN = 20_000
_ENGLISH = re.compile(r"(?<![\w./=(])[a-z]{2,}(?![\w./=(])")
_SURE_LETTERS = 10
_UNBROKEN = r"(?:\[[^\[\]]*\]|[^\[])*?"
"""What fills a place if it can: an index such as ``[16, 17]`` is in it as a whole or not at all."""

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
    """The messages of one language. Of the ways to read a text as messages, the one that leaves least English is taken.

    With ``is_strict`` templates of few letters are not tried: where any text may come, as a traceback from a user's
    script.
    """

    def __init__(self, messages: Mapping[str, str], is_strict: bool = False) -> None:
        self._exact = {english: other for english, other in messages.items() if not _PLACE.search(english)}
        templates = [_Template(english, other) for english, other in messages.items() if _PLACE.search(english)]
        templates.sort(key=lambda item: -item.weight)
        self._sure = [item for item in templates if item.weight >= _SURE_LETTERS]
        self._weak = [item for item in templates if item.weight < _SURE_LETTERS and not is_strict]
        self._is_strict = is_strict
        self._known: dict[str, _Reading] = {}

    def translate(self, text: str) -> str:
        """Return the translation; parts that no entry fits stay as they are."""
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        return _BETWEEN_WIDE.sub("", self._read(text, 0).text)

    def _read(self, text: str, depth: int) -> _Reading:
        """Return the best reading: whole messages before several joined ones before templates of few letters."""
        if text in self._exact:
            return _Reading(self._exact[text], 0)
        best = _Reading(text, len(_ENGLISH.findall(text)))
        if depth > _DEEPEST or len(text) > _LONGEST or not _LETTERS.search(text):
            return best
        if text not in self._known:
            self._known[text] = best  # what is read of it meanwhile
            for reading in self._readings(text, depth):
                best = min(best, reading, key=lambda item: item.left)
                if not best.left:
                    break
            self._known[text] = best
        return self._known[text]

    def _readings(self, text: str, depth: int) -> Iterator[_Reading]:
        matches = [(item, parts) for item in self._sure if (parts := item.match(text)) is not None]
        swallows = [any("; " in part or "\n" in part for part in parts) for _, parts in matches]
        for (template, parts), is_of_two in zip(matches, swallows):
            if not is_of_two:
                yield self._filled(template, parts, depth)
        yield from self._joined(text, depth)
        for (template, parts), is_of_two in zip(matches, swallows):
            if is_of_two:
                yield self._filled(template, parts, depth)
        for template in self._weak:
            if (parts := template.match(text)) is not None:
                yield self._filled(template, parts, depth)

    def _joined(self, text: str, depth: int) -> Iterator[_Reading]:
        if "\n" in text:
            yield _Reading.join("\n", [self._read(line, depth + 1) for line in text.split("\n")])
        elif len(text) <= _LONGEST_JOINED and not self._is_strict:
            for joint, other in _JOINTS:
                for left, right in _splits(text, joint):
                    yield _Reading.join(other, [self._read(left, depth + 1), self._read(right, depth + 1)])

    def _filled(self, template: _Template, parts: list[str], depth: int) -> _Reading:
        readings = [self._read(part, depth + 1) for part in parts]
        return _Reading(template.fill([part.text for part in readings]), sum(part.left for part in readings))


class _Reading(NamedTuple):
    """A text in the other language, and how many English words are left in it."""

    text: str
    left: int

    @classmethod
    def join(cls, joint: str, parts: list[_Reading]) -> _Reading:
        return cls(joint.join(part.text for part in parts), sum(part.left for part in parts))


def _splits(text: str, joint: str) -> Iterator[tuple[str, str]]:
    """Yield the two sides of each place where ``joint`` stands, brackets aside."""
    start = text.find(joint)
    for _ in range(_MOST_JOINTS):
        if start < 0:
            break
        if text.count("[", 0, start) == text.count("]", 0, start):  # not within an index
            yield text[:start], text[start + len(joint) :]
        start = text.find(joint, start + 1)


class _Template:
    """One message with places."""

    def __init__(self, english: str, other: str) -> None:
        self._english, self._other = english, other
        literals = _PLACE.split(english)[::2]
        self._longest = max(literals, key=len)
        self._patterns: tuple[re.Pattern[str], ...] = ()
        self.weight = sum(map(str.isalpha, "".join(literals)))

    def match(self, text: str) -> list[str] | None:
        """Return what stands in the places of ``text``, by number, or None if the text is another one."""
        if self._longest not in text:
            return None
        if not self._patterns:
            self._patterns = tuple(self._compile(place) for place in (_UNBROKEN, ".*?"))
        found = next(filter(None, (pattern.fullmatch(text) for pattern in self._patterns)), None)
        if found is None:
            return None
        return [found[f"p{number}"] for number in range(len(found.groupdict()))]

    def _compile(self, place: str) -> re.Pattern[str]:
        parts = _PLACE.split(self._english)
        body = "".join(f"(?P<p{part}>{place})" if odd % 2 else re.escape(part) for odd, part in enumerate(parts))
        return re.compile(body, re.DOTALL)

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
