"""Finds the first difference in what both sides' modules gave and were given in one step.

Outputs are compared in forward order. Where what went into the first bad module differs already, no module is to blame: the
sides part in the code that calls it, after the last output that agrees. When all outputs agree the mistake is in the
backward pass: then the gradients with respect to the outputs are compared, from the loss back. Where optimizers update
within the step, all this is done for each stretch between two updates: what comes after an update sees other weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Iterator, List, Optional, Tuple

import numpy as np

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.diagnosis.gradients.output_gradients import GRADIENT
from stepalign.coordinator.diagnosis.loss.loss_formula import LossSite
from stepalign.coordinator.running.activation_names import (
    ROOT,
    argument_of,
    call_of,
    is_input,
    is_output,
    is_update,
    module_of,
    partner,
    shown_path,
)
from stepalign.coordinator.running.agreed_values import agreed_values, given_arguments
from stepalign.coordinator.running.first_gradient import first_gradient
from stepalign.coordinator.running.module_calls import called_sooner
from stepalign.coordinator.running.recorded_step import RecordedStep, compare_recorded, differs, unknown
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named

_LOSS = "loss(model, batch)"


@dataclass(frozen=True)
class Located:
    """Where a divergence starts. ``first`` is None if no module could be singled out.

    ``module`` and ``paddle_module`` are paths. ``input_agrees`` says whether what went into the module agrees, so that the
    mistake is inside it; None where inputs are not known. ``unlike`` names what else it was given and could not be compared.
    ``outputs`` and ``inputs`` are torch's and paddle's arrays; of inputs, the first tensor. ``last_inside`` is paddle's name
    of the last output inside the module, all of which agree. ``arguments`` are what else each side gave the module, by its
    own names. ``loss_site`` is there where the loss differs though every module's output agrees. ``last_good`` is the name
    of what agreed last before.

    ``backward`` marks a gradient; ``silent`` is then the side where nothing flows back to an output, if that is it.
    ``further`` are torch's gradients of outputs nearer to the loss, by paddle's names, that agree, from the loss back.

    Where ``container`` is not None the module itself is not to blame: the sides part in the own code of ``container`` (the
    model itself is ``""``; ``loss(model, batch)`` is what calls it), between ``last_good`` and the call of the module. Then
    ``first`` is the module's input, ``outputs`` are what goes into it, and ``inputs`` what agreed last.

    ``agreed`` holds what the code that is to blame had before, by paddle's names: torch's arrays of its first input and of
    outputs, in order, as far as they agree; ``given`` the further arguments of its call that agree.

    ``updated`` is torch's path of the module that differs first after an optimizer's update in the same step; None where
    none lies before what differs. ``sooner`` are modules, by paddle's paths, that torch's and paddle's code of ``container``
    called before the one whose input differs, and that the other side called later. ``calls`` are modules that the sides
    called unequally often, with both counts.
    ``random_sides`` are those that draw random numbers in the step.
    """

    first: Optional[Comparison]
    module: str = ""
    paddle_module: str = ""
    input_agrees: Optional[bool] = None
    unlike: Tuple[str, ...] = ()
    outputs: Optional[Tuple[np.ndarray, np.ndarray]] = None
    inputs: Optional[Tuple[np.ndarray, np.ndarray]] = None
    backward: bool = False
    silent: str = ""
    last_good: str = ""
    last_inside: str = ""
    loss_site: Optional[LossSite] = None
    container: Optional[str] = None
    paddle_container: Optional[str] = None
    paddle_last_good: str = ""
    agreed: Tuple[Tuple[str, np.ndarray], ...] = ()
    given: Tuple[Tuple[str, np.ndarray], ...] = ()
    further: Tuple[Tuple[str, np.ndarray], ...] = ()
    updated: Optional[str] = None
    calls: Tuple[Tuple[str, Tuple[int, int]], ...] = ()
    sooner: Tuple[Tuple[str, ...], Tuple[str, ...]] = ((), ())
    arguments: Tuple[Named, Named] = field(default_factory=lambda: ({}, {}))
    random_sides: Tuple[str, ...] = ()

    @property
    def stretch(self) -> str:
        """Say, in paddle's names, where the sides part if no module is to blame; empty otherwise."""
        if self.container is None:
            return ""
        start = f"after {_spoken(self.paddle_last_good)}" if self.last_good else "from its beginning"
        code, call = shown_path(self.paddle_container or ""), shown_path(self.paddle_module)
        return f"in the code of {code}, {start} and before the call of {call}"

    @property
    def part(self) -> str:
        """Return paddle's name of what differs first where it is one of several parts of what a module returns."""
        name = "" if self.first is None else (self.first.paddle_name or "").partition("@")[0]
        return name if ":" in name else ""

    @property
    def argument(self) -> str:
        """Return paddle's name of the argument that differs first, where it is not the first tensor of a call."""
        return "" if self.container is None or self.first is None else argument_of(self.first.paddle_name or "")

    @property
    def silent_output(self) -> str:
        """Return paddle's name of the output that nothing flows back to on one side."""
        return (self.first.paddle_name or "").partition("@")[0] if self.first is not None and self.silent else ""

    @property
    def way_back(self) -> str:
        """Say where gradients first differ."""
        if self.silent:
            return f"going back from the loss, nothing flows back to the output {self.silent_output} on the {self.silent} side"
        return f"going back from the loss, gradients first differ at the output of {self.paddle_module or 'the model'}"


def find_first(case: Case, names: NameMap, torch: Named, paddle: Named, step: int) -> Optional[Located]:
    """Return the first output, in forward order, or else the first output's gradient from the loss back, that differs."""
    record = compare_recorded(case, names, torch, paddle, step)
    outputs = [key for key in record.comparisons if is_output(key)]
    good = ""
    stretches = list(_between_updates(record))
    for number_of_updates, keys in enumerate(stretches):
        for key in keys:
            if not is_output(key) or key not in record.comparisons:
                continue
            if record.comparisons[key].passed:
                good = key
            elif not _passed_over(key, outputs, record):
                found = _located_forward(key, record, good)
                return replace(found, updated=_path_of(found)) if number_of_updates else found
        gradient = first_gradient(keys, record)
        if gradient is not None:
            later = [key for after in stretches[number_of_updates + 1 :] for key in after if key in record.comparisons]
            after = next((key for key in later if is_output(key) and differs(record.comparisons[key])), None)
            return _located_backward(*gradient, record, None if after is None else module_of(after))
    return None


def _between_updates(record: RecordedStep) -> Iterator[List[str]]:
    """Yield torch's names, parted where an optimizer of torch's updates."""
    keys: List[str] = []
    for key in record.torch:
        if is_update(key):
            yield keys
            keys = []
        else:
            keys.append(key)
    yield keys


def _path_of(found: Located) -> str:
    """Return the path of the module in whose own code the sides part, of what is found among outputs."""
    return found.module if found.container in (None, _LOSS) else found.container or ""


def _passed_over(key: str, outputs: List[str], record: RecordedStep) -> bool:
    """Say whether an output of another layout is no more than that: a later one agrees."""
    later = outputs[outputs.index(key) + 1 :]
    return unknown(record.comparisons[key]) and any(record.comparisons[other].passed for other in later)


def _located_forward(key: str, record: RecordedStep, good: str) -> Located:
    outside = _outside(key, record)
    if outside is not None:
        return _between(*outside, record)
    agreed, given = agreed_values(key, call_of(key), record), given_arguments(call_of(key), record)
    return replace(_located(key, record, good), agreed=tuple(agreed), given=tuple(given))


def _located_backward(item: Comparison, silent: str, record: RecordedStep, updated: Optional[str]) -> Located:
    key = item.name
    if not silent:
        further = tuple(_further(key, record))
        located = replace(_located(key, record, ""), unlike=(), last_inside="", further=further)
    else:
        module = module_of(key)
        located = Located(first=item, module=module, paddle_module=record.paths.get(module, module), silent=silent)
    return replace(located, backward=True, updated=updated)


def _located(key: str, record: RecordedStep, good: str) -> Located:
    module = module_of(key)
    first = f"{call_of(key)}@input"
    item = record.comparisons.get(first)
    return Located(
        first=record.comparisons[key],
        module=module,
        paddle_module=record.paths.get(module, module),
        input_agrees=None if item is None or unknown(item) else item.passed,
        unlike=tuple(_not_compared(call_of(key), record)),
        outputs=record.arrays(key),
        inputs=None if item is None or item.measures is None else record.arrays(first),
        last_good=good,
        last_inside=_last_inside(key, record),
        arguments=(
            _arguments(call_of(key), record.torch),
            _arguments(partner(call_of(key), record.paths), record.paddle),
        ),
    )


def _arguments(call: str, recorded: Named) -> Named:
    """Return what else a call was given than its first tensor, by the arguments' names."""
    return {argument_of(key): array for key, array in recorded.items() if argument_of(key) and call_of(key) == call}


def _not_compared(call: str, record: RecordedStep) -> Iterator[str]:
    """Yield, in paddle's names where it has one, the arguments of a call that only one side has, or that say nothing."""
    partners = set()
    for key in record.inputs(call):
        item = record.comparisons.get(key)
        partners.add(record.partner(key))
        if argument_of(key) and (item is None or unknown(item)):
            there = record.partners.get(key)
            yield argument_of(key if there is None else there)
    there = partner(call, record.paths)
    for key in record.paddle:
        if is_input(key) and argument_of(key) and call_of(key) == there and key not in partners:
            yield argument_of(key)


def _last_inside(key: str, record: RecordedStep) -> str:
    """Return paddle's name of the last output that modules inside a call gave, all of which agree; empty if none did."""
    order = list(record.torch)
    begun = f"{call_of(key)}@input"
    start = order.index(begun) if begun in order else order.index(key)
    inside = f"{module_of(key)}." if module_of(key) else ""
    for other in reversed(order[start : order.index(key)]):
        if is_output(other) and module_of(other).startswith(inside) and module_of(other) != module_of(key):
            item = record.comparisons.get(other)
            if item is not None and item.passed:
                return record.partner(other)
    return ""


def _outside(key: str, record: RecordedStep) -> Optional[Tuple[str, str]]:
    """Return the input that differs and the call in whose code it came to be; None if the output's own module is to blame.

    Of the calls that were under way, the outermost whose input differs counts: what is inside it was given the difference.
    """
    differing = _differing_input(call_of(key), record)
    if differing is None:
        return None
    container = None
    for call in _under_way(differing, list(record.torch)):
        outer = _differing_input(call, record)
        if outer is not None:
            differing, container = outer, None
            continue
        container = container or call
        item = record.comparisons.get(f"{call}@input")
        if item is not None and item.passed and not list(_not_compared(call, record)):
            break
    return differing, container or (_LOSS if module_of(differing) == "" else ROOT)


def _differing_input(call: str, record: RecordedStep) -> Optional[str]:
    """Return the first of what a call was given that differs."""
    return next((key for key in record.inputs(call) if differs(record.comparisons.get(key))), None)


def _under_way(inputs_key: str, order: List[str]) -> Iterator[str]:
    """Yield the calls that had begun and not ended when an input was recorded, from the innermost outwards."""
    before = order[: order.index(inputs_key)]
    module = module_of(inputs_key)
    while module:
        module = module.rpartition(".")[0]
        begun = next((call_of(key) for key in reversed(before) if is_input(key) and module_of(key) == module), None)
        if begun is not None and not any(call_of(key) == begun for key in before if is_output(key)):
            yield begun


def _between(inputs_key: str, container: str, record: RecordedStep) -> Located:
    """Return the stretch of a call's own code in which an input came to differ."""
    earlier = list(record.comparisons)[: list(record.comparisons).index(inputs_key)]
    starts = [key for key in earlier if is_output(key) or key == f"{container}@input"]
    good = starts[-1] if starts else ""
    module, around = module_of(inputs_key), container if container == _LOSS else module_of(container)
    item = record.comparisons[inputs_key]
    located = Located(
        first=item,
        module=module,
        paddle_module=record.paths.get(module, module),
        input_agrees=False,
        outputs=record.arrays(inputs_key),
        inputs=record.arrays(good) if good else None,
        last_good=good,
        container=around,
        paddle_container=record.paths.get(around, around),
        paddle_last_good=record.partner(good) if good else "",
        agreed=tuple(agreed_values(inputs_key, container, record)),
        given=tuple(given_arguments(container, record)),
        sooner=called_sooner(inputs_key, ROOT if container == _LOSS else container, record),
    )
    return replace(located, first=replace(item, reason=f"{item.reason}; the sides part {located.stretch}"))


def _further(gradient: str, record: RecordedStep) -> Iterator[Tuple[str, np.ndarray]]:
    """Yield the gradients of outputs that agree and came before one in the backward pass, by the outputs' paddle names."""
    for key, item in record.comparisons.items():
        if key == gradient:
            return
        if key.endswith(GRADIENT) and item.passed:
            yield record.partner(key).removesuffix(GRADIENT), record.torch[key]


def _spoken(key: str) -> str:
    given = "what goes into " if is_input(key) else ""
    return f"{given}{shown_path(module_of(key))}"
