"""Puts together why a run diverged: declared differences, then what the numbers of the first divergence say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Iterable, List, Mapping, Optional, Sequence

import numpy as np

from stepalign.coordinator.comparison.average_judge import held_by_an_optimizer
from stepalign.coordinator.comparison.comparison import AS_USED, Comparison
from stepalign.coordinator.comparison.rates import pair_groups
from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.declared import layer_differences
from stepalign.coordinator.diagnosis.declared.declared_parameters import declared_parameters
from stepalign.coordinator.diagnosis.gradients.gradient_flow import explain_flow
from stepalign.coordinator.diagnosis.gradients.output_gradients import explain_module_gradient
from stepalign.coordinator.diagnosis.loss.loss_formula import LossSite, explain_loss_formula
from stepalign.coordinator.diagnosis.modules.input_causes import explain_input
from stepalign.coordinator.diagnosis.modules.mask_causes import explain_attention_masks, explain_mask
from stepalign.coordinator.diagnosis.modules.own_code_causes import explain_own_code
from stepalign.coordinator.diagnosis.numbers import (
    explain_activation,
    explain_gradients,
    explain_initial_weights,
    explain_loss,
)
from stepalign.coordinator.diagnosis.place_causes import (
    as_data,
    other_calls,
    other_order,
    random_forward,
    silent_output,
    unexplained,
    where_and_why,
)
from stepalign.coordinator.diagnosis.ranking import rank
from stepalign.coordinator.diagnosis.rates.rate_causes import explain_rates
from stepalign.coordinator.diagnosis.updates.average_causes import explain_averages, explain_buffer, moved_by_script
from stepalign.coordinator.diagnosis.updates.clip_fit import explain_clipping
from stepalign.coordinator.diagnosis.updates.optimizer_fit import explain_updates
from stepalign.coordinator.diagnosis.updates.traces import moved_steps, torch_hyperparameters, update_traces
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace
from stepalign.coordinator.running.activation_names import shown_path
from stepalign.coordinator.running.first_difference import Located
from stepalign.coordinator.running.recorder import Record
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named
from stepalign.protocol.specs import Declaration, ModuleSpec

_KIND_ORDER = ("lr", "activation", "loss", "gradient", "optimizer_state", "parameter", "buffer")
_DECLARED_FOR_SURE = 0.9
_BESIDE_DECLARED_DROPOUT = 0.5
_BEHIND_DECLARED = 0.9
_LATER_KIND = 0.5
"""A declared difference that shows only after the kind that failed first cannot be what made it fail first."""

_PLACE_ALONE = 0.3
"""The confidence of a cause that says no more than the place."""

_ATTRIBUTE_THERE = 0.6
"""Of an attribute that differs in the module in which the sides part: most likely what makes them part."""

_SETTLED = 0.8
"""A loss whose formula is found with this confidence is explained by it."""


@dataclass(frozen=True)
class Evidence:
    """All that an explanation can draw on. ``initial`` holds each side's tensors before the first step, by its own names."""

    names: NameMap
    torch: Declaration
    paddle: Declaration
    record: Record
    initial: Mapping[str, Named]
    findings: Sequence[Finding]


def explain(evidence: Evidence, failure: Comparison, located: Optional[Located]) -> List[Cause]:
    """Return the causes of the first failure, most likely first; never empty."""
    causes = [_weighed(finding, failure) for finding in evidence.findings if _bears_on(finding, failure)]
    fitted = _from_numbers(evidence, failure, located)
    if failure.kind in ("optimizer_state", "parameter", "buffer"):
        fitted = _behind_declared(fitted, causes)
    causes += fitted + _attributes_there(evidence.findings, fitted, located)
    if not causes:
        causes = [unexplained(failure, located)]
    return rank(causes)


def _attributes_there(findings: Sequence[Finding], fitted: Sequence[Cause], located: Optional[Located]) -> List[Cause]:
    """Return the attributes that differ of the module in whose code the sides part, where no formula fits the numbers."""
    if located is None or located.first is None or located.backward or any(c.confidence > _PLACE_ALONE for c in fitted):
        return []
    place = located.module if located.container is None else located.container
    return [
        replace(finding.cause, confidence=_ATTRIBUTE_THERE)
        for finding in findings
        if finding.cause.code == "module_attribute" and finding.torch_name == place
    ]


def _bears_on(finding: Finding, failure: Comparison) -> bool:
    """Return whether a declared difference counts: where it matters, or where a layer is known to compute otherwise."""
    return finding.matters or (finding.cause.code == layer_differences.CODE and failure.kind in layer_differences.SHOWN_BY)


def _behind_declared(fitted: List[Cause], declared: Sequence[Cause]) -> List[Cause]:
    """Rank what was fitted to an update behind a difference that both sides declare: that one is certain to be there."""
    sure = [cause for cause in declared if cause.confidence >= _DECLARED_FOR_SURE]
    if not sure:
        return fitted
    codes = {cause.code for cause in sure}
    return [
        cause if cause.code in codes else replace(cause, confidence=cause.confidence * _BEHIND_DECLARED) for cause in fitted
    ]


def _from_nonfinite(failure: Comparison) -> List[Cause]:
    """Name values that are not finite, on whichever side they are."""
    measures = failure.measures
    if measures is None or not (measures.reference_nonfinite or measures.candidate_nonfinite):
        return []
    counts = {"torch": measures.reference_nonfinite, "paddle": measures.candidate_nonfinite}
    sides = [side for side, count in counts.items() if count]
    fix = (
        "both sides break down alike: lower the rate or mend the formula in the original, or allow it with "
        "[compare] allow_nonfinite = true"
        if len(sides) == 2
        else f"find what gives NaN or infinity on the {sides[0]} side alone: a division, a log or a root of zero, "
        "an overflow, a mask of -inf"
    )
    if failure.kind == "loss":
        return [Cause(Category.NONFINITE, "loss", 0.99, failure.reason, fix)]
    if failure.kind == "gradient":
        return [Cause(Category.NONFINITE, "gradient", 0.99, failure.reason, fix)]
    if failure.kind == "initial_parameter":
        return [Cause(Category.NONFINITE, "initial_weights", 0.99, failure.reason, fix)]
    return [Cause(Category.NONFINITE, "state", 0.99, failure.reason, fix)]


def _from_numbers(evidence: Evidence, failure: Comparison, located: Optional[Located]) -> List[Cause]:
    nonfinite = _from_nonfinite(failure)
    return nonfinite or _from_finite_numbers(evidence, failure, located)


def _from_finite_numbers(evidence: Evidence, failure: Comparison, located: Optional[Located]) -> List[Cause]:
    kind = failure.kind
    if kind == "batch":
        return [
            Cause(
                Category.DATA, "batch_changed", 0.95, failure.reason,
                "a batch's arrays must not be changed in place before the step ends, nor by the worker's own code",
            )
        ]  # fmt: skip
    if kind == "initial_parameter":
        return _from_weights(evidence)
    if kind == "lr":
        pairs = [(ours, theirs) for ours, theirs, _ in pair_groups(evidence.names, evidence.torch, evidence.paddle)]
        return explain_rates(list(evidence.record.rates[0]), list(evidence.record.rates[1]), pairs)
    if kind in ("loss", "gradient", "activation"):
        return _from_forward_and_backward(evidence, failure, located)
    if kind in ("optimizer_state", "parameter"):
        return _from_updates(evidence, failure)
    if kind == "buffer":
        return _from_own_code(evidence, failure)
    return []


def _from_weights(evidence: Evidence) -> List[Cause]:
    ours, theirs = (evidence.names.canonical(side, evidence.initial[side]) for side in ("torch", "paddle"))
    return explain_initial_weights({name: (ours[name], theirs[name]) for name in ours if name in theirs})


def _from_forward_and_backward(evidence: Evidence, failure: Comparison, located: Optional[Located]) -> List[Cause]:
    if located is not None and located.loss_site is not None:
        causes = _from_chance(evidence, located) + _from_loss(evidence, failure, located.loss_site)
        unknown = located.calls and not any(cause.confidence >= _SETTLED for cause in causes)
        return [*causes, other_calls(located)] if unknown else causes
    causes = [] if located is None or located.first is not None else _from_chance(evidence, located)
    if located is not None and located.first is not None:
        causes += _from_module(evidence, located)
        if not located.backward:
            return causes
    losses = [[float(loss) for loss in side] for side in evidence.record.losses]
    updated = located.updated if located is not None else None
    if failure.step == 0 and updated is None:
        causes += explain_loss(losses[0], losses[1], [_batch_size(evidence)] * len(losses[0]))
    if AS_USED in failure.reason:
        return causes + [
            _beside_idle_clip(cause) if evidence.torch.has_after_backward else cause
            for cause in explain_clipping(_traces(evidence), _paddle_groups(evidence))
        ]
    pair = evidence.record.pairs.get(failure.step)
    if pair is not None:
        ours = evidence.names.canonical("torch", pair.reference.tensors.get("gradient", {}))
        theirs = evidence.names.canonical("paddle", pair.candidate.tensors.get("gradient", {}))
        part = (updated or "").partition(".")[0]  # what was updated first: the gradients of the rest follow from it
        order = [
            piece.name
            for piece in evidence.names.pieces
            if piece.kind == "parameter" and piece.name.startswith(f"{part}." if part else "")
        ]
        values = float(pair.reference.loss), float(pair.candidate.loss)
        ratio = values[1] / values[0] if values[0] and np.isfinite(values).all() else None
        gradients = {name: (ours.get(name), theirs.get(name)) for name in order if name in ours or name in theirs}
        declared = declared_parameters(evidence.names.pieces, evidence.torch, evidence.paddle)
        causes += explain_gradients(gradients, order, ratio, declared)
    return causes


def _beside_idle_clip(cause: Cause) -> Cause:
    """Say what a clip of paddle's means where torch may clip too, but left these gradients alone."""
    if cause.code != "clip_added":
        return cause
    return replace(
        cause,
        evidence=f"{cause.evidence}; torch has an after_backward, which left these gradients as they were",
        fix="use the same limit on both sides: torch's, if its after_backward clips, was not reached in this step",
    )


def _from_loss(evidence: Evidence, failure: Comparison, site: LossSite) -> List[Cause]:
    """Return why the loss differs where every module's output agrees: what gradients and ratios show follows from it."""
    formulas = explain_loss_formula(site)
    follows = (Category.BACKWARD, Category.LOSS) if formulas[0].confidence >= _SETTLED else (Category.BACKWARD,)
    rest = _from_forward_and_backward(evidence, failure, None)
    return formulas + [
        replace(cause, confidence=cause.confidence * _LATER_KIND) if cause.category in follows else cause
        for cause in rest
    ]


def _from_module(evidence: Evidence, located: Located) -> List[Cause]:
    specs = [_module(evidence.torch, located.module), _module(evidence.paddle, located.paddle_module)]
    if located.container is not None:
        stretch = ModuleSpec(f"the code {located.stretch.removeprefix('in the code ')}", "", "", False)
        specs = [stretch, stretch]
    found = _from_chance(evidence, located)
    if located.silent and _trains_alike(evidence):
        found.append(silent_output(located))
    if specs[0] is not None and specs[1] is not None and located.outputs is not None and not located.backward:
        at_start = not located.last_good and located.container is not None
        given = explain_mask(_given(located), *located.outputs) if located.argument else []
        if at_start and not given:
            given = explain_input(f"{_given(located)}, before anything of the model ran", *located.outputs)
        if located.container is None:
            found += explain_attention_masks(shown_path(located.paddle_module), specs[0], specs[1], *located.arguments)
        found += given or explain_activation(specs[0], specs[1], *located.outputs, *(located.inputs or (None, None)))
        if not given:
            code = located.paddle_module if located.container is None else located.paddle_container or ""
            found += explain_own_code(shown_path(code), located.agreed, dict(located.given), *located.outputs)
            found += other_order(located)
        if at_start:
            found = [as_data(cause) for cause in found] or [as_data(unexplained(located.first, located))]
    if located.backward and located.outputs is not None and not located.silent:
        found += explain_flow(shown_path(located.paddle_module), *located.outputs, located.further)
        found += explain_module_gradient(located.paddle_module, *located.outputs)
    return found or [unexplained(located.first, located)] if located.first is not None else found


def _given(located: Located) -> str:
    given = f"what {shown_path(located.paddle_module)} is given"
    return f"what {shown_path(located.paddle_module)} is given as {located.argument}" if located.argument else given


def _from_chance(evidence: Evidence, located: Located) -> List[Cause]:
    """Return that a side draws random numbers, if it does."""
    if not located.random_sides:
        return []
    declared = any(item.matters and item.cause.category is Category.RANDOMNESS for item in evidence.findings)
    return [replace(random_forward(located), confidence=_BESIDE_DECLARED_DROPOUT) if declared else random_forward(located)]


def _trains_alike(evidence: Evidence) -> bool:
    """Say whether both sides declare of each parameter alike whether it trains."""
    trains = [
        {tensor.name: tensor.trainable for tensor in side.tensors} for side in (evidence.torch, evidence.paddle)
    ]
    return all(
        trains[0].get(piece.torch.tensor) == trains[1].get(piece.paddle.tensor)
        for piece in evidence.names.pieces
        if piece.kind == "parameter"
    )


def _from_updates(evidence: Evidence, failure: Comparison) -> List[Cause]:
    held = held_by_an_optimizer(evidence.names, evidence.torch.optimizer, evidence.paddle.optimizer)
    own = _from_own_code(evidence, failure) if failure.kind == "parameter" and failure.name not in held else []
    traces = [trace for trace in _traces(evidence) if trace.torch_name in held or not trace.moved]
    hyper = torch_hyperparameters(evidence.names, evidence.torch)
    return own + explain_updates(traces, hyper, evidence.torch.optimizer.type)  # type: ignore[arg-type]


def _from_own_code(evidence: Evidence, failure: Comparison) -> List[Cause]:
    """Return why a tensor that no optimizer holds differs: it is the script's own code that moves it."""
    steps = [
        step
        for step in moved_steps(evidence.names, evidence.initial, evidence.record.pairs)
        if step.step >= failure.step
    ]
    held = held_by_an_optimizer(evidence.names, evidence.torch.optimizer, evidence.paddle.optimizer)
    others = [
        piece.name
        for piece in evidence.names.pieces
        if piece.kind == failure.kind and piece.name not in held and piece.name != failure.name
    ]
    shapes = {piece.name: piece.shape for piece in evidence.names.pieces}
    causes = explain_averages(failure.name, others, shapes, steps) if steps else []
    if failure.kind == "buffer":
        return causes or (explain_buffer(failure.name, others, steps) if steps else [])
    return causes or [moved_by_script(where_and_why(failure))]


def _paddle_groups(evidence: Evidence) -> List[List[str]]:
    """Return the canonical names of the parameters in each of paddle's groups, where it has more than one."""
    groups = evidence.paddle.optimizer.groups
    if len(groups) < 2:
        return []
    return [
        [piece.name for piece in evidence.names.pieces if piece.paddle.tensor in group.parameters] for group in groups
    ]


def _traces(evidence: Evidence) -> List[ParameterTrace]:
    return update_traces(
        evidence.names, {"torch": evidence.torch, "paddle": evidence.paddle}, evidence.initial, evidence.record.pairs
    )


def _weighed(finding: Finding, failure: Comparison) -> Cause:
    """Return a declared difference as a cause; with less confidence if it would show only after what failed first."""
    if finding.kind not in _KIND_ORDER or failure.kind not in _KIND_ORDER:
        return finding.cause
    later = _KIND_ORDER.index(finding.kind) > _KIND_ORDER.index(failure.kind)
    return replace(finding.cause, confidence=finding.cause.confidence * _LATER_KIND) if later else finding.cause


def _module(declaration: Declaration, path: str) -> Optional[ModuleSpec]:
    return next((module for module in declaration.modules if module.path == path), None)


def _batch_size(evidence: Evidence) -> int:
    sizes: Iterable[int] = evidence.record.batch_sizes
    return next(iter(sizes), 0)
