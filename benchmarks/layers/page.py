"""docs/layers.md: the table with its measurements."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from benchmarks.layers.judging import ROUNDING, Row, describe
from benchmarks.layers.measuring import DTYPES
from stepalign.coordinator.atlas.layers import (
    activation,
    function,
    linear,
    loss,
    normalisation,
    pooling,
    recurrent,
    unpaired,
)
from stepalign.coordinator.atlas.layers.pair import LayerPair, defaults_differ
from stepalign.coordinator.atlas.pairing import IDENTICAL, REQUIRED, Argument

FAMILIES: tuple[tuple[str, ModuleType], ...] = (
    ("Linear layers, convolutions, embeddings", linear),
    ("Normalisation", normalisation),
    ("Activation functions, softmax, dropout", activation),
    ("Pooling, padding, resizing, rearranging", pooling),
    ("Recurrent layers and attention", recurrent),
    ("Losses and distances", loss),
    ("Functions", function),
)
_INTRODUCTION = """\
# Layers: torch against paddle

Which class of `paddle.nn` is which of `torch.nn`, how their arguments map, and how far they agree. `python -m
benchmarks.layers --write docs/layers.md` makes this page: it runs both frameworks, each in a process of its own, on the
same inputs and weights, and compares outputs, the gradients of all inputs and weights, and buffers. It fails where a
class has neither a row nor a reason, where a signature or a default is not what the table says, and where a number does
not bear a row out. The table itself is `coordinator/atlas/layers/`; what a run says before its first step
([causes](causes.md)) takes argument names, defaults and conversions from there.

Measured on {date} with torch {torch} and paddle {paddle}, on the CPU, one thread. {count} measurements.

How to read it:

- **arguments**: torch's name and default, an arrow, paddle's name and default. What has the same name and default on
  both sides is left out. `x` is torch's value. **Bold**: the defaults mean different things.
- **defaults**: the greatest difference, float32 / float64, where the arguments that a case does not need are left out
  on both sides. **mapped**: the same with every argument written out on paddle's side. Each is relative to the greatest
  magnitude of torch's array, of gradients to at least a tenth of the case's greatest gradient. `inf` is another shape
  or a NaN on one side; `fails`: a side raises.
- **verdict**, of the mapped case: *exact*, bit for bit; *to rounding*, at most {rounding32:g} in float32 and
  {rounding64:g} in float64; *approximate*, with the bound that the measurement must hold; *none*, no arguments make
  them agree. What a row lists below its table as a difference is left out of it.
"""


def page(rows: Sequence[Row], versions: Mapping[str, str]) -> str:
    """Return the page's text."""
    by_pair = {id(row.pair): row for row in rows}
    lines = [
        _INTRODUCTION.format(
            date=datetime.date.today().isoformat(),
            **versions,
            count=sum(len(row.measured) for row in rows),
            rounding32=ROUNDING["float32"],
            rounding64=ROUNDING["float64"],
        )
    ]
    for title, module in FAMILIES:
        chosen = [by_pair[id(pair)] for pair in module.PAIRS if id(pair) in by_pair]
        if chosen:
            lines += [f"## {title}", "", *_table(chosen), "", *_below(chosen)]
    lines += ["## Not paired", "", "| class | because |", "|---|---|"]
    for side, reasons in (("torch", unpaired.TORCH), ("paddle", unpaired.PADDLE)):
        lines += [f"| `{side}.nn.{name}` | {reason} |" for name, reason in reasons.items()]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| torch | paddle | arguments | defaults | mapped | verdict |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        pair = row.pair
        verdict = row.verdict.value + (f", {pair.bound:.0e}" if row.verdict.value == "approximate" else "")
        arguments = "; ".join(text for text in map(_argument, pair.arguments) if text)
        yield (
            f"| `{_short(pair.torch)}` | `{_short(pair.paddle)}` | {arguments} | {_numbers(row, False)} "
            f"| {_numbers(row, True)} | {verdict} |"
        )


def _numbers(row: Row, spelled_out: bool) -> str:
    worst = [row.worst(dtype, spelled_out) for dtype in DTYPES]
    problem = any(each.problem and each.spelled_out == spelled_out and not each.case.shows for each in row.measured)
    if all(math.isnan(each) for each in worst):
        return "-"
    return "fails" if problem else " / ".join(_number(each) for each in worst)


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _argument(argument: Argument) -> str:
    ours, theirs = _named(argument.torch, argument.torch_default), _named(argument.paddle, argument.paddle_default)
    if not argument.torch:
        text = f"only paddle: `{theirs}`" + (f", torch's is {argument.neutral!r}" if defaults_differ(argument) else "")
        if argument.paddle == "data_format":
            return ""
    elif not argument.paddle:
        text = f"only torch: `{ours}`" + (f", paddle's is {argument.neutral!r}" if defaults_differ(argument) else "")
    elif ours == theirs and argument.conversion is IDENTICAL:
        return ""
    else:
        formula = "" if argument.conversion is IDENTICAL else f" ({argument.conversion.text})"
        text = f"`{ours}` → `{theirs}`{formula}"
    return f"**{text}**" if defaults_differ(argument) else text


def _named(name: str, default: object) -> str:
    names = name.replace(" ", ", ")
    return names if default is REQUIRED else f"{names}={default!r}"


def _below(rows: Sequence[Row]) -> Iterator[str]:
    said: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        for difference in row.pair.differences:
            sizes = [each for each in row.measured if each.case.shows == difference.key]
            measured = _problem(sizes[0].problem) if sizes else ""
            if sizes and not measured:
                measured = f"{_number(sizes[0].greatest)} ({describe(sizes[0])})"
            said.setdefault((difference.key, difference.formula, ""), []).append(f"`{row.pair.name}`: {measured}")
    for (key, formula, _), measured in said.items():
        yield f"- **{key}**. {formula}. Measured: {'; '.join(measured)}."
    notes: dict[str, list[str]] = {}
    for row in rows:
        for text in (row.pair.weights and f"Weights: {row.pair.weights}", row.pair.notes, *_argument_notes(row.pair)):
            if text:
                notes.setdefault(text, []).append(f"`{row.pair.name}`")
    for text, names in notes.items():
        yield f"- {', '.join(names)}: {text}."
    yield ""


def _problem(text: str) -> str:
    return text.removeprefix("float32: ").replace("|", "\\|").rstrip(".")


def _argument_notes(pair: LayerPair) -> Iterator[str]:
    return (f"{each.torch or each.paddle}: {each.note}" for each in pair.arguments if each.note)


def _short(path: str) -> str:
    return path.replace("nn.functional.", "F.").removeprefix("nn.")
