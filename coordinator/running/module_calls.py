"""Counts how often each side called the modules that hold weights, in one recorded step, and tells where that differs."""

from __future__ import annotations

from typing import Dict, Tuple

from stepalign.coordinator.running.activation_names import call_of, is_output, module_of
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
