"""Names how each side clips its gradients, from raw and used gradients alone, and what the port does differently.

On one side used and raw gradients come from the same backward pass, so their quotient is free of noise: one factor for
all tensors is a global norm, one per tensor or group a norm of its own, and elements cut at one value a clip by value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.comparison.clip_rules import total_norm
from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace, UpdateRecord

_TORCH_EPSILON = 1e-6
_SAME_LIMIT = 1e-4
_KIND_WORDS = {
    "none": "does not clip",
    "global": "clips by the global norm",
    "per_tensor": "clips each tensor by its own norm",
    "per_group": "clips each parameter group by its own norm",
    "partial": "clips some parameters only, by their norm",
    "value": "clips each element by value",
    "scale": "scales all gradients by one constant",
}


@dataclass(frozen=True)
class ClipPattern:
    """How one side clips: its kind, the limit (max norm, value, or factor for ``scale``), the norm's order, and where.

    ``steps`` are the steps in which something was clipped, ``example`` one of them with its factor and norm.
    ``names`` are the parameters clipped where not all are; ``other_limits`` what the limit would be under other orders.
    """

    kind: str
    limit: float = 0.0
    order: float = 2.0
    steps: tuple[int, ...] = ()
    example: str = ""
    names: tuple[str, ...] = ()
    other_limits: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class _Tensor:
    """One gradient in one step: what was kept of it (``factor``), whether as a whole (``clean``), and its norm."""

    name: str
    record: UpdateRecord
    factor: float
    clean: bool
    norm: float


@dataclass(frozen=True)
class _Step:
    kind: str
    factor: float
    limit: float
    step: int
    norm: float
    names: tuple[str, ...] = ()
    tensors: tuple[_Tensor, ...] = ()


def explain_clipping(traces: Sequence[ParameterTrace], groups: Sequence[Sequence[str]] = ()) -> list[Cause]:
    """Return why paddle's used gradients are not clipped as torch's are, most likely first; empty where they are.

    ``groups`` holds the torch names of the parameters of each of paddle's groups, where it has more than one.
    """
    torch, paddle = (clip_pattern(traces, side, groups) for side in ("torch", "paddle"))
    if torch is None or paddle is None:
        return _changed_otherwise(traces)
    return rank(_compare(torch, paddle))


def clip_pattern(
    traces: Sequence[ParameterTrace], side: str, groups: Sequence[Sequence[str]] = ()
) -> ClipPattern | None:
    """Return how ``side`` clips over all steps; None where its used gradients follow no pattern that is known here."""
    records: dict[int, list[tuple[ParameterTrace, UpdateRecord]]] = {}
    for trace in traces:
        for record in trace.torch if side == "torch" else trace.paddle:
            if record.gradient is not None and record.used is not None and np.any(record.gradient):
                records.setdefault(record.step, []).append((trace, record))
    steps = [_step(step, found, groups, side) for step, found in sorted(records.items())]
    if any(step is None for step in steps):
        return None
    known = [step for step in steps if step is not None]
    clipped = [step for step in known if step.kind != "none"]
    if not clipped:
        return ClipPattern("none")
    return _over_steps(known, clipped, side)


def _tensor(trace: ParameterTrace, record: UpdateRecord) -> _Tensor:
    raw, used = _wide(record.gradient), _wide(record.used)
    square = float(raw @ raw)
    factor = float(raw @ used) / square if square else 1.0
    left = float(np.linalg.norm(used - factor * raw))
    clean = left <= _tolerance(trace.dtype) * float(np.linalg.norm(used)) or left == 0.0
    return _Tensor(trace.torch_name, record, factor, clean, record.norm)


def _tolerance(dtype: str) -> float:
    return 1e-10 if dtype == "float64" else 1e-5


def _step(
    step: int,
    records: Sequence[tuple[ParameterTrace, UpdateRecord]],
    groups: Sequence[Sequence[str]],
    side: str,
) -> _Step | None:
    """Return how one step's gradients were clipped."""
    tensors = tuple(_tensor(trace, record) for trace, record in records)
    near = max(_tolerance(trace.dtype) for trace, _ in records)
    norm = float(np.linalg.norm([tensor.norm for tensor in tensors]))
    if not all(tensor.clean for tensor in tensors):
        limit = max(float(np.max(np.abs(_wide(tensor.record.used)))) for tensor in tensors)
        cut = all(_same(_wide(t.record.used), np.clip(_wide(t.record.gradient), -limit, limit), near) for t in tensors)
        return _Step("value", 1.0, limit, step, norm, (), tensors) if cut else None
    kept = [tensor for tensor in tensors if abs(tensor.factor - 1.0) <= near]
    clipped = [tensor for tensor in tensors if abs(tensor.factor - 1.0) > near]
    if not clipped:
        return _Step("none", 1.0, 0.0, step, norm, (), tensors)
    factors = [tensor.factor for tensor in clipped]
    together = max(factors) - min(factors) <= near * max(abs(factor) for factor in factors)
    if together and not kept:
        return _Step("global", factors[0], factors[0] * _with_epsilon(norm, side), step, norm, (), tensors)
    limits = [tensor.factor * _with_epsilon(tensor.norm, side) for tensor in clipped]
    if _agree(limits) and all(tensor.norm <= limits[0] * (1.0 + _SAME_LIMIT) for tensor in kept):
        return _Step("per_tensor", min(factors), limits[0], step, norm, (), tensors)
    own = _group_limit(tensors, groups, side, near)
    if own is not None:
        return _Step("per_group", min(factors), own, step, norm, (), tensors)
    if together:
        part = float(np.linalg.norm([tensor.norm for tensor in clipped]))
        rest = float(np.linalg.norm([tensor.norm for tensor in kept]))
        limit = factors[0] * _with_epsilon(part, side)
        kind = "partial" if rest > limit or not groups else "per_group"
        return _Step(kind, factors[0], limit, step, part, tuple(tensor.name for tensor in clipped), tensors)
    return _clusters(step, tensors, clipped, side, near)


def _clusters(
    step: int, tensors: tuple[_Tensor, ...], clipped: Sequence[_Tensor], side: str, near: float
) -> _Step | None:
    """Recognise groups that nobody declared: sets of equal factors whose norms lead to one limit."""
    sets: list[list[_Tensor]] = []
    for tensor in sorted(clipped, key=lambda tensor: tensor.factor):
        if sets and abs(tensor.factor - sets[-1][0].factor) <= near * abs(tensor.factor):
            sets[-1].append(tensor)
        else:
            sets.append([tensor])
    limits = [
        members[0].factor * _with_epsilon(float(np.linalg.norm([t.norm for t in members])), side) for members in sets
    ]
    if len(sets) < 2 or len(sets) == len(clipped) or not _agree(limits):
        return None
    norm = float(np.linalg.norm([tensor.norm for tensor in tensors]))
    return _Step("per_group", sets[0][0].factor, limits[0], step, norm, (), tensors)


def _group_limit(tensors: Sequence[_Tensor], groups: Sequence[Sequence[str]], side: str, near: float) -> float | None:
    """Return the one limit of all groups where each group's tensors share the factor that its own norm gives."""
    if len(groups) < 2:
        return None
    limits, free = [], []
    for names in groups:
        members = [tensor for tensor in tensors if tensor.name in set(names)]
        if not members:
            continue
        norm = float(np.linalg.norm([tensor.norm for tensor in members]))
        factors = [tensor.factor for tensor in members]
        if max(factors) - min(factors) > near:
            return None
        if abs(factors[0] - 1.0) <= near:
            free.append(norm)
        else:
            limits.append(factors[0] * _with_epsilon(norm, side))
    if not limits or not _agree(limits) or any(norm > limits[0] * (1.0 + _SAME_LIMIT) for norm in free):
        return None
    return limits[0]


def _over_steps(known: Sequence[_Step], clipped: Sequence[_Step], side: str) -> ClipPattern | None:
    """Join the steps of one side into one pattern."""
    first = clipped[0]
    if any(step.kind != first.kind for step in clipped):
        return None
    steps = tuple(step.step for step in clipped)
    example = f"step {first.step}: factor {first.factor:.6g} at an L2 norm of {first.norm:.6g}"
    if first.kind == "value":
        return ClipPattern(
            "value",
            max(step.limit for step in clipped),
            steps=steps,
            example=f"step {first.step}: largest element {first.limit:.6g}",
        )
    limits = [step.limit for step in clipped]
    if first.kind == "global":
        factors = [step.factor for step in known]
        constant = len(factors) > 1 and max(factors) - min(factors) <= 1e-5 * max(map(abs, factors))
        varied = max(step.norm for step in known) > 1.001 * min(step.norm for step in known)
        if (constant and varied) or any(step.factor > 1.0 + _SAME_LIMIT for step in clipped):
            return ClipPattern("scale", first.factor, steps=steps, example=example) if constant else None
        others = tuple(_other_orders(clipped, side))
        if len(limits) > 1 and not _agree(limits):
            order, limit = next(iter(others), (2.0, 0.0))
            return ClipPattern("global", limit, order, steps, example) if others else None
        return ClipPattern("global", float(np.median(limits)), 2.0, steps, example, (), others)
    if not _agree(limits) or any(tensor.factor > 1.0 + _SAME_LIMIT for step in clipped for tensor in step.tensors):
        return None
    names = first.names if first.kind == "partial" else ()
    return ClipPattern(first.kind, float(np.median(limits)), 2.0, steps, example, names)


def _other_orders(clipped: Sequence[_Step], side: str) -> Iterator[tuple[float, float]]:
    """Yield (order, limit) of each other norm under which all steps have one limit; none for sampled gradients."""
    whole = all(
        abs(float(np.linalg.norm(_wide(t.record.gradient))) - t.norm) <= 1e-6 * t.norm
        for s in clipped
        for t in s.tensors
    )
    for order in (1.0, float("inf")) if whole else ():
        norms = [total_norm((_wide(t.record.gradient) for t in step.tensors), order) for step in clipped]
        limits = [step.factor * _with_epsilon(norm, side) for step, norm in zip(clipped, norms, strict=True)]
        if _agree(limits):
            yield order, float(np.median(limits))


def _with_epsilon(norm: float, side: str) -> float:
    return norm + _TORCH_EPSILON if side == "torch" else norm


def _agree(limits: Sequence[float]) -> bool:
    return max(limits) - min(limits) <= _SAME_LIMIT * max(abs(limit) for limit in limits)


def _same(actual: npt.NDArray[np.float64], expected: npt.NDArray[np.float64], near: float) -> bool:
    return bool(np.all(np.abs(actual - expected) <= near * np.maximum(np.abs(expected), np.finfo(np.float32).tiny)))


def _wide(array: np.ndarray | None) -> npt.NDArray[np.float64]:
    return np.asarray(array, dtype=np.float64).reshape(-1)


def _compare(torch: ClipPattern, paddle: ClipPattern) -> list[Cause]:
    if torch.kind == paddle.kind:
        return [] if torch.kind == "none" else _other_limit(torch, paddle)
    evidence = f"torch {_told(torch)}; paddle {_told(paddle)}"
    if "scale" in (torch.kind, paddle.kind):
        factor = paddle.limit if paddle.kind == "scale" else 1.0
        fix = (
            "scale the gradients as torch does: divide the loss by the number of accumulated batches once, and "
            "nothing after backward that torch does not have"
        )
        return [
            Cause(
                Category.GRADIENT_ACCUMULATION,
                "scaled_after_backward",
                0.85,
                f"{evidence} (paddle / raw {factor:.6g})",
                fix,
            )
        ]
    code, words = _CODES[paddle.kind]
    if torch.kind == "none":
        fix = "torch does not clip: remove grad_clip=... from the paddle optimizer, clip_grad_norm_ from after_backward"
        return [Cause(Category.GRADIENT_CLIPPING, "clip_added", 0.95, evidence, fix)]
    missing = paddle.kind == "none"
    confidence = 0.9 if missing else 0.95
    return [Cause(Category.GRADIENT_CLIPPING, code, confidence, evidence, f"{words}{_remedy(torch)}")]


def _changed_otherwise(traces: Sequence[ParameterTrace]) -> list[Cause]:
    """Return what no clip does: gradients that paddle multiplies between backward and the update, and torch does not, in the
    first step where there are any; empty where they are changed by more than a factor.
    """
    changed: dict[int, dict[float, list[str]]] = {}
    for trace in traces:
        for ours, theirs in zip(trace.torch, trace.paddle, strict=False):
            if ours.step != theirs.step or any(each.gradient is None or each.used is None for each in (ours, theirs)):
                continue
            torch, paddle = _tensor(trace, ours), _tensor(trace, theirs)
            if not (torch.clean and paddle.clean):
                return []
            factor = paddle.factor / torch.factor if torch.factor else float("inf")
            if abs(factor - 1.0) > 10 * _SAME_LIMIT:
                changed.setdefault(ours.step, {}).setdefault(float(f"{factor:.4g}"), []).append(trace.torch_name)
    if not changed:
        return []
    step = min(changed)
    told = "; ".join(
        f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} by {factor:g} times what torch does"
        for factor, names in changed[step].items()
    )
    return [
        Cause(
            Category.GRADIENT_CLIPPING,
            "changed_before_update",
            0.9,
            f"at step {step} paddle multiplies gradients between backward and the update: {told}; no clip does that",
            "have the after_backward of both sides do the same to these gradients",
        )
    ]


_CODES: dict[str, tuple[str, str]] = {
    "none": ("missing", "clip on paddle too (the limit may also be set too high to act): "),
    "global": ("by_global_norm", "clip as torch does: "),
    "per_tensor": ("per_tensor", "ClipGradByNorm clips each tensor by itself: "),
    "per_group": (
        "per_group",
        "ClipGradByGlobalNorm acts within each parameter group: clip before step() over all parameters, ",
    ),
    "partial": ("only_some_parameters", "set need_clip=True on all parameters, or give all of them to the call: "),
    "value": ("by_value", "ClipGradByValue cuts elements, not the norm: "),
}


def _remedy(torch: ClipPattern) -> str:
    """Say what paddle needs to clip as torch does."""
    if torch.kind == "value":
        return f"paddle.nn.utils.clip_grad_value_(parameters, {torch.limit:.6g}) in after_backward"
    if torch.kind == "per_tensor":
        return f"grad_clip=paddle.nn.ClipGradByNorm(clip_norm={torch.limit:.6g}) in the paddle optimizer"
    written = "float('inf')" if np.isinf(torch.order) else f"{torch.order:g}"
    order = "" if torch.order == 2.0 else f", norm_type={written}"
    call = f"paddle.nn.utils.clip_grad_norm_(parameters, max_norm={torch.limit:.6g}{order}) in after_backward"
    if torch.order == 2.0:
        call += f", or with a single group grad_clip=paddle.nn.ClipGradByGlobalNorm(clip_norm={torch.limit:.6g})"
    return call


def _told(pattern: ClipPattern) -> str:
    words = _KIND_WORDS[pattern.kind]
    if pattern.kind == "none":
        return words
    order = "" if pattern.order == 2.0 else f" (L{pattern.order:g})"
    names = f" ({', '.join(pattern.names[:3])}{', ...' if len(pattern.names) > 3 else ''})" if pattern.names else ""
    return f"{words}{order}, limit {pattern.limit:.6g}{names} ({pattern.example})"


def _other_steps(torch: ClipPattern, paddle: ClipPattern) -> list[Cause]:
    """Return that one of two like clips does not act at a step at which the other one does."""
    apart = sorted({*torch.steps} ^ {*paddle.steps})
    if not apart:
        return []
    acting, idle = ("torch", "paddle") if apart[0] in torch.steps else ("paddle", "torch")
    words = f"each side {_KIND_WORDS[torch.kind]}, limit {torch.limit:.6g}"
    evidence = f"{words}; at step {apart[0]} {acting} clips and {idle} does not"
    fix = "clip at every update at which torch does: look for a condition or a counter around the clip of either side"
    return [Cause(Category.GRADIENT_CLIPPING, "other_steps", 0.85, evidence, fix)]


def _other_limit(torch: ClipPattern, paddle: ClipPattern) -> list[Cause]:
    """Compare two patterns of one kind: order of the norm, which parameters, then limit and steps."""
    evidence = f"torch {_told(torch)}; paddle {_told(paddle)}"
    nearer = any(abs(limit - torch.limit) <= 10 * _SAME_LIMIT * torch.limit for _, limit in paddle.other_limits)
    if torch.order != paddle.order or (nearer and abs(torch.limit - paddle.limit) > 10 * _SAME_LIMIT * torch.limit):
        return [Cause(Category.GRADIENT_CLIPPING, "norm_type", 0.93, evidence, _remedy(torch))]
    if torch.kind == "partial" and set(torch.names) != set(paddle.names):
        return [Cause(Category.GRADIENT_CLIPPING, "only_some_parameters", 0.9, evidence, _remedy(torch))]
    if abs(torch.limit - paddle.limit) <= 10 * _SAME_LIMIT * max(torch.limit, paddle.limit):
        return _other_steps(torch, paddle)
    if torch.kind == "scale":
        fix = "scale the gradients by torch's factor"
        return [Cause(Category.GRADIENT_ACCUMULATION, "scaled_after_backward", 0.85, evidence, fix)]
    code = {"value": "clip_value"}.get(torch.kind, "max_norm")
    return [Cause(Category.GRADIENT_CLIPPING, code, 0.95, evidence, _remedy(torch))]
