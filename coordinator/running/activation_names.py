"""The names of what modules gave and were given, as both workers record them, and which name of paddle's is torch's.

``encoder.0#1:0@grad`` is the gradient of the first part of what the second call of ``encoder.0`` returned. What a call is
given is ``encoder.0@input``, the first tensor, and ``encoder.0@input:mask``, another argument. ``@update:1`` marks where the
second optimizer began its update.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping

ROOT = "<model>"
_INPUT = "@input"


def module_of(key: str) -> str:
    """Return the module's path of an activation's name: ``encoder.0#1:0@grad`` is of ``encoder.0``."""
    for mark in "@:#":
        key = key.partition(mark)[0]
    return "" if key == ROOT else key


def call_of(key: str) -> str:
    """Return the call of a module that an activation's name is of: ``encoder.0#1:0@grad`` is of ``encoder.0#1``."""
    return key.partition("@")[0].partition(":")[0]


def is_output(key: str) -> bool:
    """Say whether a name is of something that a module returned."""
    return "@" not in key


def is_input(key: str) -> bool:
    """Say whether a name is of something that a module was given."""
    return _INPUT in key


def is_update(key: str) -> bool:
    """Say whether a name marks the beginning of an optimizer's update."""
    return key.startswith("@update")


def argument_of(key: str) -> str:
    """Return which argument an input's name is of: ``mask`` of ``fc@input:mask``; empty for the first tensor."""
    return key.partition(_INPUT)[2][1:]


def partner(key: str, paths: Mapping[str, str]) -> str:
    """Return paddle's name for one of torch's; ``paths`` maps the modules."""
    module = module_of(key)
    shown = ROOT if key.startswith(ROOT) else module
    there = paths.get(module, module) if module else ROOT
    return there + key[len(shown) :]


def shown_path(path: str) -> str:
    """Return a module's path as a sentence names it."""
    return path or "the model itself"


def input_partners(torch: Iterable[str], paddle: Iterable[str], paths: Mapping[str, str]) -> Dict[str, str]:
    """Return paddle's name of each argument of torch's calls beside the first tensor, where paddle's call has it.

    Arguments of one name belong together; those whose names the other call does not know, if both have the same place.
    """
    ours, theirs = _by_call(torch), _by_call(paddle)
    found: Dict[str, str] = {}
    for call, keys in ours.items():
        others = theirs.get(partner(call, paths), [])
        named = {argument_of(other): other for other in others}
        known = {argument_of(key) for key in keys}
        for place, key in enumerate(keys):
            if not argument_of(key):
                continue
            if argument_of(key) in named:
                found[key] = named[argument_of(key)]
            elif place < len(others) and argument_of(others[place]) not in known:
                found[key] = others[place]
    return found


def _by_call(keys: Iterable[str]) -> Dict[str, List[str]]:
    """Return the inputs' names of each call, in order."""
    found: Dict[str, List[str]] = {}
    for key in keys:
        if is_input(key):
            found.setdefault(call_of(key), []).append(key)
    return found
