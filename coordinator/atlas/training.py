"""Translates a whole training: optimizer, parameter groups, schedule and clipping, into code of the other framework.

Only what the atlas has measured is written down; anything else is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stepalign.coordinator.atlas.applying import Side, Translation, convert
from stepalign.coordinator.atlas.calls import BASE_RATE, Call, Expression, Value, code_of
from stepalign.coordinator.atlas.measured import Agreement, Verdict, agreement_of
from stepalign.coordinator.atlas.pairing import REQUIRED, NoCounterpart
from stepalign.coordinator.atlas.translating import translate

_ORDER = [verdict.value for verdict in Verdict]
_RATE = {"torch": "lr", "paddle": "learning_rate"}
_SMALLEST_NORM = 1e-3
"""Below this limit the 1e-6 in torch's clip_grad_norm_ shows, which ClipGradByGlobalNorm does not have."""
_FLOORS = ("eta_min", "end_lr", "min_lr", "end_learning_rate", "last_lr")
_OWN_RATES = ("OneCycleLR", "CyclicLR", "CyclicalLR")


@dataclass(frozen=True)
class Construction:
    """How one side's training is made. ``groups`` holds each parameter group's own options, none where there is one group."""

    side: Side
    optimizer: Call
    groups: tuple[Mapping[str, Value], ...] = ()
    schedule: Call | None = None
    clips: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Part:
    """One translated call, what was measured of its pairing, and what the translation loses."""

    source: Call
    translation: Translation
    agreement: Agreement

    @property
    def does_the_same(self) -> bool:
        return self.agreement.is_usable and not self.translation.lost


@dataclass
class TranslatedTraining:
    """The other side's training. ``before_step`` is code between backward and the update."""

    side: Side
    optimizer: Call
    schedule: Call | None = None
    groups: tuple[Mapping[str, Value], ...] = ()
    before_step: tuple[str, ...] = ()
    parts: list[Part] = field(default_factory=list)


def translate_training(training: Construction) -> TranslatedTraining:
    """Return the other side's training. Raises NoCounterpart for what has none, or none that was measured."""
    return _to_paddle(training) if training.side == "torch" else _to_torch(training)


def choose(call: Call, side: Side, without: Sequence[str] = ()) -> Part:
    """Return the best measured translation of a call; ``without`` names targets that do not fit here."""
    found = [each for each in translate(call, side) if each.call.target not in without]
    if not found:
        raise NoCounterpart(f"{call.target} has no counterpart that fits here")
    parts = [Part(call, each, agreement) for each in found if (agreement := agreement_of(each.pairing)) is not None]
    if not parts:
        raise NoCounterpart(
            f"{found[0].pairing.key} was never measured: nothing is translated that was not; "
            "measure it with python -m benchmarks.atlas"
        )
    best = min(parts, key=_preference)
    if best.agreement.verdict == Verdict.NONE.value:
        raise NoCounterpart(f"{call.target}: {best.translation.pairing.difference or 'no arguments make the sides agree'}")
    return best


def _preference(part: Part) -> tuple[int, bool, bool, bool, int]:
    """Rank what loses nothing first, then a counterpart of the same name, for a reader expects it, then by agreement."""
    names = (part.source.name.lower(), part.translation.call.name.lower())
    verdict = part.agreement.verdict
    return (
        len(part.translation.lost),
        verdict == Verdict.NONE.value,
        names[0] != names[1],
        bool(part.translation.pairing.variant),
        _ORDER.index(verdict),
    )


def _to_paddle(training: Construction) -> TranslatedTraining:
    optimizer = choose(training.optimizer, "torch")
    call, parts = optimizer.translation.call, [optimizer]
    base = rate_of(training.optimizer, optimizer)
    schedule = None
    if isinstance(call.arguments.get("learning_rate"), Call):
        if training.schedule is not None:
            raise NoCounterpart(f"{training.optimizer.name} is a schedule of its own in paddle, and takes no second one")
        schedule = call.arguments["learning_rate"]
    if training.schedule is not None:
        given = Call(training.schedule.target, {BASE_RATE: base, **training.schedule.arguments})
        parts.append(choose(given, "torch"))
        schedule = parts[-1].translation.call
    if schedule is not None:
        call = _with(call, learning_rate=Expression("scheduler"))
    before: list[str] = []
    for clip in training.clips:
        small = float(clip.arguments.get("max_norm", 1.0)) < _SMALLEST_NORM
        outside = len(training.groups) > 1 or small or len(training.clips) > 1
        inside = ("paddle.nn.ClipGradByGlobalNorm", "paddle.nn.ClipGradByNorm", "paddle.nn.ClipGradByValue")
        parts.append(choose(clip, "torch", inside if outside else ()))
        theirs = parts[-1].translation.call
        if theirs.target in inside:
            call = _with(call, grad_clip=theirs)
        else:
            before.append(_function_code(theirs))
    groups = _groups(training, optimizer, base, training.schedule)
    return TranslatedTraining("paddle", call, schedule, groups, tuple(before), parts)


def _to_torch(training: Construction) -> TranslatedTraining:
    arguments = dict(training.optimizer.arguments)
    parts: list[Part] = []
    schedule, base = None, arguments.get("learning_rate")
    if isinstance(base, Call):
        scheduled = choose(base, "paddle")
        schedule = scheduled.translation.call
        base = schedule.arguments.get(BASE_RATE)
        if base is None:
            raise NoCounterpart(f"{scheduled.source.name} gives no base rate that torch's optimizer could start from")
        arguments["learning_rate"] = base
        parts.append(scheduled)
    clip = arguments.pop("grad_clip", None)
    optimizer = choose(Call(training.optimizer.target, arguments), "paddle")
    parts.insert(0, optimizer)
    before: list[str] = []
    for each in ((clip,) if isinstance(clip, Call) else ()) + training.clips:
        if each.target == "paddle.nn.ClipGradByGlobalNorm" and len(training.groups) > 1:
            raise NoCounterpart("ClipGradByGlobalNorm takes the norm of each group alone: clip each group by itself in torch")
        parts.append(choose(each, "paddle"))
        before.append(_function_code(parts[-1].translation.call))
    rate = rate_of(training.optimizer, optimizer) if base is None else base
    groups = _groups(training, optimizer, rate, training.optimizer.arguments.get("learning_rate"))
    return TranslatedTraining("torch", optimizer.translation.call, schedule, groups, tuple(before), parts)


def rate_of(optimizer: Call, part: Part) -> Value:
    """Return the base rate that an optimizer was given, or its default."""
    pairing = part.translation.pairing
    side: Side = "torch" if optimizer.target.startswith("torch.") else "paddle"
    rate = optimizer.arguments.get(_RATE[side], pairing.defaults(side).get(_RATE[side], REQUIRED))
    if rate is REQUIRED:
        raise NoCounterpart(f"{optimizer.target} has no learning rate")
    return rate


def _groups(training: Construction, optimizer: Part, base: Value, schedule: object) -> tuple[Mapping[str, Value], ...]:
    """Translate each group's own options; a rate of its own is a factor of the base rate in paddle."""
    ours, theirs = ("torch", "paddle") if training.side == "torch" else ("paddle", "torch")
    found = []
    for number, group in enumerate(training.groups):
        options = dict(group)
        own = options.pop(_RATE[ours], None)
        unknown = [key for key in options if not _is_known(optimizer, training.side, key)]
        if unknown:
            raise NoCounterpart(f"group {number} has {', '.join(unknown)}, which {optimizer.source.name} does not take")
        values = convert(optimizer.translation.pairing, options, training.side)
        values = {key: value for key, value in values.items() if _is_given(optimizer, training.side, key, options)}
        if own is not None:
            factor = float(own) / float(base) if ours == "torch" else float(own)
            if factor != 1.0 and isinstance(schedule, Call) and _has_floor(schedule):
                raise NoCounterpart(
                    f"group {number} has a rate of its own and {schedule.name} an absolute one: paddle multiplies the whole "
                    "schedule by a group's factor, torch does not"
                )
            values[_RATE[theirs]] = factor if theirs == "paddle" else factor * float(base)
        found.append(values)
    return tuple(found)


def _is_known(optimizer: Part, side: Side, key: str) -> bool:
    return any(getattr(item, side).partition("[")[0] == key for item in optimizer.translation.pairing.arguments)


def _is_given(optimizer: Part, side: Side, key: str, options: Mapping[str, Value]) -> bool:
    other: Side = "paddle" if side == "torch" else "torch"
    items = [item for item in optimizer.translation.pairing.arguments if getattr(item, other).partition("[")[0] == key]
    return any(getattr(item, side).partition("[")[0] in options for item in items)


def _has_floor(schedule: Call) -> bool:
    return schedule.name in _OWN_RATES or any(schedule.arguments.get(name) for name in _FLOORS)


def _with(call: Call, **arguments: Value) -> Call:
    return replace(call, arguments={**call.arguments, **arguments})


def _function_code(call: Call) -> str:
    """Return a clip function's call over the model's parameters."""
    each = call.arguments.get("each")
    if isinstance(each, Expression):
        return f"({each.text})(list(model.parameters()))"
    given = "".join(f", {name}={code_of(value)}" for name, value in call.arguments.items())
    return f"{call.target}(model.parameters(){given})"


def training_code(training: TranslatedTraining) -> str:
    """Return the code: a scheduler if there is one, the optimizer, and one step of the loop."""
    subject = "[" + ", ".join(_group_code(number, group) for number, group in enumerate(training.groups)) + "]"
    parameters = subject if training.groups else "model.parameters()"
    lines = ["import math", f"import {training.side}", ""]
    if training.side == "paddle":
        if training.schedule is not None:
            lines.append(f"scheduler = {code_of(training.schedule)}")
        lines.append(f"optimizer = {code_of(training.optimizer, {'parameters': parameters})}")
    else:
        lines.append(f"optimizer = {code_of(training.optimizer, {'params': parameters})}")
        if training.schedule is not None:
            lines.append(f"scheduler = {code_of(training.schedule, {'optimizer': 'optimizer'})}")
    clear = "optimizer.clear_grad(set_to_zero=False)" if training.side == "paddle" else "optimizer.zero_grad()"
    lines += ["", "", "def update():", '    """After loss.backward()."""']
    lines += [f"    {line}" for line in training.before_step]
    lines += ["    optimizer.step()", f"    {clear}"]
    lines += ["    scheduler.step()"] if training.schedule is not None else []
    return "\n".join(lines) + "\n"


def _group_code(number: int, group: Mapping[str, Value]) -> str:
    given = "".join(f", {name!r}: {code_of(value)}" for name, value in group.items())
    return f"{{'params': group_{number}{given}}}"
