"""What the atlas says of a declared argument: how paddle's call writes torch's value, and what either side's default is.

Arguments go by the declarations' names, which are torch's; ``beta1`` stands for ``betas[0]``. Argument names, defaults and
conversions are the atlas's (`coordinator/atlas/`); nothing here repeats one.
"""

from __future__ import annotations

from stepalign.coordinator.atlas.layers import layer_of
from stepalign.coordinator.atlas.layers.pair import show
from stepalign.coordinator.atlas.pairing import REQUIRED, Argument, NoCounterpart, Pairing
from stepalign.coordinator.atlas.pairings import PAIRINGS
from stepalign.protocol.specs import Scalar

_PARTS = {"beta1": "betas[0]", "beta2": "betas[1]", "weighted": "weight"}
_SCHEDULES, _OPTIMIZERS = "torch.optim.lr_scheduler.", "torch.optim."


def module_argument(kind: str, key: str) -> Argument | None:
    """Return the argument of a module type (torch's class name); None where the table has no such."""
    row = layer_of(kind)
    if row is None:
        return None
    if key.startswith("paddle."):
        return row.paddle_argument(key.removeprefix("paddle."))
    return row.argument(_PARTS.get(key, key))


def optimizer_argument(rule: str, key: str, paddle_class: str = "") -> Argument | None:
    """Return the argument of an optimizer's rule (torch's class name), of its pairing with ``paddle_class`` if there is.

    ``paddle_class`` is the class's own name, such as ``Momentum``.
    """
    return _argument(_pairings(_OPTIMIZERS + rule, f"paddle.optimizer.{paddle_class}"), key)


def schedule_argument(rule: str, key: str) -> Argument | None:
    """Return the argument of a schedule's rule (torch's class name); ``paddle.end_lr`` is one that paddle alone has."""
    pairings = _pairings(_SCHEDULES + rule, "")
    if key.startswith("paddle."):
        name = key.removeprefix("paddle.")
        return next((found for each in pairings if (found := each.argument("paddle", name)) and not found.torch), None)
    return _argument(pairings, key)


def torch_default(argument: Argument | None) -> Scalar:
    """Return torch's default as a declaration has it; None where there is none."""
    value = REQUIRED if argument is None else argument.torch_default
    return value if isinstance(value, (bool, int, float, str, tuple)) else None


def neutral(argument: Argument | None) -> Scalar:
    """Return the value at which an argument that paddle alone has does what torch does."""
    return None if argument is None else argument.neutral


def write(argument: Argument | None, key: str, value: Scalar) -> str:
    """Return how paddle's call writes torch's ``value``: ``epsilon=1e-12``; what to do instead where it has no argument."""
    if argument is None:
        return f"{key}={_shown(value)}"
    if not argument.paddle:
        return argument.note or f"no {argument.torch} (paddle has none)"
    try:
        converted = argument.conversion.to_paddle(value)
    except NoCounterpart as error:
        return str(error)
    return ", ".join(f"{name}={_shown(converted)}" for name in argument.paddle.split())


def both_defaults(argument: Argument | None, torch: Scalar, paddle: Scalar) -> str:
    """Return a clause that says that both sides are at their own framework's default, and how paddle spells torch's.

    Empty where they are not. ``paddle`` is in torch's terms, as declarations are.
    """
    if argument is None or not argument.torch or not argument.paddle:
        return ""
    if argument.torch_default is REQUIRED or argument.paddle_default is REQUIRED or torch != argument.torch_default:
        return ""
    try:
        theirs = argument.conversion.to_torch(argument.paddle_default)
    except (NoCounterpart, TypeError, ValueError):
        return ""
    if theirs == torch or theirs != paddle:
        return ""
    return (
        f"; each is its framework's default ({argument.torch}={_shown(torch)} in torch, "
        f"{argument.paddle}={_shown(argument.paddle_default)} in paddle)"
    )


def _pairings(torch: str, paddle: str) -> list[Pairing]:
    """Return the pairings of a torch class, those with the paddle class first."""
    found = [each for each in PAIRINGS if each.torch == torch and each.paddle]
    return sorted(found, key=lambda each: each.paddle != paddle)


def _argument(pairings: list[Pairing], key: str) -> Argument | None:
    name = _PARTS.get(key, key)
    found = [argument for each in pairings if (argument := each.argument("torch", name)) is not None]
    return next((each for each in found if each.paddle), found[0] if found else None)


def _shown(value: object) -> str:
    if isinstance(value, (tuple, list)) and value and all(each == value[0] for each in value):
        return show(value[0])
    return show(value)
