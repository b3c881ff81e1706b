"""Finds the first bad module: replays the failing step in fresh workers, with every module's output, and compares them.

A replay starts from the run's initial weights and repeats its steps with the same batches, so it reaches the same state.
Outputs are compared in forward order. When they all agree the mistake is in the backward pass: then the gradients with
respect to the outputs are compared, from the loss back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np

from stepalign.coordinator.batches import BatchSource
from stepalign.coordinator.case import Case
from stepalign.coordinator.comparison.comparison import Comparison, compare_values
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.lockstep import StepPair, StepPlan
from stepalign.coordinator.members import Crew, both
from stepalign.coordinator.naming import NameMap
from stepalign.coordinator.session import Session
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.messages import Named

_LATER_STEP_ALLOWANCE = 20.0
"""After the first step the sides' weights already differ a little; a mistake differs by far more."""


@dataclass(frozen=True)
class Located:
    """Where a divergence starts. ``first`` is None if no module could be singled out.

    ``module`` and ``paddle_module`` are paths. ``input_agrees`` says whether what went into the module agrees, so that the
    mistake is inside it; None where inputs are not known. ``outputs`` and ``inputs`` are torch's and paddle's arrays.
    ``backward`` marks a gradient.
    """

    first: Optional[Comparison]
    module: str = ""
    paddle_module: str = ""
    input_agrees: Optional[bool] = None
    outputs: Optional[Tuple[np.ndarray, np.ndarray]] = None
    inputs: Optional[Tuple[np.ndarray, np.ndarray]] = None
    backward: bool = False
    last_good: str = ""


def locate(
    case: Case, crew: Crew, folder: Path, names: NameMap, failure: Comparison, batches: BatchSource, on_tick: Callable[[], None]
) -> Optional[Located]:
    """Return where the failing step first goes wrong; None if a replay cannot tell."""
    found: List[StepPair] = []
    step = failure.step
    try:
        with Session(case, both(case, crew, folder), "train", on_tick) as session:
            session.start()
            session.build()
            session.exchange_weights()
            plan = StepPlan(
                0,
                step + 1,
                lambda number: ("activation",) if number == step else _for_resync(case, number),
                lambda number: ("*",) if number == step else (),
                case.file.compare.resync,
            )
            session.step(plan, batches, lambda pair: found.append(pair) if pair.step == step else None)
    except StepalignError:
        return None
    pair = found[0]
    return find_first(
        case, names, pair.reference.tensors.get("activation", {}), pair.candidate.tensors.get("activation", {}), step
    )


def find_first(case: Case, names: NameMap, torch: Named, paddle: Named, step: int) -> Optional[Located]:
    """Return the first output, in forward order, or else the first output's gradient from the loss back, that differs."""
    paths = dict(names.modules)
    tolerance = tolerances(case.file.dtype, case.file.tolerance)["activation"]
    allowed = tolerance.of_tensor * (1.0 if step == 0 else _LATER_STEP_ALLOWANCE)
    comparisons = {
        key: item for key, item in _compare_all(torch, paddle, paths, step, allowed, tolerance.rtol, tolerance.atol)
    }
    outputs = [key for key in comparisons if "@" not in key]
    good = ""
    for key in outputs:
        if not comparisons[key].passed:
            return _located(key, comparisons, torch, paddle, paths, good, backward=False)
        good = key
    gradients = [key for key in comparisons if key.endswith("@grad")]
    scale = max((float(np.max(np.abs(torch[key]), initial=0.0)) for key in gradients), default=0.0)
    for key in gradients:
        item = comparisons[key]
        if not item.passed and item.measures is not None and item.measures.max_abs > 1e-6 * scale:
            return _located(key, comparisons, torch, paddle, paths, good, backward=True)
        good = key
    return None


def _located(
    key: str, comparisons: Dict[str, Comparison], torch: Named, paddle: Named, paths: Dict[str, str], good: str, backward: bool
) -> Located:
    module, there = module_of(key), _partner(key, paths)
    partner = paths.get(module, module)
    inputs_key = f"{module}@input"
    inputs = comparisons.get(inputs_key)
    given = None
    if inputs is not None and inputs.measures is not None:
        given = (torch[inputs_key], paddle[_partner(inputs_key, paths)])
    return Located(
        first=comparisons[key],
        module=module,
        paddle_module=partner,
        input_agrees=None if inputs is None else inputs.passed,
        outputs=(torch[key], paddle[there]) if there in paddle else None,
        inputs=given,
        backward=backward,
        last_good=good,
    )


def _compare_all(
    torch: Named, paddle: Named, paths: Dict[str, str], step: int, allowed: float, rtol: float, atol: float
) -> Iterator[Tuple[str, Comparison]]:
    """Yield what both sides recorded under partner names; what only one side has says nothing of numbers."""
    for key, array in torch.items():
        there = _partner(key, paths)
        if there not in paddle or module_of(key) not in paths:
            continue
        size = float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array))) if array.dtype.kind == "f" else 0.0
        yield key, compare_values(step, "activation", key, there, array, paddle[there], rtol, atol + allowed * size)


def module_of(key: str) -> str:
    """Return the module's path of an activation's name: ``encoder.0#1:0@grad`` is of ``encoder.0``."""
    for mark in "@:#":
        key = key.partition(mark)[0]
    return "" if key == "<model>" else key


def _partner(key: str, paths: Dict[str, str]) -> str:
    module = module_of(key)
    shown = "<model>" if key.startswith("<model>") else module
    there = paths.get(module, module) if module else "<model>"
    return there + key[len(shown) :]


def _for_resync(case: Case, step: int) -> Tuple[str, ...]:
    resync = case.file.compare.resync
    return ("parameter", "optimizer_state", "buffer") if resync and (step + 1) % resync == 0 else ()
