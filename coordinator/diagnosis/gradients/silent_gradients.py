"""Explains gradients that only one side has: detached on the way, or frozen. What both sides declare tells which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.declared.declared_parameters import DeclaredParameter
from stepalign.coordinator.diagnosis.wording import count, names

NOISE_SHARE = 1e-6
"""Of the greatest gradient: a gradient below it is taken for none."""

Pairs = Mapping[str, tuple[np.ndarray | None, np.ndarray | None]]


def greatest(array: np.ndarray | None) -> float:
    """Return the greatest absolute value; zero for no array."""
    return float(np.max(np.abs(array.astype(np.float64)), initial=0.0)) if array is not None else 0.0


def explain_silent(
    pairs: Pairs, ordered: Sequence[str], scale: float, declared: Mapping[str, DeclaredParameter]
) -> Iterator[Cause]:
    """Yield why parameters have a gradient on one side only. ``ordered`` lists them in forward order.

    A parameter that the silent side declares frozen is frozen, one that it declares trainable is not.
    """
    for position, side, other_side in ((1, "paddle", "torch"), (0, "torch", "paddle")):
        silent = [
            name
            for name in ordered
            if (pairs[name][position] is None or greatest(pairs[name][position]) == 0.0)
            and greatest(pairs[name][1 - position]) > NOISE_SHARE * scale
        ]
        loud = [name for name in ordered if name not in silent and greatest(pairs[name][position]) > 0.0]
        frozen = [name for name in silent if name in declared and not declared[name].trains(side)]
        for some in (frozen, [name for name in silent if name not in frozen]):
            if not some:
                continue
            cut = bool(loud) and len(some) > 1 and ordered.index(some[-1]) < ordered.index(loud[0])
            none = all(pairs[name][position] is None for name in some)
            what = "no gradient" if none else "a zero gradient"
            evidence = (
                f"{side} has {what} for {count(len(some), 'parameter')} where {other_side} has one: {names(some)}"
                + (f"; everything before {loud[0]} in forward order" if cut else "")
            )
            if some is frozen:
                yield _frozen(side, some, evidence)
            elif none and not cut and all(name in declared for name in some):
                yield _not_reached(side, some)
            else:
                yield _silent_cause(side, some, cut, none, evidence)


def _not_reached(side: str, silent: list[str]) -> Cause:
    """Return the cause of gradients that do not come to parameters which both sides declare trainable."""
    evidence = (
        f"no gradient comes to {names(silent)} in {side}, though trainable there: something between that and the loss is "
        "detached"
    )
    if side == "paddle":
        fix = (
            f"look between {silent[-1]} and the loss in the paddle script for detach(), stop_gradient=True, numpy() or "
            "paddle.no_grad(), and whether the forward uses it at all"
        )
        return Cause(Category.BACKWARD, "detached", 0.9, evidence, fix)
    fix = f"stop the gradient after {silent[-1]} in the paddle model as torch does: .detach() or paddle.no_grad()"
    return Cause(Category.BACKWARD, "not_detached", 0.9, evidence, fix)


def _silent_cause(side: str, silent: list[str], cut: bool, none: bool, evidence: str) -> Cause:
    detached = 0.93 if cut else 0.6 if not none else 0.4
    if side == "paddle" and (cut or not none):
        fix = f"remove .detach(), stop_gradient=True or paddle.no_grad() after {silent[-1]} in the paddle model"
        return Cause(Category.BACKWARD, "detached", detached, evidence, fix)
    if side == "torch" and (cut or not none):
        fix = f"stop the gradient after {silent[-1]} in the paddle model as torch does: .detach() or paddle.no_grad()"
        return Cause(Category.BACKWARD, "not_detached", detached, evidence, fix)
    return _frozen(side, silent, evidence)


def _frozen(side: str, silent: list[str], evidence: str) -> Cause:
    if side == "paddle":
        fix = f"set stop_gradient=False on {names(silent)}, and use the parameter in the paddle model's forward"
        return Cause(Category.FROZEN_PARAMETER, "frozen", 0.9, evidence, fix)
    fix = f"set stop_gradient=True on {names(silent)}"
    return Cause(Category.FROZEN_PARAMETER, "not_frozen", 0.9, evidence, fix)
