"""Prints, as JSON, what one framework has: classes and functions with the default of each argument. Standard library only.

Run by the framework's own interpreter: ``python inventory_script.py torch|paddle``.
"""

import importlib
import inspect
import json
import sys

PLACES = {
    "torch": (
        ("torch.optim", "class", "torch.optim", ""),
        ("torch.optim.lr_scheduler", "class", "torch.optim.lr_scheduler", ""),
        ("torch.optim.swa_utils", "class", "torch.optim.swa_utils", "SWALR"),
        ("torch.nn.utils", "function", "torch.nn.utils.clip_grad", "clip_grad"),
    ),
    "paddle": (
        ("paddle.optimizer", "class", "paddle.optimizer", ""),
        ("paddle.optimizer.lr", "class", "paddle.optimizer.lr", ""),
        ("paddle.regularizer", "class", "paddle.regularizer", ""),
        ("paddle.nn", "class", "paddle.nn", "ClipGrad"),
        ("paddle.nn.utils", "function", "paddle.nn.utils", "clip_grad"),
    ),
}
"""For each framework: a module, what to list of it, where the listed come from, and how their names begin."""


def public(module, kind, origin, prefix):
    """Yield the public classes or functions of a module by their dotted name."""
    wanted = inspect.isclass if kind == "class" else inspect.isfunction
    for name, value in sorted(vars(module).items()):
        named = name.startswith(prefix) and not name.startswith("_")
        if named and wanted(value) and value.__module__.startswith(origin):
            yield module.__name__ + "." + name, value


def defaults(value):
    """Return each argument's default; "required" has none, "tuple" marks a tuple."""
    found = {}
    for name, parameter in inspect.signature(value).parameters.items():
        default = parameter.default
        if default is parameter.empty:
            found[name] = {"required": True}
        elif isinstance(default, tuple):
            found[name] = {"tuple": list(default)}
        else:
            found[name] = {"value": default if isinstance(default, (bool, int, float, str)) else None}
    return found


if __name__ == "__main__":
    listed = {
        dotted: defaults(value)
        for place, kind, origin, prefix in PLACES[sys.argv[1]]
        for dotted, value in public(importlib.import_module(place), kind, origin, prefix)
    }
    print("INVENTORY " + json.dumps(listed))
