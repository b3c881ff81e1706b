"""What a run said, held against what the port expects: pure functions over result.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.ports.port import Port

REFUSED_EXIT_CODE = 2
"""The case is wrong: ``refused``, so that a worker which died for another reason is not taken for it."""

OWN_MISTAKE = "a mistake of stepalign's own"
"""What the command line says when stepalign itself broke: ``crashed``, which no port expects."""

GENERAL_SUFFIX = "_differs"
"""How the codes end of causes that only repeat where the sides differ."""


@dataclass(frozen=True)
class Judgement:
    """One port's outcome. ``located``, ``explained`` and ``mentioned`` are None where nothing is to be told.

    located: first kind and step as expected. explained: the first cause has an expected category; mentioned: any has.
    named: explained, by a cause that says more than that something differs.
    """

    name: str
    faulty: bool
    verdict: str
    verdict_right: bool
    located: bool | None
    explained: bool | None
    mentioned: bool | None
    named: bool | None
    missing_known: tuple[str, ...]
    said: str
    elapsed_s: float

    @property
    def unexpected(self) -> bool:
        """Whether anything differs from what the port expects."""
        wrong = False in (self.verdict_right, self.located, self.explained)
        return wrong or bool(self.missing_known)


def judge(port: Port, exit_code: int, result: Mapping[str, Any] | None, message: str, elapsed_s: float) -> Judgement:
    """Judge one run. ``result`` is its result.json or None; ``message`` ends its standard error."""
    verdict = str(result["verdict"]) if result else {2: "failed", 3: "failed"}.get(exit_code, f"exit {exit_code}")
    if OWN_MISTAKE in message:
        verdict = "crashed"
    elif verdict == "failed" and exit_code == REFUSED_EXIT_CODE:
        verdict = "refused"
    right = verdict in port.expected.verdicts
    if result is None or verdict != "diverged":
        said = message if result is None or verdict in ("failed", "refused", "crashed") else known_codes(result)
        missing = missing_known(port, result)
        wanted = None if right else False
        detected = wanted if port.faulty else None
        return Judgement(
            port.name, port.faulty, verdict, right, detected, detected, detected, detected, missing, said, elapsed_s
        )
    if not port.faulty:
        said = describe(result)
        return Judgement(port.name, False, verdict, right, None, None, None, None, (), said, elapsed_s)
    first = result["first_divergence"] or {}
    categories = [cause["category"] for cause in result["causes"]]
    explained = bool(categories) and categories[0] in port.expected.categories
    located = first.get("kind") in port.expected.kinds and port.expected.step in (None, first.get("step"))
    return Judgement(
        port.name,
        True,
        verdict,
        right,
        located,
        explained,
        any(category in port.expected.categories for category in categories),
        explained and not result["causes"][0]["code"].endswith(GENERAL_SUFFIX),
        (),
        describe(result),
        elapsed_s,
    )


def missing_known(port: Port, result: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the expected known differences that the result does not list."""
    found = {entry["code"] for entry in result["known_differences"]} if result else set()
    return tuple(code for code in port.expected.known if code not in found)


def known_codes(result: Mapping[str, Any]) -> str:
    """Return the codes of the known differences on one line."""
    return ", ".join(sorted({entry["code"] for entry in result["known_differences"]}))


def describe(result: Mapping[str, Any]) -> str:
    """Return the first divergence and the first three causes on one line."""
    first = result["first_divergence"] or {}
    causes = ", ".join(f"{cause['category']}/{cause['code']}" for cause in result["causes"][:3])
    return f"step {first.get('step')} {first.get('kind')} {first.get('torch_name')}: {causes or 'no cause'}"


def table(judgements: Sequence[Judgement]) -> str:
    """Return the judgements as an aligned table, the unexpected ones marked."""
    width = max((len(judgement.name) for judgement in judgements), default=0)
    lines = []
    for judgement in judgements:
        marks = "".join(
            letter if value else "." if value is False else " "
            for letter, value in (
                ("V", judgement.verdict_right),
                ("L", judgement.located),
                ("E", judgement.explained),
                ("e", judgement.mentioned),
                ("N", judgement.named),
            )
        )
        kind = "faulty" if judgement.faulty else "correct"
        sign = "!" if judgement.unexpected else " "
        said = judgement.said
        if judgement.missing_known:
            said = f"missing known difference {', '.join(judgement.missing_known)}; {said}"
        lines.append(
            f"{sign} {judgement.name:<{width}}  {kind:7}  {marks}  {judgement.verdict:12}  "
            f"{judgement.elapsed_s:5.1f} s  {said}"
        )
    return "\n".join(lines)


def totals(judgements: Sequence[Judgement]) -> dict[str, int]:
    """Return the counts that the suite is judged by."""
    faults = [judgement for judgement in judgements if judgement.faulty]
    located = [judgement.located for judgement in faults if judgement.located is not None]
    explained = [judgement.explained for judgement in faults if judgement.explained is not None]
    return {
        "faulty": len(faults),
        "detected": sum(judgement.verdict_right for judgement in faults),
        "correct": len(judgements) - len(faults),
        "false_alarms": sum(not judgement.faulty and not judgement.verdict_right for judgement in judgements),
        "to_locate": len(located),
        "located": sum(located),
        "to_explain": len(explained),
        "explained_first": sum(explained),
        "named": sum(bool(judgement.named) for judgement in faults),
        "explained_at_all": sum(bool(judgement.mentioned) for judgement in faults),
        "unexpected": sum(judgement.unexpected for judgement in judgements),
    }


def summary(counts: Mapping[str, int]) -> str:
    """Return the totals as a line per question."""
    return "\n".join(
        (
            f"detected      {counts['detected']} of {counts['faulty']} faulty ports",
            f"false alarms  {counts['false_alarms']} of {counts['correct']} correct ports",
            f"located       {counts['located']} of {counts['to_locate']}",
            f"explained     {counts['explained_first']} of {counts['to_explain']} by the first cause, "
            f"{counts['explained_at_all']} by any; {counts['named']} by name",
            f"unexpected    {counts['unexpected']}",
        )
    )
