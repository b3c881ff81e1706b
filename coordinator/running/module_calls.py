"""Tells where the sides call their modules otherwise in one recorded step: how often those that hold weights, and in which
order those before a difference.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

from stepalign.coordinator.running.activation_names import argument_of, call_of, is_input, is_output, module_of, partner
from stepalign.coordinator.running.recorded_step import RecordedStep
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.messages import Named

Counts = Tuple[int, int]


def unlike_calls(names: NameMap, torch: Named, paddle: Named) -> Tuple[Tuple[str, Counts], ...]:
    """Return modules, by paddle's paths, that torch and paddle called unequally often; of nested ones the outermost.

    What calls a container's parts instead of itself is no difference: what holds weights of its own is counted.
    """
    there = dict(names.modules)
    holders = dict.fromkeys(piece.torch.tensor.rpartition(".")[0] for piece in names.pieces if piece.kind == "parameter")
    counts: Dict[str, Counts] = {}
    for path in holders:
        if path and path in there:
            counts[path] = _calls(path, torch), _calls(there[path], paddle)
    found: Dict[str, Counts] = {}
    for path, pair in counts.items():
        if pair[0] != pair[1]:
            found[_outermost(path, counts)] = pair
    return tuple((there.get(path, path), pair) for path, pair in found.items())


def _calls(path: str, recorded: Named) -> int:
    return len({call_of(key) for key in recorded if is_output(key) and module_of(key) == path})


def _outermost(path: str, counts: Dict[str, Counts]) -> str:
    """Return the outermost container of a module in which all that is counted was called as unequally often."""
    container, pair = path.rpartition(".")[0], counts[path]
    while container and all(each == pair for other, each in counts.items() if other.startswith(f"{container}.")):
        path, container = container, container.rpartition(".")[0]
    return path


def called_sooner(inputs_key: str, container: str, record: RecordedStep) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Return, by paddle's paths, what torch's and paddle's code of ``container``, a call, called before an input was recorded
    that the other's called later.
    """
    paths = record.paths
    ours = _called(list(record.torch), container, inputs_key)
    theirs = _called(list(record.paddle), partner(container, paths), record.partner(inputs_key))
    before = [paths.get(path, path) for path in ours[0]], theirs[0]
    after = [paths.get(path, path) for path in ours[1]], theirs[1]
    return tuple(path for path in before[0] if path in after[1]), tuple(path for path in before[1] if path in after[0])


def _called(order: List[str], container: str, inputs_key: str) -> Tuple[List[str], List[str]]:
    """Return the modules that a side called since a call began: before an input was recorded, and from then on alone."""
    begun, place = f"{container}@input", order.index(inputs_key)
    start = order.index(begun) + 1 if begun in order else 0
    end = order.index(container) if container in order else len(order)
    inside = f"{module_of(container)}." if module_of(container) else ""
    calls = [
        (number, module_of(key))
        for number, key in enumerate(order[:end])
        if number >= start and is_input(key) and not argument_of(key) and module_of(key).startswith(inside) and module_of(key)
    ]
    before = list(dict.fromkeys(path for number, path in calls if number < place))
    return before, list(dict.fromkeys(path for _, path in calls if path not in before))
