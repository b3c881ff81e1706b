"""Finds the messages in the source, so that tests and translators see which entries a catalogue lacks or has left over.

python -m stepalign.coordinator.languages.sources     # what is missing, ready to be filled in
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from stepalign.coordinator.languages.translation import DOMAINS, LANGUAGES, read_messages, read_tables
from stepalign.coordinator.results.result import Verdict

UNTRACED = frozenset({"words", "composed"})
"""Tables of words that are looked up by name, and of texts that several f-strings make together."""

_COORDINATOR = Path(__file__).parents[1]
_IN_TEMPLATE = re.compile(r"""say\(\s*"((?:[^"\\]|\\.)*)"\s*[,)]""")
_WORDS = re.compile(r"[a-z]{2,}[ ,;:.]| [a-z]{2,}")
_NAMED = re.compile(r"\{([a-z_]+)\}")
_SAYERS = {"say", "message"}
_ERRORS = ("Error", "Failure", "Exceeded")
_CAUSES = ("diagnosis", "comparison", "running", "sessions/settings_check.py", "devices/placement.py")


def find_messages(domain: str) -> dict[str, str]:
    """Return the domain's messages in the source, each with the module where it first stands.

    ``views``: what is given to `say` or `message` in `report/`, its templates and `cli/`, the sentences of `wording.py`,
    and a run's phases; ``causes``: the sentences of `diagnosis/` and of what judges and warns, wherever they go, and the
    words of categories, codes and kinds; ``errors``: the messages of what is raised.
    """
    found: dict[str, str] = {}
    if domain == "views":
        for path in _modules("report", "cli", "api.py", "results"):
            for text in _said(path):
                found.setdefault(text, path.stem)
        for path in sorted((_COORDINATOR / "report" / "templates").iterdir()):
            for match in _IN_TEMPLATE.finditer(path.read_text(encoding="utf-8")):
                found.setdefault(ast.literal_eval(f'"{match[1]}"'), path.name)
        for text in _sentences(_COORDINATOR / "report" / "wording.py"):
            if not text.startswith("stepalign "):
                found.setdefault(text, "wording")
        found.update((verdict.value, "verdict") for verdict in Verdict)
    elif domain == "causes":
        for path in _modules(*_CAUSES):
            for text in _sentences(path):
                found.setdefault(text, path.stem)
    elif domain == "errors":
        for path in (*_modules("."), *sorted((_COORDINATOR.parent / "protocol").rglob("*.py"))):
            for text in _raised(path):
                found.setdefault(text, path.stem)
    return found


def message_of(node: ast.expr) -> str | None:
    """Return a string's or an f-string's text with ``{0}``, ``{1}``, ... for what is filled in; None for others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        names = dict.fromkeys(_NAMED.findall(node.value))  # of a text that str.format fills in
        return _NAMED.sub(lambda found: f"{{{list(names).index(found[1])}}}", node.value)
    if not isinstance(node, ast.JoinedStr):
        return None
    text, number = "", 0
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value)
        else:
            text += f"{{{number}}}"
            number += 1
    return text


def _modules(*names: str) -> Iterator[Path]:
    for name in names:
        place = _COORDINATOR / name
        yield from (place,) if place.is_file() else sorted(place.rglob("*.py"))


def _said(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SAYERS and node.args:
            chosen = node.args[0]
            for part in (chosen.body, chosen.orelse) if isinstance(chosen, ast.IfExp) else (chosen,):
                text = message_of(part)
                if text is not None:
                    yield text


def _raised(path: Path) -> Iterator[str]:
    """Yield what errors are made with."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
            text = message_of(node.args[0]) if node.func.id.endswith(_ERRORS) else None
            if text is not None:
                yield text


def _sentences(path: Path) -> Iterator[str]:
    """Yield strings that hold words, except docstrings, error messages, and data: strings of names alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, (ast.Raise, ast.Assert)):
            skipped.update(ast.walk(node))
        elif isinstance(node, (ast.AnnAssign, ast.arg)) and node.annotation is not None:
            skipped.update(ast.walk(node.annotation))
        elif isinstance(node, ast.FunctionDef) and node.returns is not None:
            skipped.update(ast.walk(node.returns))
        elif isinstance(node, ast.JoinedStr):
            for part in node.values:
                skipped.add(part)
                if isinstance(part, ast.FormattedValue) and part.format_spec is not None:
                    skipped.update(ast.walk(part.format_spec))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "split":
            skipped.add(node.func.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and node not in skipped:
            text = message_of(node)
            if text is not None and " " in text and _WORDS.search(text) and not _is_data(text):
                yield text


def _is_data(text: str) -> bool:
    """Say whether ``text`` is code, or names of arguments or classes in a row."""
    words = text.split(" ")
    is_names = len(words) > 2 and all(word.isidentifier() for word in words) and any(map(_looks_like_code, words))
    return is_names or "\ndef " in text


def _looks_like_code(word: str) -> bool:
    return "_" in word or word[1:] != word[1:].lower() or word.endswith("linear")


def main() -> None:
    """Print the entries that each catalogue lacks, and those that are left over."""
    for chosen in LANGUAGES[1:]:
        for domain in DOMAINS:
            there, wanted = read_messages(chosen, domain), find_messages(domain)
            for text, module in wanted.items():
                if text not in there and domain != "errors":  # one that is rare may stay English
                    print(f"{chosen}/{domain}.toml lacks, from {module}:\n  {_quoted(text)} = {_quoted(text)}")
            for table, messages in read_tables(chosen, domain).items():
                for text in messages if table not in UNTRACED else ():
                    if text not in wanted:
                        print(f"{chosen}/{domain}.toml has left over: {_quoted(text)}")


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    main()
