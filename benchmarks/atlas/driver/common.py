"""Turns what a pairing says to construct, as plain values, into objects of whichever framework is installed."""

import importlib
import math


def find(dotted):
    """Return the class or function of a dotted name."""
    module, _, name = dotted.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        return getattr(find(module), name)


def construct(value, given):
    """Return the object that a plain value describes; ``given(target)`` are further arguments of a call."""
    if isinstance(value, list):
        return [construct(item, given) for item in value]
    if not isinstance(value, dict):
        return value
    if "$call" in value:
        arguments = {name: construct(item, given) for name, item in value["arguments"].items()}
        arguments.pop("optimizer.lr", None)
        return find(value["$call"])(**arguments, **given(value["$call"]))
    if "$expression" in value:
        return eval(value["$expression"], {"math": math, **frameworks()})
    if "$tuple" in value:
        return tuple(construct(item, given) for item in value["$tuple"])
    return {key: construct(item, given) for key, item in value.items()}


def frameworks():
    """Return the frameworks that are there, by name, for code that names one."""
    import sys

    return {name: sys.modules[name] for name in ("torch", "paddle") if name in sys.modules}


def clip_of(value, parameters):
    """Return the function that clips, or None."""
    if value is None:
        return None
    if "$expression" in value:
        function = construct(value, lambda target: {})
        return lambda named: function(list(named.values()))
    function, arguments = find(value["$call"]), construct(value["arguments"], lambda target: {})
    return lambda named: function([each for each in named.values() if each.grad is not None], **arguments)


def grouped(groups, parameters):
    """Return parameter groups, or all parameters in a list; a parameter is of the first group whose prefix fits."""
    if not groups:
        return list(parameters.values())
    found = [{**arguments, "params": []} for _, arguments in groups]
    for name, parameter in parameters.items():
        position = next(index for index, (prefix, _) in enumerate(groups) if name.startswith(prefix))
        found[position]["params"].append(parameter)
    return [group for group in found if group["params"]]


def without_call(value):
    """Return a call's arguments as plain values and its target."""
    return value["$call"], value["arguments"]
