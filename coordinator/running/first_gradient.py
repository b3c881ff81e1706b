"""Finds, in what both sides recorded of one step, the first gradient of an output that differs or that one side lacks."""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np

from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.diagnosis.wording import number
from stepalign.coordinator.running.activation_names import is_output, module_of
from stepalign.coordinator.running.recorded_step import RecordedStep, largest
from stepalign.protocol.messages import Named

_GRAD = "@grad"
_NOISE_SHARE = 1e-6
"""Of the greatest gradient of an output: what is below is rounding."""


def first_gradient(keys: List[str], record: RecordedStep) -> Optional[Tuple[Comparison, str]]:
    """Return the first gradient, from the loss back, of the outputs among ``keys`` that differs; else None.

    Second comes the side where nothing flows back to the output, if that is the difference, or else an empty text.
    """
    scale = max((largest(array) for key, array in record.torch.items() if key.endswith(_GRAD)), default=0.0)
    for side, key in _gradients(keys, record):
        if side:
            silence = _silence(side, key, scale, record)
            if silence is not None:
                same = [other for lacking, other in _gradients(keys, record) if lacking == side and _same(key, other, record)]
                outermost = min(same, key=lambda other: (module_of(other).count("."), len(module_of(other))))
                return _silence(side, outermost, scale, record) or silence, side
            continue
        item = record.comparisons[key]
        if not item.passed and item.measures is not None and item.measures.max_abs > _NOISE_SHARE * scale:
            return item, ""
    return None


def _same(key: str, other: str, record: RecordedStep) -> bool:
    """Say whether the gradients of two outputs that one side has are of one tensor, which one module hands on."""
    return bool(np.array_equal(record.torch[key.partition("@")[0]], record.torch[other.partition("@")[0]]))


def _gradients(keys: List[str], record: RecordedStep) -> Iterator[Tuple[str, str]]:
    """Yield torch's names of the gradients of a stretch's outputs from the loss back, each with the side that lacks it.

    What only paddle has comes after what paddle computed before it; its name is that of torch's output.
    """
    outputs = [key for key in keys if is_output(key) and key in record.comparisons]
    backward = {record.partner(f"{key}{_GRAD}"): f"{key}{_GRAD}" for key in outputs}
    alone: Dict[str, List[str]] = {}
    before = ""
    for there in record.paddle:
        key = backward.get(there)
        if key is None:
            continue
        if key in record.torch:
            before = key
        else:
            alone.setdefault(before, []).append(key)
    yield from (("torch", key) for key in alone.get("", ()))
    for key in keys:
        if not key.endswith(_GRAD):
            continue
        if key in record.comparisons:
            yield "", key
        elif key in backward.values():
            yield "paddle", key
        yield from (("torch", other) for other in alone.get(key, ()))


def _silence(side: str, key: str, scale: float, record: RecordedStep) -> Optional[Comparison]:
    """Return that nothing flows back to an output on one side; None where that is noise, or cannot be told.

    A module that is run again in the backward pass has its gradients at another call: then both sides have as many.
    """
    there = record.partner(key)
    ours, theirs = _calls(record.torch, key), _calls(record.paddle, there)
    gradient, more, fewer = (record.torch[key], ours, theirs) if side == "paddle" else (record.paddle[there], theirs, ours)
    output = record.comparisons[key.partition("@")[0]]
    if not output.passed or largest(gradient) <= _NOISE_SHARE * scale or fewer >= more:
        return None
    other = "torch" if side == "paddle" else "paddle"
    reason = f"{other}'s gradient there is up to {number(largest(gradient))}"
    return Comparison(output.step, "activation", key, there, False, reason=reason)


def _calls(arrays: Named, key: str) -> int:
    """Return to how many calls of a module a gradient flows back, at the same part of what it returns."""
    return sum(other.endswith(_GRAD) and _place(other) == _place(key) for other in arrays)


def _place(key: str) -> Tuple[str, str]:
    return module_of(key), key.partition("@")[0].partition(":")[2]
