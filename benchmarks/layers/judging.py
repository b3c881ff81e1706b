"""Holds the table against what was measured: signatures, agreement, differences; what does not fit is a complaint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.layers.measuring import DTYPES, Measured
from stepalign.coordinator.atlas.layers import unpaired
from stepalign.coordinator.atlas.layers.pair import LayerPair, Verdict, defaults_differ, paddle_names
from stepalign.coordinator.atlas.pairing import REQUIRED

ROUNDING: Mapping[str, float] = {"float32": 5e-6, "float64": 1e-10}
"""Relative differences of correct layers: sums of a few dozen terms in float32; an epsilon kept as float32 in float64."""
SHOWN = 1e-4
"""What is listed as a difference is at least so large."""
IGNORED = {
    "torch": frozenset(
        [
            "device",
            "dtype",
            "size_average",
            "reduce",
            "inplace",
            "process_group",
            "_weight",
            "_freeze",
            "min_value",
            "max_value",
        ]
    ),
    "paddle": frozenset(["name", "device", "dtype", "inplace", "_weight", "_freeze"]),
}
"""Parameters that change no number, or are an older name of one that is in the table."""
_ATTRIBUTES = frozenset(
    ["weight_attr", "bias_attr", "weight_ih_attr", "weight_hh_attr", "bias_ih_attr", "bias_hh_attr"]
)


@dataclass(frozen=True)
class Row:
    """One pair with all its measurements."""

    pair: LayerPair
    measured: tuple[Measured, ...]

    def worst(self, dtype: str, spelled_out: bool) -> float:
        """Return the greatest difference of the cases that must agree; NaN where there are none."""
        chosen = [each for each in self.measured if each.spelled_out == spelled_out and not each.case.shows]
        if spelled_out:
            chosen = [each for each in chosen if not each.case.defaults_only]
        return max((math.inf if each.problem else each.errors[dtype] for each in chosen), default=math.nan)

    @property
    def verdict(self) -> Verdict:
        """What the cases that must agree amount to."""
        worst = {dtype: self.worst(dtype, True) for dtype in DTYPES}
        if any(math.isnan(error) or math.isinf(error) for error in worst.values()):
            return Verdict.NONE
        if not any(worst.values()):
            return Verdict.EXACT
        if all(worst[dtype] <= ROUNDING[dtype] for dtype in DTYPES):
            return Verdict.TO_ROUNDING
        return Verdict.APPROXIMATE


_ORDER = (Verdict.EXACT, Verdict.TO_ROUNDING, Verdict.APPROXIMATE, Verdict.NONE)


def complaints(rows: Sequence[Row], facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what the table says and the frameworks do not, or the other way round.

    ``facts`` has, for each side, ``classes`` (their parameters by name) and ``names`` (the names of each class).
    """
    found = [*_without_row(rows, {side: answer["names"] for side, answer in facts.items()})]
    classes = {side: answer["classes"] for side, answer in facts.items()}
    for row in rows:
        found.extend(f"{row.pair.name}: {each}" for each in (*_agreement(row), *_differences(row)))
        if row.pair.torch.startswith("nn.") and "functional" not in row.pair.torch:
            found.extend(f"{row.pair.name}: {each}" for each in _signatures(row.pair, classes))
    return found


def _without_row(rows: Sequence[Row], classes: Mapping[str, Sequence[Sequence[str]]]) -> Iterable[str]:
    for side, reasons in (("torch", unpaired.TORCH), ("paddle", unpaired.PADDLE)):
        paired = {getattr(row.pair, side).removeprefix("nn.") for row in rows}
        if side == "paddle":
            paired |= {name.removeprefix("nn.") for row in rows for name in row.pair.also}
        for names in classes[side]:
            if not (paired | reasons.keys()).intersection(names):
                yield f"{side}.nn.{names[0]} has no row and no reason why not"
        for name in sorted(paired & reasons.keys()):
            yield f"{side}.nn.{name} has a row and a reason why it has none"
        for name in sorted((reasons.keys() | paired) - {name for names in classes[side] for name in names}):
            if not name.startswith("functional.") and "." not in name and name[0].isupper():
                yield f"{side}.nn.{name} is in the table; this version of {side} has no such class"


def _agreement(row: Row) -> Iterable[str]:
    for each in row.measured:
        if each.problem and not each.case.shows and each.spelled_out:
            yield f"{describe(each)}: {each.problem}"
    verdict, declared = row.verdict, row.pair.verdict
    worst = ", ".join(f"{dtype} {row.worst(dtype, True):.1e}" for dtype in DTYPES)
    if _ORDER.index(verdict) > _ORDER.index(declared):
        yield f"declared {declared.value}, measured {verdict.value} ({worst})"
    if declared in (Verdict.APPROXIMATE, Verdict.NONE) and _ORDER.index(verdict) < _ORDER.index(declared):
        yield f"declared {declared.value}, but it agrees: {verdict.value} ({worst})"
    if declared is Verdict.APPROXIMATE and max(row.worst(dtype, True) for dtype in DTYPES) > row.pair.bound:
        yield f"the bound {row.pair.bound:.0e} is exceeded: {worst}"
    differing = any(defaults_differ(argument) for argument in row.pair.arguments)
    apart = any(row.worst(dtype, False) > 100 * ROUNDING[dtype] + row.pair.bound for dtype in DTYPES)
    if apart and not differing:
        yield "left at their defaults the sides differ, but no argument's defaults do"


def _differences(row: Row) -> Iterable[str]:
    declared = {difference.key for difference in row.pair.differences}
    shown = {each.case.shows for each in row.measured if each.case.shows}
    yield from (f"no case shows the difference {key!r}" for key in sorted(declared - shown))
    yield from (f"a case shows {key!r}, which the row does not list" for key in sorted(shown - declared))
    for each in row.measured:
        if each.case.shows and not each.greatest > SHOWN:
            yield f"the difference {each.case.shows!r} does not show: {each.greatest:.1e}"


def _signatures(pair: LayerPair, classes: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """Compare each constructor's parameters and defaults with the row."""
    ours = {each.torch: each.torch_default for each in pair.arguments if each.torch}
    theirs = {name: each.paddle_default for each in pair.arguments for name in paddle_names(each)}
    for side, path, listed in (("torch", pair.torch, ours), ("paddle", pair.paddle, theirs)):
        actual = {name: (has, default) for name, has, default in classes[side].get(path.removeprefix("nn."), [])}
        for name, (has_default, default) in actual.items():
            if name in listed:
                expected = listed[name]
                if (expected is not REQUIRED) != has_default or (has_default and not _equal(expected, default)):
                    yield f"{side}'s default of {name} is {default if has_default else 'none'}, the table says {expected}"
            elif name not in IGNORED[side] and not (side == "paddle" and name in _ATTRIBUTES | {"data_format"}):
                yield f"{side}'s argument {name} is not in the table"
        for name in listed.keys() - actual.keys():
            if actual:
                yield f"{side} has no argument {name}"


def _equal(expected: Any, actual: Any) -> bool:
    return bool(expected == actual) and isinstance(expected, bool) == isinstance(actual, bool)


def describe(measured: Measured) -> str:
    """Return a case in words."""
    case = measured.case
    arguments = ", ".join(
        f"{name}={'...' if isinstance(value, dict) else value}" for name, value in case.arguments.items()
    )
    return (
        ", ".join(each for each in (arguments, case.label, case.mode if case.mode == "train" else "") if each)
        or "defaults"
    )
