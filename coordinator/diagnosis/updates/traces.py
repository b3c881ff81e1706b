"""Builds both sides' update records from the pairs of steps that a run kept."""

from __future__ import annotations

from typing import Dict, List, Mapping, Tuple

import numpy as np

from stepalign.coordinator.comparison.canonical import States, canonical_state
from stepalign.coordinator.comparison.update_judge import group_of, hyperparameters
from stepalign.coordinator.diagnosis.updates.average_causes import MovedStep
from stepalign.coordinator.diagnosis.updates.update_trace import ParameterTrace, UpdateRecord
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import Named, StepResult
from stepalign.protocol.specs import Declaration

Arrays = Dict[str, np.ndarray]


def update_traces(
    names: NameMap, declarations: Mapping[str, Declaration], initial: Mapping[str, Named], pairs: Mapping[int, StepPair]
) -> List[ParameterTrace]:
    """Return one trace for each parameter piece: the steps of ``pairs`` whose state before is known."""
    specs = {spec.name: spec for spec in declarations["torch"].tensors}
    records: Dict[str, Tuple[List[UpdateRecord], List[UpdateRecord]]] = {}
    for number, side in enumerate(("torch", "paddle")):
        optimizer = declarations[side].optimizer
        groups, hyper = group_of(optimizer), hyperparameters(optimizer)
        before = names.canonical(side, initial[side])
        state_before: States = {}
        for step in sorted(pairs):
            result = _side(pairs[step], number)
            known = step == 0 or step - 1 in pairs
            after, state = (
                names.canonical(side, result.tensors.get("parameter", {})),
                canonical_state(names, side, result.tensors.get("optimizer_state", {})),
            )
            if known:
                gradients = names.canonical(side, result.tensors.get("gradient", {}))
                used = names.canonical(side, result.tensors.get("used_gradient", {}))
                for piece in names.pieces:
                    tensor = piece.slot(side).tensor
                    if piece.kind != "parameter" or piece.name not in after or piece.name not in before:
                        continue
                    multiplier = hyper.get(tensor, {}).get("lr_multiplier", 1.0)
                    lr = result.lr[groups[tensor]] if tensor in groups and groups[tensor] < len(result.lr) else 0.0
                    records.setdefault(piece.name, ([], []))[number].append(
                        UpdateRecord(
                            step=step,
                            lr=lr * (float(multiplier) if isinstance(multiplier, (int, float)) else 1.0),
                            before=before[piece.name],
                            gradient=gradients.get(piece.name),
                            used_gradient=used.get(piece.name),
                            state_before=state_before.get(piece.name, {}),
                            after=after[piece.name],
                            state_after=state.get(piece.name, {}),
                        )
                    )
            before, state_before = after, state
    found = []
    for piece in names.pieces:
        if piece.name in records:
            spec = specs[piece.torch.tensor]
            ours, theirs = records[piece.name]
            found.append(
                ParameterTrace(
                    piece.name,
                    piece.paddle.tensor,
                    spec.dtype,
                    tuple(ours),
                    tuple(theirs),
                    spec.role,
                    spec.module_type,
                    piece.shape,
                )
            )
    return found


def moved_steps(names: NameMap, initial: Mapping[str, Named], pairs: Mapping[int, StepPair]) -> List[MovedStep]:
    """Return both sides' parameters and buffers around each of the steps of ``pairs`` whose state before is known."""
    found = []
    before = tuple(names.canonical(side, initial[side]) for side in ("torch", "paddle"))
    for step in sorted(pairs):
        tensors = [_side(pairs[step], number).tensors for number in (0, 1)]
        after = tuple(
            names.canonical(side, {**tensors[number].get("parameter", {}), **tensors[number].get("buffer", {})})
            for number, side in enumerate(("torch", "paddle"))
        )
        if step == 0 or step - 1 in pairs:
            found.append(MovedStep(step, (before[0], before[1]), (after[0], after[1])))
        before = after
    return found


def torch_hyperparameters(names: NameMap, torch: Declaration) -> Dict[str, Mapping[str, object]]:
    """Return torch's hyper-parameters by canonical name."""
    own = hyperparameters(torch.optimizer)
    return {piece.name: own[piece.torch.tensor] for piece in names.pieces if piece.torch.tensor in own}


def _side(pair: StepPair, number: int) -> StepResult:
    return pair.candidate if number else pair.reference
