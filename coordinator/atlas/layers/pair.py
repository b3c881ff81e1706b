"""What one row of the table of layers says: the two classes, their arguments, and what differs with all of them mapped.

Argument names, defaults and conversions are written here and nowhere else: ``python -m benchmarks.layers`` holds them
against both frameworks' signatures and numbers, the pre-flight comparison and the causes read them.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepalign.coordinator.atlas.pairing import REQUIRED, Argument, Conversion, NoCounterpart
from stepalign.protocol.specs import Scalar


class Verdict(str, enum.Enum):
    """How far two classes agree with all arguments mapped, leaving out what the row lists as differences.

    ``TO_ROUNDING``: of float32 and of float64. ``APPROXIMATE``: no nearer than the row's bound, because paddle carries
    float32 constants in float64 or computes another approximation. ``NONE``: another function.
    """

    EXACT = "exact"
    TO_ROUNDING = "to rounding"
    APPROXIMATE = "approximate"
    NONE = "none"


def _complement(value: Any) -> float:
    return float(f"{1.0 - value:.12g}")


def _negated(value: Any) -> bool:
    return not value


COMPLEMENT = Conversion("1 - x", _complement, _complement)
AS_BOOL = Conversion("bool(x)", bool, bool)
AS_ZERO = Conversion("x or 0", lambda value: value or 0.0)
NOT = Conversion("not x", _negated, _negated)
ATTRIBUTE = Conversion("None if x else False", lambda value: None if value else False, lambda value: value is not False)
IS_TANH = Conversion("x == 'tanh'", lambda value: value == "tanh", lambda value: "tanh" if value else "none")
DIRECTION = Conversion(
    "'bidirect' if x else 'forward'",
    lambda value: "bidirect" if value else "forward",
    lambda value: value in ("bidirect", "bidirectional"),
)


def paddle_names(argument: Argument) -> tuple[str, ...]:
    """Return the names of paddle's arguments that all take the converted value; none where paddle has no such."""
    return tuple(argument.paddle.split())


def defaults_differ(argument: Argument) -> bool:
    """Return whether leaving the argument out means something else on either side."""
    if not argument.torch:
        return bool(argument.paddle_default != argument.neutral)
    if not argument.paddle:
        return bool(argument.torch_default != argument.neutral)
    if argument.torch_default is REQUIRED or argument.paddle_default is REQUIRED:
        return argument.torch_default is not argument.paddle_default
    return bool(argument.conversion.to_paddle(argument.torch_default) != argument.paddle_default)


def write_paddle(argument: Argument, value: Scalar) -> str:
    """Return how paddle's call writes torch's ``value``, as in ``epsilon=1e-12``; empty if paddle has no such."""
    converted = argument.conversion.to_paddle(value)
    return ", ".join(f"{name}={show(converted)}" for name in paddle_names(argument))


def show(value: object) -> str:
    """Return a value as source code writes it, a float with as many digits as a float32 holds."""
    return f"{value:.7g}" if isinstance(value, float) else repr(value)


def same(torch: str, paddle: str = "", default: Any = REQUIRED, paddle_default: Any = ..., note: str = "") -> Argument:
    """Return an argument that means the same on both sides; ``paddle_default`` where it is not torch's."""
    theirs = default if paddle_default is ... else paddle_default
    return Argument(torch, paddle or torch, default, theirs, note=note)


def converted(
    torch: str,
    paddle: str,
    conversion: Conversion,
    default: Any = REQUIRED,
    paddle_default: Any = REQUIRED,
    note: str = "",
) -> Argument:
    """Return an argument whose value paddle writes in another form."""
    return Argument(torch, paddle, default, paddle_default, conversion, note=note)


def torch_only(name: str, default: Any, neutral: Any = REQUIRED, note: str = "") -> Argument:
    """Return an argument that paddle does not have; at ``neutral`` (default: its default) it changes nothing."""
    return Argument(name, "", default, neutral=default if neutral is REQUIRED else neutral, note=note)


def paddle_only(name: str, default: Any, neutral: Any = REQUIRED, note: str = "") -> Argument:
    """Return an argument that torch does not have; at ``neutral`` (default: its default) it does what torch does."""
    return Argument("", name, paddle_default=default, neutral=default if neutral is REQUIRED else neutral, note=note)


BIAS = converted("bias", "bias_attr", ATTRIBUTE, True, None)
REDUCTION = same("reduction", default="mean")
CLASS_WEIGHTS = Argument("weight", "weight", None, None)
LAYOUT = paddle_only("data_format", None, note="channels last is another layout of input and output")


@dataclass(frozen=True)
class Difference:
    """What no mapping of arguments removes: where it shows and the formula of both sides. ``key`` names it.

    ``applies`` tells from a module's declared arguments, torch's, whether it can show there; None where only the data
    tells. ``mend`` says what a port can write instead, ``kind`` what shows it first: ``activation`` or ``gradient``.
    """

    key: str
    formula: str
    applies: Callable[[Mapping[str, Scalar]], bool] | None = None
    mend: str = ""
    kind: str = "activation"


@dataclass(frozen=True)
class LayerPair:
    """One row: torch's class or function and paddle's, as dotted names below the framework's root package.

    ``also`` names further paddle classes that do the same; ``bound`` limits the relative difference of an
    ``APPROXIMATE`` row, float32 and float64 alike.
    """

    torch: str
    paddle: str
    arguments: tuple[Argument, ...]
    verdict: Verdict = Verdict.TO_ROUNDING
    differences: tuple[Difference, ...] = ()
    weights: str = ""
    notes: str = ""
    also: tuple[str, ...] = ()
    bound: float = 0.0

    @property
    def name(self) -> str:
        """torch's own name without its package: ``LayerNorm``, ``interpolate``."""
        return self.torch.rsplit(".", 1)[-1]

    def argument(self, torch: str) -> Argument | None:
        """Return the argument of torch's name, None if there is none."""
        return next((argument for argument in self.arguments if argument.torch == torch), None)

    def paddle_argument(self, paddle: str) -> Argument | None:
        """Return the argument that only paddle has, by its name, None if there is none."""
        return next((each for each in self.arguments if not each.torch and each.paddle == paddle), None)

    def paddle_call(self, values: Mapping[str, Any], spell_out: bool = False) -> dict[str, Any]:
        """Return paddle's arguments for torch's.

        ``spell_out`` adds every default of torch's, and what only paddle has at the value that does what torch does.
        Raises NoCounterpart where an argument has none, and ValueError for one that is not in the table.
        """
        call: dict[str, Any] = {}
        for argument in self.arguments:
            if not argument.torch:
                if spell_out and argument.paddle_default != argument.neutral:
                    call[argument.paddle] = argument.neutral
                continue
            if argument.torch in values:
                value = values[argument.torch]
            elif spell_out and argument.torch_default is not REQUIRED:
                value = argument.torch_default
            else:
                continue
            if argument.paddle:
                call.update(dict.fromkeys(paddle_names(argument), argument.conversion.to_paddle(value)))
            elif value != argument.neutral:
                raise NoCounterpart(f"{argument.torch}={value!r} of {self.torch} has no counterpart in {self.paddle}")
        unknown = sorted(set(values) - {argument.torch for argument in self.arguments})
        if unknown:
            raise ValueError(f"{self.torch} has no argument {', '.join(unknown)} in the table")
        return call


def layer(torch: str, paddle: str, *arguments: Argument, **rest: Any) -> LayerPair:
    """Return the row of two classes of ``torch.nn`` and ``paddle.nn``."""
    return LayerPair(f"nn.{torch}", f"nn.{paddle}", arguments, **rest)


def function(torch: str, paddle: str, *arguments: Argument, **rest: Any) -> LayerPair:
    """Return the row of two functions, named below ``torch`` and ``paddle``."""
    return LayerPair(torch, paddle, arguments, **rest)
