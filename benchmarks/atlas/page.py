"""Writes docs/atlas.md: one row a pairing, then each pairing's arguments, configurations and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.atlas.measuring import ROUNDING, Row
from benchmarks.atlas.setups import setups
from stepalign.coordinator.atlas.calls import Expression, Value, code_of
from stepalign.coordinator.atlas.measured import Agreement, Measured
from stepalign.coordinator.atlas.pairing import REQUIRED, Argument, NoCounterpart, Pairing
from stepalign.coordinator.comparison.gradient_regimes import REGIMES

_INTRODUCTION = """\
# Which part corresponds to which

One row for each optimizer, schedule, clip and regulariser of torch {torch} and paddle {paddle}: what stands for it on the
other side, how its arguments map, and how far both were seen to agree. Made by `python -m benchmarks.atlas` on {date};
nothing on this page is written by hand. The mappings are declared in `coordinator/atlas/`, which the pre-flight
comparison, the causes and `stepalign translate` use too.

## How it is measured

Both frameworks run, each in a process of its own. They construct the two sides of a pairing, start from the same
parameters and get the same gradients for {steps} steps; `docs/optimizers.md` has the command that does the same for a
case. Each configuration runs under every regime of gradients:

{regimes}

The measure is `max |p_torch - p_paddle| / max |p_torch - p_0|`, the greatest over all steps and regimes: 1 means as far
apart as the parameters have moved. *Beyond rounding* is what is left of it without two units in the last place of the
parameter a step. Schedules are read for {rate_steps} steps at the base rates {rates}; their measure is relative to the rate.

| verdict | what it means |
|---|---|
| exact | the same bits in float32 and float64, in every configuration and regime |
| to rounding | beyond rounding at most {float32:g} in float32 and {float64:g} in float64, there with hyper-parameters that float32 holds exactly where paddle keeps them in float32 |
| approximate | the nearest there is; the number is the bound that was measured |
| none | no counterpart, or one that comes as far apart as the parameters move |

"Defaults alone" is how far the two classes come apart when a port gives both the rate and nothing else.
"""  # noqa: E501

_KINDS = (
    ("optimizer", "Optimizers"),
    ("schedule", "Schedules"),
    ("clip", "Clipping"),
    ("regularizer", "Regularisers"),
)


def render(rows: Sequence[Row], measured: Measured, rate_steps: int, rates: Iterable[float], bound: float) -> str:
    """Return the whole page."""
    parts = [
        _INTRODUCTION.format(
            torch=measured.torch,
            paddle=measured.paddle,
            date=measured.date,
            steps=50,
            regimes="\n".join(f"- {regime.name}: {regime.words}" for regime in REGIMES),
            rate_steps=f"{rate_steps:,}",
            rates=" and ".join(f"{rate:g}" for rate in rates),
            float32=bound,
            float64=ROUNDING,
        )
    ]
    for kind, title in _KINDS:
        chosen = [row for row in rows if row.pairing.kind == kind]
        if chosen:
            parts += [f"## {title}\n", _overview(chosen, measured.rows), *(_details(row, measured.rows) for row in chosen)]
    return "\n".join(parts).rstrip() + "\n"


def _overview(rows: Sequence[Row], agreements: Mapping[str, Agreement]) -> str:
    lines = [
        "| torch | paddle | verdict | float32, beyond rounding | float64, beyond rounding | worst | defaults alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        pairing, agreement = row.pairing, agreements[row.pairing.key]
        lines.append(
            f"| {_name(pairing.torch)}{_variant(pairing)} | {_name(pairing.paddle)} | {_verdict(pairing, agreement)} | "
            f"{_pair(agreement.float32, agreement.float32_beyond)} | {_pair(agreement.float64, agreement.float64_beyond)}"
            f"{_rounded(agreement)} | {_place(agreement)} | {_number(agreement.defaults_alone)} |"
        )
    return "\n".join(lines) + "\n"


def _details(row: Row, agreements: Mapping[str, Agreement]) -> str:
    pairing = row.pairing
    lines = [f"### {_title(pairing)}\n"]
    if pairing.difference:
        lines.append(pairing.difference + "\n")
    if pairing.configurations and not pairing.is_base:
        example = _example(pairing)
        if example:
            lines += ["```python", *example, "```\n"]
        lines += [_arguments(pairing), _configurations(row)]
    lines += [f"- Refused: {error}" for error in agreements[pairing.key].errors]
    return "\n".join(lines) + "\n"


def _title(pairing: Pairing) -> str:
    sides = [name.rpartition(".")[2] for name in (pairing.torch, pairing.paddle)]
    title = f"{sides[0] or 'no class of torch'} and {sides[1] or 'no class of paddle'}"
    return f"{title}: {pairing.variant}" if pairing.variant else title


def _example(pairing: Pairing) -> list[str]:
    """Return both sides' code of the first configuration."""
    try:
        torch, paddle = setups(pairing, pairing.configurations[0])
    except NoCounterpart:
        return []
    if pairing.kind == "schedule":
        schedule = torch.schedule
        assert schedule is not None
        return [
            code_of(schedule, {"optimizer": "optimizer"}),
            code_of(paddle.optimizer.arguments["learning_rate"]),
        ]
    return [
        *_clip_code(torch.clip),
        code_of(torch.optimizer, {"params": "model.parameters()"}),
        *_clip_code(paddle.clip),
        code_of(paddle.optimizer, {"parameters": "model.parameters()"}),
    ]


def _clip_code(clip: Value) -> list[str]:
    if clip is None:
        return []
    if isinstance(clip, Expression):
        return [f"({clip.text})(list(model.parameters()))  # between backward and the step"]
    return [f"{code_of(clip, {'parameters': 'model.parameters()'})}  # between backward and the step"]


def _arguments(pairing: Pairing) -> str:
    lines = ["| torch | default | paddle | default | paddle's value | note |", "|---|---|---|---|---|---|"]
    for item in pairing.arguments:
        if item.execution and not item.note:
            continue
        lines.append(
            f"| {_code(item.torch)} | {_default(item, 'torch')} | {_code(item.paddle)} | {_default(item, 'paddle')} | "
            f"{_conversion(item)} | {_note(item)} |"
        )
    return "\n".join(lines) + "\n"


def _conversion(item: Argument) -> str:
    if not item.torch or not item.paddle:
        return ""
    return "the same" if item.conversion.text == "x" else f"`{item.conversion.text}`"


def _note(item: Argument) -> str:
    if item.execution or (item.torch and item.paddle):
        return item.note
    held = f"only at {item.neutral!r}" if item.neutral is not None else "no counterpart"
    return f"{held}: {item.note}" if item.note else held


def _default(item: Argument, side: str) -> str:
    if not getattr(item, side):
        return ""
    value = getattr(item, f"{side}_default")
    return "required" if value is REQUIRED else f"`{value!r}`"


def _configurations(row: Row) -> str:
    names = list(dict.fromkeys(configuration for configuration, _, _ in row.found))
    regimes = list(dict.fromkeys(regime for _, _, regime in row.found))
    lines = [
        f"| configuration | dtype | {' | '.join(regimes)} |",
        f"|---|---|{'---|' * len(regimes)}",
    ]
    for name in names:
        for dtype, words in (("float32", "float32"), ("float64", "float64"), ("float64_rounded", "float64, rounded")):
            found = [row.found.get((name, dtype, regime)) for regime in regimes]
            if any(item is not None for item in found):
                cells = " | ".join("" if item is None else _pair(item.whole, item.beyond) for item in found)
                lines.append(f"| {name} | {words} | {cells} |")
    return "\n".join(lines) + "\n"


def _verdict(pairing: Pairing, agreement: Agreement) -> str:
    return "base class" if pairing.is_base else f"**{agreement.verdict}**"


def _rounded(agreement: Agreement) -> str:
    return "" if agreement.float64_rounded is None else f"; {_number(agreement.float64_rounded)} with rounded constants"


def _place(agreement: Agreement) -> str:
    return f"{agreement.regime}, {agreement.configuration}" if agreement.float64 or agreement.float32 else ""


def _variant(pairing: Pairing) -> str:
    return f" ({pairing.variant})" if pairing.variant else ""


def _name(dotted: str) -> str:
    return _code(dotted.removeprefix("torch.").removeprefix("paddle.")) if dotted else "none"


def _code(name: str) -> str:
    return f"`{name}`" if name else ""


def _pair(whole: float | None, beyond: float | None) -> str:
    if whole is None:
        return ""
    return "0" if whole == 0.0 else f"{_number(whole)}, {_number(beyond)}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "0" if value == 0.0 else f"{value:.1e}"
