"""stepalign: show that a PaddlePaddle port of a PyTorch model trains the same.

The names in ``__all__`` are the Python API, and stable. Each is imported when it is first asked for, so that
``import stepalign`` imports nothing else, and the protocol below this package never sees the coordinator.
"""

from __future__ import annotations

__version__ = "0.1.0"

__all__ = ["CaseError", "Outcome", "StepalignError", "Verdict", "__version__", "run", "schedule"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stepalign.coordinator.api import Outcome, Verdict, run, schedule
    from stepalign.protocol.errors import CaseError, StepalignError
else:
    _HOMES = {
        "CaseError": "stepalign.protocol.errors",
        "Outcome": "stepalign.coordinator.api",
        "StepalignError": "stepalign.protocol.errors",
        "Verdict": "stepalign.coordinator.api",
        "run": "stepalign.coordinator.api",
        "schedule": "stepalign.coordinator.api",
    }

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'stepalign' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
