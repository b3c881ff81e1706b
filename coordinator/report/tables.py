"""The tables of a report: both sides' facts, the worst of each kind, what was compared, all as texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepalign.coordinator.cases.case import KINDS
from stepalign.coordinator.languages.translation import message, say
from stepalign.coordinator.report.wording import kind_words, number, percent, ratio_to_allowed
from stepalign.coordinator.results.records import from_strict_number
from stepalign.coordinator.results.result import Result, SideFacts

_FACTS = (
    message("framework"),
    message("version"),
    message("python"),
    message("interpreter"),
    message("pid"),
    message("device"),
)
_PLACEMENT = (message("gpu"), message("cores"), message("threads"))
"""What a side's ``extra`` facts are called, where a run has placed it."""
_OWN = ("framework", "version", "interpreter", "pid")
_ABSENT = "\N{EN DASH}"


@dataclass(frozen=True)
class FactRow:
    """One fact of both sides; ``differs`` only where the same was to be expected."""

    name: str
    torch: str
    paddle: str
    differs: bool = False


@dataclass(frozen=True)
class WorstRow:
    """The greatest difference of one kind."""

    kind: str
    step: str
    name: str
    max_abs: str
    max_rel: str
    rel_l2: str
    max_ulp: str
    of_allowed: str
    passed: bool


def fact_rows(result: Result) -> list[FactRow]:
    """Return both sides' facts and settings, side by side; what one side lacks is a dash."""
    torch, paddle = _facts(result.torch), _facts(result.paddle)
    rows = []
    for name in [*torch, *(name for name in paddle if name not in torch)]:
        ours, theirs = torch.get(name, _ABSENT), paddle.get(name, _ABSENT)
        both = result.torch is not None and result.paddle is not None
        rows.append(FactRow(say(name), ours, theirs, both and name not in _OWN and ours != theirs))
    return rows


def digests_line(result: Result) -> str:
    """Say whether both sides saw the same bytes, as far as the result tells."""
    torch, paddle = (side.batch_digests if side is not None else () for side in (result.torch, result.paddle))
    if not torch and not paddle:
        return say("No batch was digested.")
    first, count = None, 0
    for step, (ours, theirs) in enumerate(zip(torch, paddle)):
        if ours != theirs:
            first, count = step if first is None else first, count + 1
    if first is not None:
        return say(f"The batches differ, first at step {first}: {count} of {len(torch)} digests.")
    if len(torch) != len(paddle):
        return say(f"torch digested {len(torch)} batches, paddle {len(paddle)}; those that both have are the same.")
    different = np.unique(np.fromiter(map(hash, torch), np.int64, len(torch))).size
    return say(f"Both sides digested the same bytes in each of {len(torch)} batches ({different} different).")


def worst_rows(result: Result) -> list[WorstRow]:
    """Return the worst comparison of each kind, in causal order."""
    known = [kind for kind in KINDS if kind in result.worst]
    kinds = [*known, *(kind for kind in result.worst if kind not in known)]
    return [_worst_row(kind, result.worst[kind]) for kind in kinds if isinstance(result.worst[kind], Mapping)]


def compared_rows(result: Result) -> list[tuple[str, str]]:
    """Return what was compared and how."""
    return [(kind_words(name), say(_text(how), "causes")) for name, how in result.compared.items()]


def _worst_row(kind: str, entry: Mapping[str, Any]) -> WorstRow:
    ratio, passed = ratio_to_allowed(entry), bool(entry.get("passed", True))
    return WorstRow(
        kind=kind_words(kind),
        step=str(entry.get("step", "")),
        name=str(entry.get("torch_name") or entry.get("paddle_name") or ""),
        max_abs=_measure(entry.get("max_abs")),
        max_rel=_measure(entry.get("max_rel")),
        rel_l2=_measure(entry.get("rel_l2")),
        max_ulp=_measure(entry.get("max_ulp")),
        of_allowed=_of_allowed(ratio, passed),
        passed=passed,
    )


def _of_allowed(ratio: float, passed: bool) -> str:
    if math.isnan(ratio):
        return ""
    text = percent(ratio) if ratio < 10 else say(f"{number(ratio, 3)} times")
    return say(f"{text}, passed by a rule of its own") if passed and ratio > 1 else text


def _facts(side: SideFacts | None) -> dict[str, str]:
    if side is None:
        return {}
    own = {name: _text(getattr(side, name)) for name in _FACTS}
    own[message("other frameworks loaded")] = _text(side.other_frameworks_loaded) or say("none")
    return {
        **own,
        **{message(f"setting: {name}"): _text(value) for name, value in side.settings.items()},
        **{name: _text(value) for name, value in side.extra.items()},
    }


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(item)}" for name, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_text, value))
    if value is None:
        return _ABSENT
    return number(value) if isinstance(value, float) else str(value)


def _measure(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    try:
        return number(from_strict_number(value), 4)
    except ValueError:
        return ""
