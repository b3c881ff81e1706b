"""Explains losses that differ though every module's output agrees: by torch's formula, and what makes it paddle's.

The step's batch and each side's own outputs are put through common losses. A formula counts as a side's own only if it
gives the side's loss to rounding; a cause is the one setting, or the two, in which the sides' formulas differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.diagnosis.cause import Category, Cause
from stepalign.coordinator.diagnosis.gradients.output_gradients import GRADIENT, compare_output_gradients
from stepalign.coordinator.diagnosis.loss.contrastive_readings import contrastive_readings
from stepalign.coordinator.diagnosis.loss.loss_readings import LARGEST_OUTPUT, Knob, Reading, readings, scaled_readings
from stepalign.coordinator.diagnosis.loss.loss_wording import fix_of, shown
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.wording import number
from stepalign.coordinator.results.result import KnownDifference

_ROUNDING = {"float32": 3e-6, "float64": 2e-7}
_SHARE_OF_DIFFERENCE = 0.1
_SHARPEST_KNOB = 1e-3
_ROOT = "<model>"
_PAIR = "loss, output, target"


@dataclass(frozen=True)
class LossSite:
    """What one step's losses were computed from: outputs by torch's name, the batch, and both losses, 0-d.

    ``torch`` and ``paddle`` hold the outputs of the model, or of the module that ran last if the loss calls parts, and
    under ``<output>@grad`` the gradients of the loss with respect to them, where there are any.
    """

    torch: Mapping[str, npt.NDArray[np.generic]]
    paddle: Mapping[str, npt.NDArray[np.generic]]
    batch: Mapping[str, npt.NDArray[np.generic]]
    losses: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]


@dataclass(frozen=True)
class _Match:
    """A reading that gives a side's loss; ``residual`` is relative; ``solved`` if a knob was turned to make it fit."""

    reading: Reading
    residual: float
    solved: bool = False

    @property
    def parts(self) -> dict[str, str]:
        reading = self.reading
        return {_PAIR: f"{reading.loss}|{reading.output}|{reading.target}", **reading.settings}


_Pair = tuple[_Match, _Match]


def explain_loss_formula(site: LossSite) -> list[Cause]:
    """Return the causes of losses that differ under equal outputs, most likely first; never empty."""
    torch, paddle = _matches(site)
    pairs = _closest(torch, paddle)
    causes = []
    for pair in pairs:
        differing = _differing(pair)
        sure = 0.97 if len(differing) == 1 else 0.6
        if any(match.solved for match in pair):
            sure -= 0.03
        if len({tuple(sorted(_differing(other))) for other in pairs}) > 1:
            sure -= 0.15
        causes += [_cause(aspect, pair, round(sure, 2), site) for aspect in differing]
    return rank(causes) if causes else [_unknown(site, torch, paddle)]


def softmax_clipping(site: LossSite) -> Optional[KnownDifference]:
    """Recognise losses that differ only in that paddle's kernels on the CPU raise shifted logits to -64."""
    for torch, paddle in _closest(*_matches(site)):
        clipped = (torch.parts.get("logits"), paddle.parts.get("logits")) == (None, "clipped")
        if clipped and _differing((torch, paddle)) == ["logits"]:
            return KnownDifference(
                "softmax_clipping",
                "loss",
                f"torch's loss {number(float(site.losses[0]))} is the {shown(torch.reading)}, paddle's "
                f"{number(float(site.losses[1]))} the same with max(logit - greatest logit, -64); residuals "
                f"{torch.residual:.1g} and {paddle.residual:.1g}",
            )
    return None


def _matches(site: LossSite) -> tuple[list[_Match], list[_Match]]:
    values = float(site.losses[0]), float(site.losses[1])
    if not np.isfinite(values).all():
        return [], []
    gap = abs(values[0] - values[1])
    tolerances = []
    for loss, value in zip(site.losses, values, strict=True):
        rounding = _ROUNDING.get(loss.dtype.name)
        if rounding is None:
            return [], []
        tolerances.append(min(rounding * abs(value), _SHARE_OF_DIFFERENCE * gap))
    sides = list(zip((_stacked(site.torch), _stacked(site.paddle)), values, tolerances, strict=True))
    found = [
        _fitting([*readings(outputs, site.batch), *contrastive_readings(outputs)], value, allowed)
        for outputs, value, allowed in sides
    ]
    if not all(found):
        for side, (outputs, value, allowed) in enumerate(sides):
            found[side] += _fitting(scaled_readings(outputs, site.batch), value, allowed)
    return found[0], found[1]


def _stacked(outputs: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the outputs, and those of several calls also joined along their first axis: micro-batches."""
    found = {key: array for key, array in outputs.items() if "@" not in key}
    for key, first in list(found.items()):
        calls = [
            first,
            *(
                array
                for other, array in outputs.items()
                if other.startswith(f"{key}#") and other[len(key) + 1 :].isdigit()
            ),
        ]
        if "#" not in key and len(calls) > 1 and first.ndim and len({array.shape[1:] for array in calls}) == 1:
            found[f"{key} ({len(calls)} calls)"] = np.concatenate(calls)
    return found


def _fitting(all_readings: Sequence[Reading], value: float, allowed: float) -> list[_Match]:
    found = []
    for reading in all_readings:
        residual = abs(reading.value - value)
        if residual <= allowed:
            found.append(_Match(reading, residual / abs(value)))
            continue
        for knob in reading.knobs:
            turned = _turned(knob, value - reading.value, allowed)
            if turned is not None:
                setting = {knob.aspect: _turned_shown(knob, turned)}
                solved = replace(reading, value=value, settings={**reading.settings, **setting})
                left = abs(reading.value + (turned - knob.plain) * knob.slope - value)
                found.append(_Match(solved, left / abs(value), solved=True))
    return found


def _turned(knob: Knob, change: float, allowed: float) -> Optional[float]:
    """Return the round number, or the hint, at which the knob changes a loss by ``change``; None if there is none."""
    if not knob.slope or allowed / abs(knob.slope) > _SHARPEST_KNOB * max(1.0, abs(knob.plain)):
        return None
    exact, width = knob.plain + change / knob.slope, allowed / abs(knob.slope)
    if knob.aspect == "smoothing":
        share = (knob.classes - 1) / knob.classes if knob.classes > 1 else 1.0
        candidates = [round(exact, 2), round(exact * share, 2) / share] if 0.0 < exact < 1.0 else []
    else:
        candidates = [float(f"{exact:.2g}"), 1.0 / float(f"{1.0 / exact:.2g}"), *knob.hints] if exact > 0.0 else []
    return next((item for item in candidates if abs(item - exact) <= width and item != knob.plain), None)


def _turned_shown(knob: Knob, turned: float) -> str:
    """Return a knob's number; with what it is of the wrong classes alone if that, and not itself, is round."""
    if knob.aspect != "smoothing" or turned == round(turned, 2):
        return number(turned)
    others = knob.classes - 1
    return f"{number(turned)} ({number(round(turned * others / knob.classes, 2))} / {others} on each wrong class)"


def _differing(pair: _Pair) -> list[str]:
    """Return the aspects in which two formulas differ."""
    torch, paddle = pair[0].parts, pair[1].parts
    return [aspect for aspect in dict.fromkeys((*torch, *paddle)) if torch.get(aspect) != paddle.get(aspect)]


def _closest(torch: Sequence[_Match], paddle: Sequence[_Match]) -> list[_Pair]:
    """Return the pairs of formulas with the fewest differences, two at most, preferring what was not solved for."""
    scored: dict[tuple[int, bool, int], list[_Pair]] = {}
    for ours in torch:
        for theirs in paddle:
            pair = ours, theirs
            differing = len(_differing(pair))
            if 0 < differing <= 2:
                unusual = len(ours.reading.settings) + len(theirs.reading.settings)
                scored.setdefault((differing, ours.solved or theirs.solved, unusual), []).append(pair)
    return scored[min(scored)] if scored else []


_SMOOTH_L1 = ("beta", "Huber")
_CODES = {
    _PAIR: (Category.LOSS, "other_loss"),
    "smoothing": (Category.LOSS, "label_smoothing"),
    "logits": (Category.LOSS, "double_softmax"),
    "axis": (Category.LOSS, "class_axis"),
    "tokens": (Category.LOSS, "label_shift"),
    "ignored": (Category.LOSS, "ignore_index"),
    "divisor": (Category.LOSS, "reduction"),
    "factor": (Category.LOSS, "scaled"),
    "scale": (Category.LOSS, "logit_scale"),
    "form": (Category.LOSS, "loss_argument"),
    "pairing": (Category.LOSS, "broadcast_target"),
    "pos_weight": (Category.LOSS, "pos_weight"),
    "labels": (Category.DATA, "labels_shifted"),
    "directions": (Category.LOSS, "contrastive_directions"),
    "vectors": (Category.LOSS, "unit_length"),
}


def _cause(aspect: str, pair: _Pair, confidence: float, site: LossSite) -> Cause:
    """Return the cause of one aspect in which the sides' formulas differ."""
    category, code = _CODES[aspect]
    torch, paddle = pair[0].parts.get(aspect, ""), pair[1].parts.get(aspect, "")
    fix = fix_of(aspect, torch, paddle) if aspect != _PAIR else ""
    if aspect == "logits" and "softmax_first" not in (torch, paddle):
        clipped = "clipped" in (torch, paddle)
        category, code = (Category.LOSS, "softmax_clipping") if clipped else (Category.LOSS, "softmax_missing")
    elif aspect == "divisor" and {torch, paddle} == {"", "all"}:
        category, code = Category.LOSS, "ignored_labels"
    elif aspect == "form" and (torch.startswith(_SMOOTH_L1) or paddle.startswith(_SMOOTH_L1)):
        category, code = Category.LOSS, "smooth_l1_delta"
    elif aspect == "form" and "sigmoid first" in torch + paddle:
        category, code = Category.LOSS, "double_sigmoid"
    elif aspect == "labels" and "in reverse order" in (torch, paddle):
        category, code = Category.DATA, "labels_reordered"
    elif aspect == _PAIR:
        ours, theirs = pair[0].reading, pair[1].reading
        fix = f"compute the {ours.loss} of {ours.output} with {ours.target} in paddle, as torch does"
        if (ours.loss, ours.output) == (theirs.loss, theirs.output):
            category, code = Category.DATA, "other_target"
            fix = f"give paddle's loss batch[{ours.target!r}] as torch does, instead of batch[{theirs.target!r}]"
    elif aspect == "factor" and _by_calls(torch or "1", paddle or "1", _calls(pair)):
        category, code = Category.GRADIENT_ACCUMULATION, "loss_not_divided"
        fix = f"divide the loss of each of the {_calls(pair)} micro-batches by {_calls(pair)} on both sides or on none"
    return Cause(category, code, confidence, _evidence(pair, site), fix)


def _calls(pair: _Pair) -> int:
    name = pair[0].reading.output
    return int(name.rpartition("(")[2].partition(" ")[0]) if name.endswith("calls)") else 1


def _by_calls(torch: str, paddle: str, calls: int) -> bool:
    ratio = float(paddle) / float(torch)
    return calls > 1 and any(abs(ratio - expected) <= 1e-5 * expected for expected in (calls, 1.0 / calls))


def _evidence(pair: _Pair, site: LossSite) -> str:
    return "every module's output agrees; " + "; ".join(
        _fit_shown(side, match, site) for side, match in enumerate(pair)
    )


def _fit_shown(side: int, match: _Match, site: LossSite) -> str:
    value = number(float(site.losses[side]))
    return f"{('torch', 'paddle')[side]}'s loss {value} is the {shown(match.reading)} (to {match.residual:.0e})"


def _unknown(site: LossSite, torch: Sequence[_Match], paddle: Sequence[_Match]) -> Cause:
    """Return what can be said where no common formula gives both losses."""
    values = [number(float(loss)) for loss in site.losses]
    known = [_fit_shown(side, matches[0], site) for side, matches in enumerate((torch, paddle)) if matches]
    said = known if len(known) == 1 else [f"torch's loss is {values[0]}, paddle's {values[1]}"]
    if len(known) == 1:
        said.append(f"{'paddle' if torch else 'torch'}'s, {values[1 if torch else 0]}, is none of the common formulas")
    large = [name for name, output in site.torch.items() if "@" not in name and output.size > LARGEST_OUTPUT]
    if large:
        said.append(f"{', '.join(large)} is too large to try formulas on (more than {LARGEST_OUTPUT} elements)")
    gradients = compare_output_gradients(site.torch, site.paddle, site.batch)
    said += [gradients.evidence] if gradients is not None else []
    tells = gradients is not None and gradients.tells
    return Cause(
        Category.LOSS,
        "loss_function",
        0.7 if tells else 0.6 if len(known) == 1 else 0.5,
        "every module's output agrees, so the mistake is in the loss function or in what it does with the batch; "
        + "; ".join(said),
        gradients.fix
        if gradients is not None and tells
        else "compare the two loss(model, batch) functions: terms, weights, labels, masks, reduction",
    )


def loss_outputs(recorded: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return the outputs that a loss is most likely computed from, the model's own, else the last module's; with gradients."""
    outputs = {key: array for key, array in recorded.items() if "@" not in key}
    root = {key: array for key, array in outputs.items() if key.startswith(_ROOT)}
    chosen = root or dict(list(outputs.items())[-1:])
    gradients = {f"{key}{GRADIENT}" for key in chosen}
    return {**chosen, **{key: array for key, array in recorded.items() if key in gradients}}
