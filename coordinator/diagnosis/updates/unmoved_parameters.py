"""Parameters that move on one side only: frozen, forgotten by the optimizer, or pushed by a gradient of zeros."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace, UpdateRecord, describe


def explain_unmoved(traces: Sequence[ParameterTrace]) -> tuple[list[Cause], set[str]]:
    """Return causes for parameters that only one side updates, and the torch names that these causes are about.

    A parameter counts as unmoved on a side when none of its records changes a single element.
    """
    groups: dict[Callable[[list[ParameterTrace], Sequence[ParameterTrace]], Cause], list[ParameterTrace]] = {}
    for trace in traces:
        wording = _kind(trace)
        if wording is not None:
            groups.setdefault(wording, []).append(trace)
    causes = [wording(members, traces) for wording, members in groups.items()]
    return causes, {trace.torch_name for members in groups.values() for trace in members}


def _kind(trace: ParameterTrace) -> Callable[[list[ParameterTrace], Sequence[ParameterTrace]], Cause] | None:
    if not trace.torch or not trace.paddle:
        return None
    torch_moves = [record.moved for record in trace.torch]
    paddle_moves = [record.moved for record in trace.paddle]
    if any(torch_moves) and not any(paddle_moves):
        if all(_has_no_gradient(record) for record in trace.paddle) and not all(
            _has_no_gradient(r) for r in trace.torch
        ):
            return _no_gradient
        keeps_state = any(record.state_after for record in trace.torch)
        if keeps_state and not any(record.state_after for record in trace.paddle):
            return _not_in_optimizer
        return _not_updated
    pairs = list(zip(trace.torch, trace.paddle))
    if any(
        ours.gradient is None and not ours.moved and theirs.moved and _has_no_gradient(theirs) for ours, theirs in pairs
    ):
        return _moved_by_zeros
    if any(paddle_moves) and not any(torch_moves) and all(_has_no_gradient(record) for record in trace.torch):
        return _frozen_in_torch
    return None


def _has_no_gradient(record: UpdateRecord) -> bool:
    return record.gradient is None or not np.any(record.gradient)


def _steps(traces: Sequence[ParameterTrace]) -> str:
    count = max(len(trace.paddle) for trace in traces)
    return f"{count} step" if count == 1 else f"{count} steps"


def _no_gradient(some: list[ParameterTrace], every: Sequence[ParameterTrace]) -> Cause:
    return Cause(
        Category.FROZEN_PARAMETER,
        "no_gradient",
        0.95,
        f"{describe(some, every)}: no gradient and no update in {_steps(some)} on paddle, torch updates them",
        "set stop_gradient=False on these parameters, and keep their outputs out of paddle.no_grad() and detach()",
    )


def _not_in_optimizer(some: list[ParameterTrace], every: Sequence[ParameterTrace]) -> Cause:
    return Cause(
        Category.FROZEN_PARAMETER,
        "not_in_optimizer",
        0.95,
        f"{describe(some, every)}: a gradient but no optimizer state and no update in {_steps(some)} on paddle",
        "give these parameters to the paddle optimizer: parameters=model.parameters()",
    )


def _not_updated(some: list[ParameterTrace], every: Sequence[ParameterTrace]) -> Cause:
    return Cause(
        Category.FROZEN_PARAMETER,
        "not_updated",
        0.93,
        f"{describe(some, every)}: a gradient but no update in {_steps(some)} on paddle, torch updates them",
        "give them to the paddle optimizer (parameters=model.parameters()) with a rate multiplier that is not 0",
    )


def _frozen_in_torch(some: list[ParameterTrace], every: Sequence[ParameterTrace]) -> Cause:
    return Cause(
        Category.FROZEN_PARAMETER,
        "updated_though_frozen",
        0.95,
        f"{describe(some, every)}: paddle updates what torch leaves as it is in {_steps(some)}",
        "set stop_gradient=True on these parameters, or leave them out of the paddle optimizer's parameters",
    )


def _moved_by_zeros(some: list[ParameterTrace], every: Sequence[ParameterTrace]) -> Cause:
    return Cause(
        Category.OPTIMIZER,
        "zero_gradient_update",
        0.93,
        f"{describe(some, every)}: no gradient in torch and no update, a gradient of zeros on paddle that moves them",
        "call optimizer.clear_grad(set_to_zero=False) in paddle: its default leaves zeros, torch's zero_grad() None",
    )
