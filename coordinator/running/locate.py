"""Finds the first bad module: replays the failing step in fresh workers, with every module's output, and compares them.

A replay starts from the run's initial weights and repeats its steps with the same batches, so it reaches the same state.
Where all outputs agree and the loss differs, the loss function is to blame.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Optional, Sequence

import numpy as np

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.diagnosis.loss.loss_formula import LossSite, loss_outputs
from stepalign.coordinator.running.activation_names import ROOT, call_of, partner
from stepalign.coordinator.running.first_difference import Located, find_first
from stepalign.coordinator.running.module_calls import unlike_calls
from stepalign.coordinator.running.randomness import random_sides
from stepalign.coordinator.running.replay import owning_sides, replay_steps
from stepalign.coordinator.sessions.members import Crew
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import Named

_SAME_LOSS_RTOL = 1e-6


def locate(
    case: Case,
    crew: Crew,
    folder: Path,
    names: NameMap,
    failure: Comparison,
    batches: BatchSource,
    on_tick: Callable[[], None],
) -> Optional[Located]:
    """Return where the failing step first goes wrong; None if a replay cannot tell. Raises StepalignError where it fails."""
    step = failure.step
    replayed = replay_steps(case, crew, folder, (step,), ("*",), batches, on_tick, repeat=True)
    pair = replayed.pairs[0]
    torch, paddle = (side.tensors.get("activation", {}) for side in (pair.reference, pair.candidate))
    found = find_first(case, names, torch, paddle, step)
    random = random_sides(pair, replayed.repetitions, owning_sides(case))
    if failure.kind == "loss" and (found is None or (found.backward and not found.updated) or is_loss(found, pair)):
        calls = unlike_calls(names, torch, paddle)
        return Located(first=None, loss_site=_loss_site(pair, names, batches), calls=calls, random_sides=random)
    return None if found is None else replace(found, random_sides=random)


def replay_loss_sites(
    case: Case,
    crew: Crew,
    folder: Path,
    names: NameMap,
    steps: Sequence[int],
    batches: BatchSource,
    on_tick: Callable[[], None],
) -> List[Optional[LossSite]]:
    """Return what the losses of some steps were computed from; None for a step whose model was not called as a whole."""
    pairs = replay_steps(case, crew, folder, steps, (ROOT,), batches, on_tick).pairs
    return [_loss_site(pair, names, batches) for pair in pairs]


def is_loss(found: Located, pair: StepPair) -> bool:
    """Say whether what differs first is the loss, returned by the model itself: all that it gave, or one part of that.

    Another scalar among the parts, a scale, say, is an output like any other.
    """
    if found.module != "" or found.first is None or found.outputs is None or found.container is not None:
        return False
    if any(output.size != 1 for output in found.outputs):
        return False
    if call_of(found.first.name) == found.first.name:
        return True
    losses = (pair.reference.loss, pair.candidate.loss)
    return all(
        np.allclose(output.reshape(()), loss, rtol=_SAME_LOSS_RTOL, atol=0.0)
        for output, loss in zip(found.outputs, losses, strict=True)
    )


def _loss_site(pair: StepPair, names: NameMap, batches: BatchSource) -> Optional[LossSite]:
    """Return what both losses of a step were computed from; None if no output is known on both sides."""
    torch, paddle = (loss_outputs(side.tensors.get("activation", {})) for side in (pair.reference, pair.candidate))
    paths = dict(names.modules)
    partners = {key: _output_partner(partner(key, paths), array, paddle) for key, array in torch.items()}
    theirs = {key: paddle[there] for key, there in partners.items() if there is not None}
    if not theirs:
        return None
    ours = {key: torch[key] for key in theirs}
    return LossSite(ours, theirs, batches[pair.step], (pair.reference.loss, pair.candidate.loss))


def _output_partner(named: str, array: np.ndarray, paddle: Named) -> Optional[str]:
    """Return paddle's key of an output: the partner by name, else the one output that holds the same numbers."""
    if named in paddle:
        return named
    close = [
        key for key, other in paddle.items() if other.shape == array.shape and np.allclose(other, array, 1e-3, 1e-5)
    ]
    return close[0] if len(close) == 1 else None
