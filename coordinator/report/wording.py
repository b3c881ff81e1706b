"""How a result is put into words for people: the same numbers and sentences in the terminal and in report.html."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepalign.coordinator.languages.translation import say
from stepalign.coordinator.results.records import from_strict_number
from stepalign.coordinator.results.result import FirstDivergence, KnownDifference, Result, Resumed, SideFacts, Verdict

_ANSI = re.compile(r"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

TELLING_ULP = 1_000_000
"""Beyond this many representable numbers the count says no more than the relative difference does."""

HEADLINES = {
    Verdict.ALIGNED: "the port trains as the original does",
    Verdict.DIVERGED: "the port does not train as the original does",
    Verdict.INCONCLUSIVE: "the measured noise is larger than the tolerance: nothing can be said",
    Verdict.FAILED: "the run did not come to a comparison",
}
_SCHEDULE_HEADLINES = {
    Verdict.ALIGNED: "the rates are the same",
    Verdict.DIVERGED: "the rates differ",
}


_OPTIMIZER_HEADLINES = {
    Verdict.ALIGNED: "the optimizers do the same",
    Verdict.DIVERGED: "the optimizers do not do the same",
}


_FAR_BEYOND_ROUNDING = 1e-2

_PLACES = re.compile(r"(?:compare|look|find|check)\b")
"""How a fix begins that says where to look, not what to write."""

_SURE = 0.5
"""Below this confidence a cause is a place to look at, not something to apply."""


def headline(result: Result) -> str:
    """Return the verdict as half a sentence."""
    own = _OPTIMIZER_HEADLINES if is_optimizer_only(result) else _SCHEDULE_HEADLINES if is_schedule_only(result) else {}
    return say({**HEADLINES, **own}[result.verdict])


def verdict_words(verdict: Verdict) -> str:
    """Return the verdict's name, in the reader's language."""
    return say(verdict.value)


def plain(text: str) -> str:
    """Return ``text`` without terminal sequences and control characters; line ends and tabs stay."""
    return _CONTROL.sub("", _ANSI.sub("", text.replace("\r\n", "\n")))


def number(value: object, digits: int = 7) -> str:
    """Return a number as people read it, at most ``digits`` significant digits; "missing" for None."""
    if value is None:
        return say("missing")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return f"{value:.{digits}g}"


def kind_words(kind: str) -> str:
    """Return a kind's or category's name in words: ``optimizer_state`` is ``optimizer state``."""
    return say({"lr": "learning rate"}.get(kind, kind.replace("_", " ")), "causes")


def percent(part: float) -> str:
    """Return a part of one in percent, without decimals."""
    return f"{100 * part:.0f} %"


def side_line(name: str, side: SideFacts | None) -> str:
    """Return ``torch 2.13.0 on cpu``, when it was recorded if it was, or that the side never said what it is."""
    if side is None:
        return say(f"{name} did not get ready")
    line = say(f"{side.framework} {side.version} on {side.device}")
    recorded = side.extra.get("recorded")
    return line if recorded is None else f"{line} ({say(f'recorded {recorded}')})"


def case_line(result: Result) -> str:
    """Return which case ran how far."""
    case = result.case
    how = f"{case.mode}, {case.dtype}"
    return f"{case.name}: " + say(f"{result.steps_completed} of {case.steps} steps, {how}, seed {case.seed}")


def place_line(place: FirstDivergence) -> str:
    """Return where the sides first differ: step, kind, torch's name, element."""
    name = place.torch_name or place.paddle_name or ""
    text = kind_words(place.kind)
    if name not in ("", place.kind):
        text += f" {name}"
    if place.index:
        return say(f"step {place.step}, {text}, element {list(place.index)}")
    return say(f"step {place.step}, {text}")


def place_details(place: FirstDivergence) -> list[str]:
    """Return what is known of the place, a line each: paddle's name, values, measures, what was allowed, the reason."""
    lines = (
        other_name_line(place),
        values_line(place),
        measures_line(place),
        tolerance_line(place),
        say(place.reason, "causes"),
    )
    return [line for line in lines if line]


def other_name_line(place: FirstDivergence) -> str:
    """Return paddle's name where it is another, or which side has none; nothing where both are the same."""
    if place.torch_name == place.paddle_name:
        return ""
    if place.torch_name is None:
        return say("paddle's name; torch has none")
    return say("torch's name; paddle has none") if place.paddle_name is None else say(f"in paddle: {place.paddle_name}")


def values_line(place: FirstDivergence) -> str:
    """Return both values at the place, or nothing where there are none."""
    if place.torch is None and place.paddle is None:
        return ""
    return say(f"torch {number(place.torch, 9)}, paddle {number(place.paddle, 9)}")


def measures_line(place: FirstDivergence) -> str:
    """Return how far apart the sides are there, or nothing where it was not measured.

    Beside a torch value of zero there is no relative difference; whole numbers have no units in the last place.
    """
    parts = []
    if place.max_abs is not None:
        parts.append(say(f"greatest difference {number(place.max_abs, 4)}"))
    relative = [value for value in (place.max_rel, place.rel_l2) if value is not None and math.isfinite(value)]
    if place.max_rel in relative:
        parts.append(say(f"relative {number(place.max_rel, 4)}"))
    if place.rel_l2 in relative and place.rel_l2 != place.max_rel:
        parts.append(say(f"of the whole tensor {number(place.rel_l2, 4)}"))
    if place.max_ulp is not None and (0 < place.max_ulp <= TELLING_ULP or place.max_abs == 0.0):
        parts.append(f"{place.max_ulp} ulp")
    return say(", ").join(parts)


def tolerance_line(place: FirstDivergence) -> str:
    """Return what was allowed there, or nothing where no tolerance applies."""
    if place.rtol is None and place.atol is None:
        return ""
    if not place.rtol and not place.atol:
        return say("allowed: none, the values must be the same")
    rtol, atol = place.rtol or 0.0, place.atol or 0.0
    allowed = atol + rtol * abs(place.torch) if place.torch is not None else math.nan
    text = f"rtol {number(rtol, 4)}, atol {number(atol, 4)}"
    return say(f"allowed: {number(allowed, 4)} ({text})") if math.isfinite(allowed) else say(f"allowed: {text}")


@dataclass(frozen=True)
class KnownGroup:
    """All known differences of one code: where, and one evidence for them."""

    code: str
    names: tuple[str, ...]
    evidence: str

    @property
    def line(self) -> str:
        """One line: the code, how often, the first name, its evidence."""
        where = self.names[0] if len(self.names) == 1 else say(f"{len(self.names)} tensors, first {self.names[0]}")
        return f"{kind_words(self.code)} ({where}){say(': ')}{say(self.evidence, 'causes')}"


def noted(result: Result) -> list[str]:
    """Return what the sides declare otherwise that this run cannot show, each with its fix; where the sides diverged, nothing:
    there the causes come first.
    """
    if result.verdict not in (Verdict.ALIGNED, Verdict.INCONCLUSIVE):
        return []
    hints = [finding.cause for finding in result.findings if not finding.matters]
    return [f"{say(cause.evidence, 'causes')}{say('. Fix: ')}{say(cause.fix, 'causes')}" for cause in hints]


def known_groups(differences: tuple[KnownDifference, ...]) -> list[KnownGroup]:
    """Merge known differences by their code, in the order in which the codes first appear."""
    merged: dict[str, list[KnownDifference]] = {}
    for difference in differences:
        merged.setdefault(difference.code, []).append(difference)
    return [
        KnownGroup(code, tuple(dict.fromkeys(item.torch_name for item in items)), items[0].evidence)
        for code, items in merged.items()
    ]


def ratio_to_allowed(entry: Mapping[str, Any]) -> float:
    """Compute difference / allowed of a comparison as steps.jsonl and ``worst`` describe it.

    Infinite where nothing is allowed and something differs, or where either side is not finite; NaN where the
    comparison has no measures (a missing tensor, another shape).
    """
    try:
        difference = from_strict_number(entry["max_abs"])
        allowed = from_strict_number(entry["atol"]) + from_strict_number(entry["rtol"]) * abs(
            from_strict_number(entry["torch"])
        )
    except (KeyError, ValueError):
        return math.nan
    if difference == 0 and not math.isnan(allowed):
        return 0.0
    if not math.isfinite(difference) or not math.isfinite(allowed) or allowed <= 0:
        return math.inf
    return difference / allowed


def repeat_command(result: Result, case_folder: str = "CASE") -> str:
    """Return the command that runs the same again."""
    case, folder = result.case, shlex.quote(case_folder)
    if is_optimizer_only(result):
        return f"stepalign optimizer {folder} --steps {case.steps} --dtype {case.dtype} --set seed={case.seed}"
    if is_schedule_only(result):
        return f"stepalign schedule {folder} --steps {case.steps}"
    return f"stepalign run {folder} --steps {case.steps} --mode {case.mode} --dtype {case.dtype} --seed {case.seed}"


def is_schedule_only(result: Result) -> bool:
    """Say whether the result holds rates and no losses: a comparison of schedules alone."""
    series = result.series
    return not (series.loss_torch or series.loss_paddle) and bool(series.lr_torch or series.lr_paddle)


def is_optimizer_only(result: Result) -> bool:
    """Say whether the result is of optimizers alone, driven by given gradients."""
    return bool(result.regimes)


def regime_lines(result: Result) -> list[str]:
    """Return a line for each regime of gradients: whether every update passed, and how far the parameters came apart."""
    lines = []
    for regime in result.regimes:
        apart = number(regime.difference, 2)
        if not regime.torch_name:
            lines.append(say(f"{regime.name}: nothing moved"))
        elif regime.passed:
            where = f"step {regime.step}, {regime.torch_name}"
            lines.append(say(f"{regime.name}: the same; apart by {apart} of the way gone ({where})"))
        else:
            where = f"step {regime.step}, {regime.torch_name}"
            lines.append(say(f"{regime.name}: differs; apart by {apart} of the way gone ({where})"))
    return lines


def next_steps(result: Result) -> list[str]:
    """Return what to do now, by verdict, most useful first."""
    return [say(text) for text in _next_steps(result)]


def _next_steps(result: Result) -> list[str]:
    if result.verdict is Verdict.ALIGNED:
        alone = is_schedule_only(result) or is_optimizer_only(result)
        table = "" if alone else "; losses.md is the table for the pull request"
        shown = " in what this run shows" if noted(result) else ""
        return [f"Nothing to mend{shown}{table}."]
    if result.verdict is Verdict.INCONCLUSIVE:
        return [
            (
                "Settle it: run again with --dtype float64 (rounding shrinks, a wrong formula does not), "
                "or with --set compare.resync=1 (differences no longer grow from step to step)."
            )
        ]
    if result.verdict is Verdict.FAILED:
        error = result.error
        if result.exit_code == 2:
            return ["Mend what the message above names, then run the same again."]
        if result.exit_code == 130:
            return ["Run it again when you have the time."]
        logs = f"{error.side}.log" if error and error.side in ("torch", "paddle") else "torch.log and paddle.log"
        read = f"Read {logs} in the run folder for the worker's own output."
        return [read, "`stepalign doctor` checks the environments."]
    if result.causes:
        if max(cause.confidence for cause in result.causes) < _SURE:
            place = "Nothing fits the numbers for sure: look first at the place named above, on both sides"
            first = result.first_divergence
            if first is not None and first.rel_l2 is not None and first.rel_l2 > _FAR_BEYOND_ROUNDING:
                return [f"{place}."]
            return [f"{place}; --dtype float64 tells rounding from a wrong formula."]
        first_cause = max(result.causes, key=lambda cause: cause.confidence)
        if _PLACES.match(first_cause.fix):
            return [
                "Look at the place that the first cause names, on both sides, then run the same again: the next "
                "divergence, if any, shows then."
            ]
        return ["Apply the first fix, then run the same again: the next divergence, if any, shows then."]
    if is_optimizer_only(result):
        return ["Compare what both scripts construct, argument by argument, with docs/atlas.md beside it."]
    if is_schedule_only(result):
        return [
            "Compare what both schedule(case) give at the first step named above: warmup, decay, when each is stepped."
        ]
    return [
        (
            "Narrow it down: --dtype float64 tells rounding from a wrong formula, "
            """--set 'collect.activations=["*"]' shows the first layer that differs."""
        )
    ]


def resumed_line(resumed: Resumed) -> str:
    """Say how an interrupted run was continued."""
    text = f"{resumed.at_step} steps were complete; run again from step {resumed.from_step}, they came out bit by bit"
    return f"{text}. {resumed.note}" if resumed.note else text
