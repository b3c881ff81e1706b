"""stepalign: show that a PaddlePaddle port of a PyTorch model trains the same.

The names in ``__all__`` are the Python API, and stable. Each is imported when it is first asked for, so that
``import stepalign`` imports nothing else, and no module of the protocol names the coordinator; `__init__.pyi` has their types.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["CaseError", "Result", "StepalignError", "Verdict", "__version__", "optimizer", "record", "run", "schedule"]

_HOMES = {
    "CaseError": "protocol.errors",
    "Result": "coordinator.api",
    "StepalignError": "protocol.errors",
    "Verdict": "coordinator.api",
    "optimizer": "coordinator.api",
    "record": "coordinator.api",
    "run": "coordinator.api",
    "schedule": "coordinator.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
