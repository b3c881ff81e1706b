"""Which modules draw their shared dropout masks under one name: the places of `workers/dropout.py`, for both sides.

A dropout module has no place of its own: it counts with what else its container drops, in order. So a side that calls
``dropout`` as a function, or drops inside an attention kernel, meets a side that has a module for it. Where containers
do not correspond one to one, all that are connected share one place.
"""

from __future__ import annotations

from typing import Dict, Iterable, Sequence, Tuple

from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.specs import ModuleSpec

Places = Dict[str, str]


def shared_places(
    names: NameMap, torch_modules: Sequence[ModuleSpec], paddle_modules: Sequence[ModuleSpec]
) -> Tuple[Places, Places]:
    """Return each side's module paths with the names of their places: torch's path of the outermost module there."""
    ours, theirs = (
        {module.path for module in modules if "Dropout" not in module.type}
        for modules in (torch_modules, paddle_modules)
    )
    pairs = [(torch, paddle) for torch, paddle in names.modules if torch in ours and paddle in theirs]
    paired = {paddle for _, paddle in pairs}
    pairs += [(path, path) for path in theirs - paired if path in dict(pairs)]
    places: Tuple[Places, Places] = ({}, {})
    for name, group in _connected(pairs):
        for side, path in group:
            places[side][path] = name
    return places


def _connected(pairs: Iterable[Tuple[str, str]]) -> Iterable[Tuple[str, Tuple[Tuple[int, str], ...]]]:
    """Yield each connected group of (0, torch path) and (1, paddle path), named by its outermost torch path."""
    groups: Dict[Tuple[int, str], Dict[Tuple[int, str], None]] = {}
    for torch, paddle in pairs:
        merged = {**groups.get((0, torch), {(0, torch): None}), **groups.get((1, paddle), {(1, paddle): None})}
        for node in merged:
            groups[node] = merged
    seen = set()
    for group in groups.values():
        if id(group) not in seen:
            seen.add(id(group))
            yield min(path for side, path in group if side == 0), tuple(group)
