"""What a CI service reads of a run: JUnit XML, and annotations where GitHub Actions runs it.

Guarantees: a JUnit file has at least one test case, and a failed one whenever the exit code is not 0; it is well-formed
whatever a worker printed; an annotation is one line, and goes to standard error, so that ``--json`` stays JSON.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from stepalign.coordinator.cases.case import KINDS, Case
from stepalign.coordinator.languages.translation import say
from stepalign.coordinator.report import wording
from stepalign.coordinator.results.records import write_bytes
from stepalign.coordinator.results.result import Result, Verdict
from stepalign.protocol.errors import CaseError, StepalignError

if TYPE_CHECKING:
    from stepalign.coordinator import api

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LEVELS = {Verdict.DIVERGED: "error", Verdict.FAILED: "error", Verdict.INCONCLUSIVE: "warning"}


def told_to_ci(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Make a command of ``--junit`` fail before it runs where the file cannot be, and report errors that it raises."""

    @functools.wraps(command)
    def call(options: argparse.Namespace) -> int:
        junit: Path | None = getattr(options, "junit", None)
        has_room = False
        try:
            if junit is not None:
                _make_room(junit)
                has_room = True
            return command(options)
        except StepalignError as error:
            name = getattr(getattr(options, "case", None), "name", "") or command.__name__
            _annotate("error", {"title": f"stepalign: {name}"}, str(error))
            if junit is not None and has_room:
                write_bytes(junit, junit_of_error(name, error))
            raise

    return call


def tell_ci(junit: Path | None, case: Case, ended: api.Result, duration_s: float) -> None:
    """Write the JUnit file if one is asked for, and the annotation if GitHub Actions listens."""
    if junit is not None:
        write_bytes(junit, junit_of(ended, duration_s))
    if (level := _LEVELS.get(ended.verdict)) is not None:
        properties = {"title": f"stepalign: {ended.headline}"}
        if file := _in_workspace(blamed_file(case, ended.result)):
            properties = {"file": file, **properties}
        _annotate(level, properties, annotation_text(ended.result))


# ---------------------------------------------------------------------------------------------- JUnit


def junit_of(ended: api.Result, duration_s: float) -> bytes:
    """Return one test suite: a test case ``verdict`` with the terminal's text, and one for each kind compared."""
    result = ended.result
    cases = [_verdict_case(ended), *(_kind_case(result, kind) for kind in _compared_kinds(result))]
    facts = {
        "stepalign": result.stepalign,
        "verdict": result.verdict.value,
        "steps_completed": str(result.steps_completed),
        "mode": result.case.mode,
        "dtype": result.case.dtype,
        "seed": str(result.case.seed),
        "torch": wording.side_line("torch", result.torch),
        "paddle": wording.side_line("paddle", result.paddle),
        "run_folder": str(ended.folder),
    }
    return _suite(_suite_name(result), cases, facts, duration_s)


def junit_of_error(name: str, error: StepalignError) -> bytes:
    """Return the test suite of a command that did not come to a run."""
    case = _case(name, "verdict")
    _complain(case, "error", type(error).__name__, str(error).partition("\n")[0], f"stepalign: {error}")
    return _suite(f"stepalign.{name}", [case], {}, 0.0)


def _suite_name(result: Result) -> str:
    alone = ".optimizer" if wording.is_optimizer_only(result) else ".schedule" if wording.is_schedule_only(result) else ""
    return f"stepalign.{result.case.name}{alone}"


def _suite(name: str, cases: list[ElementTree.Element], facts: dict[str, str], duration_s: float) -> bytes:
    counts = {
        "tests": str(len(cases)),
        **{f"{what}s": str(sum(case.find(what) is not None for case in cases)) for what in ("failure", "error")},
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
        "time": f"{duration_s:.3f}",
    }
    root = ElementTree.Element("testsuites", {"name": "stepalign", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": _legal(name), **counts})
    if facts:
        properties = ElementTree.SubElement(suite, "properties")
        for key, value in facts.items():
            ElementTree.SubElement(properties, "property", {"name": key, "value": _legal(value)})
    cases[0].set("time", counts["time"])
    suite.extend(cases)
    ElementTree.indent(root, " ")
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _verdict_case(ended: api.Result) -> ElementTree.Element:
    case = _case(ended.result.case.name, "verdict")
    if ended.is_aligned:
        ElementTree.SubElement(case, "system-out").text = _legal(ended.text)
    else:
        tag = "error" if ended.verdict is Verdict.FAILED else "failure"
        _complain(case, tag, ended.verdict.value, ended.headline, ended.text)
    return case


def _compared_kinds(result: Result) -> list[str]:
    kinds = set(result.worst)
    if result.first_divergence is not None:
        kinds.add(result.first_divergence.kind)
    if wording.is_schedule_only(result):
        kinds.add("lr")
    return sorted(kinds, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))


def _kind_case(result: Result, kind: str) -> ElementTree.Element:
    """Return a kind's test case; what noise or a known difference explained passes, as the verdict says."""
    case = _case(result.case.name, kind)
    place, worst = result.first_divergence, result.worst.get(kind, {})
    if place is not None and place.kind == kind:
        text = "\n".join((wording.place_line(place), *wording.place_details(place)))
        _complain(case, "failure", result.verdict.value, wording.place_line(place), text)
    elif result.verdict is not Verdict.ALIGNED and worst.get("passed") is False:
        name = worst.get("torch_name") or worst.get("paddle_name") or ""
        text = f"out of tolerance, furthest at step {worst.get('step')}: {name}"
        if result.verdict is Verdict.DIVERGED:
            _complain(case, "failure", result.verdict.value, text, str(worst.get("reason", "")))
        else:
            ElementTree.SubElement(case, "skipped", {"message": _legal(f"{result.verdict.value}: {text}")})
    return case


def _case(class_name: str, name: str) -> ElementTree.Element:
    return ElementTree.Element(
        "testcase", {"classname": _legal(f"stepalign.{class_name}"), "name": name, "time": "0.000"}
    )


def _complain(case: ElementTree.Element, tag: str, kind: str, message: str, text: str) -> None:
    ElementTree.SubElement(case, tag, {"type": kind, "message": _legal(message)}).text = _legal(text)


def _legal(text: str) -> str:
    """Return ``text`` without what XML 1.0 cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", wording.plain(text))


def _make_room(junit: Path) -> None:
    """Find out before a run of hours that its file has no place; take away the file of an earlier run."""
    try:
        junit.parent.mkdir(parents=True, exist_ok=True)
        junit.unlink(missing_ok=True)
    except OSError as error:
        raise CaseError(f"--junit {junit}: cannot be written: {error.strerror}; name another file") from None
    if not os.access(junit.parent, os.W_OK):
        raise CaseError(f"--junit {junit}: {junit.parent} cannot be written to; name a file elsewhere")


# ---------------------------------------------------------------------------------------------- GitHub


def annotation_text(result: Result) -> str:
    """Return what an annotation says: where, the likeliest cause and its fix, what to do."""
    lines = [wording.headline(result)]
    if (place := result.first_divergence) is not None:
        lines += [wording.place_line(place), *wording.place_details(place)]
    if result.error is not None:
        lines.append(say(result.error.message, "errors"))
    if result.causes:
        cause = max(result.causes, key=lambda item: item.confidence)
        title = f"{wording.kind_words(cause.code)}{say(': ')}"
        lines += [title + say(cause.evidence, "causes"), say("Fix: ") + say(cause.fix, "causes")]
    else:
        lines += wording.next_steps(result)
    return wording.plain("\n".join(line for line in lines if line))


def blamed_file(case: Case, result: Result) -> Path:
    """Return the file that an annotation is shown at: the port's script, the failed side's, or case.toml."""
    if result.verdict is Verdict.DIVERGED:
        return case.script("paddle")
    if result.error is not None and result.error.side in ("torch", "paddle"):
        return case.script(result.error.side)
    return case.folder / "case.toml"


def annotation(level: str, properties: dict[str, str], message: str) -> str:
    """Return a workflow command, escaped as actions/toolkit's `command.ts` escapes it."""
    named = ",".join(f"{key}={_escape_property(wording.plain(value))}" for key, value in properties.items())
    return f"::{level} {named}::{_escape(wording.plain(message))}"


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_property(text: str) -> str:
    return _escape(text).replace(":", "%3A").replace(",", "%2C")


def _annotate(level: str, properties: dict[str, str], message: str) -> None:
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print(annotation(level, properties, message), file=sys.stderr, flush=True)


def _in_workspace(path: Path) -> str:
    """Return ``path`` relative to the checked-out repository, or nothing where it lies elsewhere (the demo's case)."""
    workspace = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd()).resolve()
    return path.relative_to(workspace).as_posix() if path.is_relative_to(workspace) else ""
