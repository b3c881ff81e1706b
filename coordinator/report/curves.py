"""The curves of a report as plain lists: losses, rates and how far they are apart, with what is allowed.

Guarantees: at most `ROOM` points a chart; thinning keeps the peaks and dips of every curve drawn, the first and the
last step and those that matter; what is not finite is None, a gap, and is counted in words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.languages.translation import message, say
from stepalign.coordinator.report.rows import group_count, step_count
from stepalign.coordinator.report.steps_sample import StepsSample
from stepalign.coordinator.results.records import from_strict_number
from stepalign.coordinator.results.result import Result

ROOM = 1600
SHOWN_GROUPS = 6
_DIGITS = 9

Floats = npt.NDArray[np.float64]


def chart_data(result: Result, sample: StepsSample, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of those charts there are: ``loss``, ``loss_difference``, ``rates``, ``rate_difference``.

    ``details`` is what details.json holds: the measured noise.
    """
    series = result.series
    count = step_count(series)
    place = result.first_divergence
    data: dict[str, Any] = {
        "diverged_at": None if place is None else place.step,
        "diverged_kind": None if place is None else place.kind,
        "diverged_tensor": None if place is None else place.torch_name,
        "last_step": max(0, count - 1),
        "notes": {},
    }
    torch, paddle = _floats(series.loss_torch, count), _floats(series.loss_paddle, count)
    if series.loss_torch or series.loss_paddle:
        difference = relative_difference(torch, paddle)
        steps = thin([torch, paddle, difference], _marks(result))
        data["loss"] = {"steps": steps, "torch": _listed(torch, steps), "paddle": _listed(paddle, steps)}
        data["loss_difference"] = {
            "steps": steps,
            "difference": _listed(difference, steps, positive=True),
            **_allowed(result, sample, "loss"),
            **_drift(sample),
            **_noise(details, torch),
        }
        data["notes"]["loss"] = [
            *_nonfinite_notes(("torch", series.loss_torch), ("paddle", series.loss_paddle)),
            *_thinned_note(steps, count),
        ]
        data["notes"]["loss_difference"] = _equal_note(difference, message("losses"))
    if series.lr_torch or series.lr_paddle:
        _add_rates(data, result, count)
        data.get("rate_difference", {}).update(_allowed(result, sample, "lr"))
    return data


def relative_difference(torch: Floats, paddle: Floats) -> Floats:
    """Compute |torch - paddle| / |torch| by step, [steps]: 0 where both are the same, NaN where it has no value."""
    with np.errstate(all="ignore"):
        relative = np.abs(torch - paddle) / np.abs(torch)
    relative[torch == paddle] = 0.0
    return relative


def thin(curves: Sequence[Floats], marks: Iterable[int] = (), room: int = ROOM) -> list[int]:
    """Choose the steps to draw: all up to ``room``, else the peak and the dip of each curve in equal buckets."""
    count = max(map(len, curves))
    if count <= room:
        return list(range(count))
    chosen = {0, count - 1, *(mark for mark in marks if 0 <= mark < count)}
    edges = np.linspace(0, count, max(1, room // (2 * len(curves))) + 1).astype(int)
    for curve in curves:
        peaks, dips = np.nan_to_num(curve, nan=-np.inf), np.nan_to_num(curve, nan=np.inf)
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist()):
            chosen.add(start + int(np.argmax(peaks[start:stop])))
            chosen.add(start + int(np.argmin(dips[start:stop])))
    return sorted(chosen)


def _add_rates(data: dict[str, Any], result: Result, count: int) -> None:
    series = result.series
    groups = group_count(series)
    merged: dict[bytes, list[int]] = {}
    pairs = {}
    for group in range(groups):
        torch, paddle = (
            _floats((rates[group] if rates and group < len(rates) else None for rates in side), count)
            for side in (series.lr_torch, series.lr_paddle)
        )
        key = torch.tobytes() + paddle.tobytes()
        merged.setdefault(key, []).append(group)
        pairs[key] = (torch, paddle)
    shown = list(merged)[:SHOWN_GROUPS]
    if not shown:
        return
    differences = {key: relative_difference(*pairs[key]) for key in pairs}
    steps = thin([curve for key in shown for curve in (*pairs[key], differences[key])], _marks(result))
    data["rates"] = {
        "steps": steps,
        "groups": [
            {
                "label": _group_label(merged[key], groups),
                "torch": _listed(pairs[key][0], steps),
                "paddle": _listed(pairs[key][1], steps),
            }
            for key in shown
        ],
    }
    furthest = _furthest(list(differences.values()))
    if np.any(furthest > 0):
        data["rate_difference"] = {"steps": steps, "difference": _listed(furthest, steps, positive=True)}
    data["notes"]["rates"] = [
        *([] if len(merged) <= SHOWN_GROUPS else [say(f"{len(merged) - SHOWN_GROUPS} more curves are not drawn.")]),
        *([] if np.any(furthest != 0) else [say(f"All rates are the same to the last bit at each of {count} steps.")]),
        *_thinned_note(steps, count),
    ]


def _furthest(differences: Sequence[Floats]) -> Floats:
    stacked = np.stack(differences)
    furthest: Floats = np.where(np.isnan(stacked), -np.inf, stacked).max(axis=0)
    furthest[np.isneginf(furthest)] = np.nan
    return furthest


def _group_label(groups: Sequence[int], count: int) -> str:
    if count == 1:
        return ""
    if len(groups) == 1:
        return say(f"group {groups[0]}")
    if list(groups) == list(range(groups[0], groups[-1] + 1)):
        return say(f"groups {groups[0]} to {groups[-1]}")
    listed = ", ".join(map(str, groups[:4])) + (", ..." if len(groups) > 4 else "")
    return say(f"groups {listed}")


def _allowed(result: Result, sample: StepsSample, kind: str) -> dict[str, Any]:
    """Return what was allowed of ``kind``, relative to torch, at the sampled steps; without those, over the run."""
    steps, allowed = [], []
    for line in sample.lines:
        value = _relative_allowance(_entry(line, kind))
        if value is not None:
            steps.append(line["step"])
            allowed.append(value)
    if not steps:
        place = result.first_divergence
        at_place = vars(place) if place is not None and place.kind == kind else None
        value = _relative_allowance(result.worst.get(kind)) or _relative_allowance(at_place)
        if value is None:
            return {}
        steps, allowed = [0, max(1, step_count(result.series) - 1)], [value, value]
    return {"allowed_steps": steps, "allowed": allowed}


def _entry(line: dict[str, Any], kind: str) -> Any:
    worst = line.get("worst")
    return worst.get(kind) if isinstance(worst, dict) else None


def _relative_allowance(entry: Any) -> float | None:
    if not isinstance(entry, dict):
        return None
    try:
        torch = abs(from_strict_number(entry["torch"]))
        value = from_strict_number(entry["rtol"]) + from_strict_number(entry["atol"]) / torch
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    return _rounded(value) if value > 0 else None


def _drift(sample: StepsSample) -> dict[str, Any]:
    steps, drift = [], []
    for line in sample.lines:
        try:
            value = from_strict_number(line.get("drift"))
        except ValueError:
            continue
        if value > 0 and math.isfinite(value):
            steps.append(line["step"])
            drift.append(_rounded(value))
    return {"drift_steps": steps, "drift": drift} if steps else {}


def _noise(details: Mapping[str, Any], torch: Floats) -> dict[str, Any]:
    """Return the control's differences, torch against itself, relative to torch's losses, where they were measured."""
    noise = details.get("noise")
    measured = noise.get("loss") if isinstance(noise, Mapping) else None
    relative = np.full(len(torch), np.nan)
    for step, size in measured or ():
        if 0 <= step < len(torch) and torch[step] and size > 0:
            relative[step] = size / abs(torch[step])
    steps = [step for step in thin([relative]) if not math.isnan(relative[step])] if len(torch) else []
    return {"noise_steps": steps, "noise": _listed(relative, steps)} if steps else {}


def _nonfinite_notes(*sides: tuple[str, Sequence[float | None]]) -> list[str]:
    notes = []
    for side, losses in sides:
        steps = [step for step, loss in enumerate(losses) if loss is not None and not math.isfinite(loss)]
        if steps:
            notes.append(say(f"{side}: not finite at {len(steps)} of {len(losses)} steps, first at step {steps[0]}."))
    return notes


def _thinned_note(steps: Sequence[int], count: int) -> list[str]:
    if len(steps) == count:
        return []
    return [say(f"{len(steps)} of {count} steps are drawn, with the peaks and dips of every curve.")]


def _equal_note(difference: Floats, what: str) -> list[str]:
    equal = int(np.count_nonzero(difference == 0))
    if not equal:
        return []
    count = len(difference)
    return [
        say(f"The {what} are the same to the last bit at {equal} of {count} steps: a log scale has no place for 0.")
    ]


def _marks(result: Result) -> list[int]:
    if result.first_divergence is None:
        return []
    step = result.first_divergence.step
    return [step - 1, step, step + 1]


def _floats(values: Iterable[float | None], count: int) -> Floats:
    known = (math.nan if value is None else value for value in values)
    return np.fromiter(itertools.chain(known, itertools.repeat(math.nan)), np.float64, count)


def _listed(values: Floats, steps: Sequence[int], positive: bool = False) -> list[float | None]:
    return [
        _rounded(value) if math.isfinite(value) and (value > 0 or not positive) else None
        for value in values[list(steps)].tolist()
    ]


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
