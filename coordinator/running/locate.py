"""Finds the first bad module: replays the failing step in fresh workers, with every module's output, and compares them.

A replay starts from the run's initial weights and repeats its steps with the same batches, so it reaches the same state.
Outputs are compared in forward order. Where what went into the first bad module differs already, no module is to blame: the
sides part in the code that calls it, after the last output that agrees. When all outputs agree the mistake is in the
backward pass: then the gradients with respect to the outputs are compared, from the loss back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.comparison import Comparison, compare_values
from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.diagnosis.loss_formula import LossSite, loss_outputs
from stepalign.coordinator.running.replay import replay_steps
from stepalign.coordinator.sessions.members import Crew
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.errors import StepalignError
from stepalign.protocol.messages import Named

_ROOT = "<model>"
_LOSS = "loss(model, batch)"
_SAME_LOSS_RTOL = 1e-6
_LATER_STEP_ALLOWANCE = 20.0
"""After the first step the sides' weights already differ a little; a mistake differs by far more."""


@dataclass(frozen=True)
class Located:
    """Where a divergence starts. ``first`` is None if no module could be singled out.

    ``module`` and ``paddle_module`` are paths. ``input_agrees`` says whether what went into the module agrees, so that the
    mistake is inside it; None where inputs are not known. ``outputs`` and ``inputs`` are torch's and paddle's arrays.
    ``backward`` marks a gradient. ``loss_site`` is there where the loss differs though every module's output agrees.
    ``last_good`` is the name of what agreed last before.

    Where ``container`` is not None the module itself is not to blame: the sides part in the own code of ``container`` (the
    model itself is ``""``; ``loss(model, batch)`` is what calls it), between ``last_good`` and the call of the module. Then
    ``first`` is the module's input, ``outputs`` are what goes into it, and ``inputs`` what agreed last.

    ``random_sides`` are those whose loss changes when the same step is run twice from the same weights.
    """

    first: Optional[Comparison]
    module: str = ""
    paddle_module: str = ""
    input_agrees: Optional[bool] = None
    outputs: Optional[Tuple[np.ndarray, np.ndarray]] = None
    inputs: Optional[Tuple[np.ndarray, np.ndarray]] = None
    backward: bool = False
    last_good: str = ""
    loss_site: Optional[LossSite] = None
    container: Optional[str] = None
    paddle_container: Optional[str] = None
    paddle_last_good: str = ""
    random_sides: Tuple[str, ...] = ()

    @property
    def stretch(self) -> str:
        """Say, in paddle's names, where the sides part if no module is to blame; empty otherwise."""
        if self.container is None:
            return ""
        start = f"after {_spoken(self.paddle_last_good)}" if self.last_good else "from its beginning"
        return f"in the code of {_shown(self.paddle_container or '')}, {start} and before the call of {_shown(self.paddle_module)}"


def locate(
    case: Case,
    crew: Crew,
    folder: Path,
    names: NameMap,
    failure: Comparison,
    batches: BatchSource,
    on_tick: Callable[[], None],
) -> Optional[Located]:
    """Return where the failing step first goes wrong; None if a replay cannot tell."""
    step = failure.step
    repeated: List[StepPair] = []
    try:
        pair = replay_steps(case, crew, folder, (step,), ("*",), batches, on_tick, repeated).pairs[0]
    except StepalignError:
        return None
    torch, paddle = (side.tensors.get("activation", {}) for side in (pair.reference, pair.candidate))
    found = find_first(case, names, torch, paddle, step)
    random = _random_sides(pair, repeated)
    if failure.kind == "loss" and (found is None or found.backward or _is_loss(found)):
        return Located(first=None, loss_site=_loss_site(pair, names, batches), random_sides=random)
    return None if found is None else replace(found, random_sides=random)


def _random_sides(pair: StepPair, repeated: Sequence[StepPair]) -> Tuple[str, ...]:
    """Return the sides whose loss is not what it was when the first step is repeated from the same weights."""
    if not repeated or pair.step != repeated[0].step:
        return ()
    losses = (
        ("torch", pair.reference.loss, repeated[0].reference.loss),
        ("paddle", pair.candidate.loss, repeated[0].candidate.loss),
    )
    return tuple(
        side
        for side, once, again in losses
        if not np.allclose(once, again, rtol=_SAME_LOSS_RTOL, atol=0.0, equal_nan=True)
    )


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
    pairs = replay_steps(case, crew, folder, steps, (_ROOT,), batches, on_tick).pairs
    return [_loss_site(pair, names, batches) for pair in pairs]


def _is_loss(found: Located) -> bool:
    """Say whether what differs first is a scalar that the model itself returned: its loss."""
    return found.module == "" and found.outputs is not None and found.outputs[0].size == 1


def _loss_site(pair: StepPair, names: NameMap, batches: BatchSource) -> Optional[LossSite]:
    """Return what both losses of a step were computed from; None if no output is known on both sides."""
    torch, paddle = (loss_outputs(side.tensors.get("activation", {})) for side in (pair.reference, pair.candidate))
    paths = dict(names.modules)
    partners = {key: _output_partner(_partner(key, paths), array, paddle) for key, array in torch.items()}
    theirs = {key: paddle[partner] for key, partner in partners.items() if partner is not None}
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


def compare_modules(case: Case, names: NameMap, torch: Named, paddle: Named, step: int) -> Dict[str, Comparison]:
    """Compare all that both sides recorded of a step's modules, in the order in which torch's calls ended."""
    tolerance = tolerances(case.file.dtype, case.file.tolerance)["activation"]
    allowed = tolerance.of_tensor * (1.0 if step == 0 else _LATER_STEP_ALLOWANCE)
    return dict(_compare_all(torch, paddle, dict(names.modules), step, allowed, tolerance.rtol, tolerance.atol))


def find_first(case: Case, names: NameMap, torch: Named, paddle: Named, step: int) -> Optional[Located]:
    """Return the first output, in forward order, or else the first output's gradient from the loss back, that differs."""
    paths = dict(names.modules)
    comparisons = compare_modules(case, names, torch, paddle, step)
    outputs = [key for key in comparisons if "@" not in key]
    good = ""
    for position, key in enumerate(outputs):
        if not comparisons[key].passed:
            later = any(comparisons[other].passed for other in outputs[position + 1 :])
            if later and _unknown(comparisons[key]):
                continue
            outside = _outside(key, comparisons, list(torch))
            if outside is not None:
                return _between(*outside, comparisons, torch, paddle, paths)
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
    key: str,
    comparisons: Dict[str, Comparison],
    torch: Named,
    paddle: Named,
    paths: Dict[str, str],
    good: str,
    backward: bool,
) -> Located:
    module, there = module_of(key), _partner(key, paths)
    partner = paths.get(module, module)
    inputs_key = f"{call_of(key)}@input"
    inputs = comparisons.get(inputs_key)
    given = None
    if inputs is not None and inputs.measures is not None:
        given = (torch[inputs_key], paddle[_partner(inputs_key, paths)])
    return Located(
        first=comparisons[key],
        module=module,
        paddle_module=partner,
        input_agrees=None if inputs is None or _unknown(inputs) else inputs.passed,
        outputs=(torch[key], paddle[there]) if there in paddle else None,
        inputs=given,
        backward=backward,
        last_good=good,
    )


def _outside(key: str, comparisons: Dict[str, Comparison], order: List[str]) -> Optional[Tuple[str, str]]:
    """Return the input that differs and the call in whose code it came to be; None if the output's own module is to blame.

    Of the calls that were under way, the outermost whose input differs counts: what is inside it was given the difference.
    """
    differing = f"{call_of(key)}@input"
    if not _differs(comparisons.get(differing)):
        return None
    container = None
    for call in _under_way(differing, order):
        item = comparisons.get(f"{call}@input")
        if _differs(item):
            differing, container = f"{call}@input", None
            continue
        container = container or call
        if item is not None and item.passed:
            break
    return differing, container or (_LOSS if module_of(differing) == "" else _ROOT)


def _under_way(inputs_key: str, order: List[str]) -> Iterator[str]:
    """Yield the calls that had begun and not ended when an input was recorded, from the innermost outwards."""
    before = order[: order.index(inputs_key)]
    module = module_of(inputs_key)
    while module:
        module = module.rpartition(".")[0]
        begun = next(
            (call_of(key) for key in reversed(before) if key.endswith("@input") and module_of(key) == module), None
        )
        if begun is not None and not any(call_of(key) == begun for key in before if "@" not in key):
            yield begun


def _between(
    inputs_key: str,
    container: str,
    comparisons: Dict[str, Comparison],
    torch: Named,
    paddle: Named,
    paths: Dict[str, str],
) -> Located:
    """Return the stretch of a call's own code in which an input came to differ."""
    earlier = list(comparisons)[: list(comparisons).index(inputs_key)]
    starts = [key for key in earlier if "@" not in key or key == f"{container}@input"]
    good = starts[-1] if starts else ""
    module, around = module_of(inputs_key), container if container == _LOSS else module_of(container)
    item = comparisons[inputs_key]
    located = Located(
        first=item,
        module=module,
        paddle_module=paths.get(module, module),
        input_agrees=False,
        outputs=(torch[inputs_key], paddle[_partner(inputs_key, paths)]),
        inputs=(torch[good], paddle[_partner(good, paths)]) if good else None,
        last_good=good,
        container=around,
        paddle_container=paths.get(around, around),
        paddle_last_good=_partner(good, paths) if good else "",
    )
    return replace(located, first=replace(item, reason=f"{item.reason}; the sides part {located.stretch}"))


def _differs(item: Optional[Comparison]) -> bool:
    """Say whether numbers differ; another dtype or layout of an input says nothing of them."""
    return item is not None and not item.passed and not _unknown(item)


def _unknown(item: Comparison) -> bool:
    return not item.passed and item.measures is None


def _shown(path: str) -> str:
    return path or "the model itself"


def _spoken(key: str) -> str:
    given = "what goes into " if key.endswith("@input") else ""
    return f"{given}{_shown(module_of(key))}"


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


def call_of(key: str) -> str:
    """Return the call of a module that an activation's name is of: ``encoder.0#1:0@grad`` is of ``encoder.0#1``."""
    return key.partition("@")[0].partition(":")[0]


def _partner(key: str, paths: Dict[str, str]) -> str:
    module = module_of(key)
    shown = "<model>" if key.startswith("<model>") else module
    there = paths.get(module, module) if module else "<model>"
    return there + key[len(shown) :]
