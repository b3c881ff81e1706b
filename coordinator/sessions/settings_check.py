"""Compares the settings that change numbers, before the first step."""

from __future__ import annotations

from typing import List

from stepalign.protocol.errors import WorkerFailure
from stepalign.protocol.messages import WorkerFacts

_MUST_BE_EQUAL = ("default_dtype", "threads", "deterministic", "tf32")


def compare_settings(torch: WorkerFacts, paddle: WorkerFacts) -> List[str]:
    """Return warnings about settings that differ; raises WorkerFailure for one that must never differ.

    A setting that only one framework has is named ``torch.…`` or ``paddle.…`` and is recorded, not compared.
    """
    warnings = []
    for name in sorted({*torch.settings, *paddle.settings}):
        if name.startswith(("torch.", "paddle.")) or name not in torch.settings or name not in paddle.settings:
            continue
        ours, theirs = torch.settings[name], paddle.settings[name]
        if ours == theirs:
            continue
        if name in _MUST_BE_EQUAL and torch.device == paddle.device:
            raise WorkerFailure(
                f"setting {name} is {ours!r} on torch and {theirs!r} on paddle after both were set alike: "
                "a script or an environment variable changes it; remove that"
            )
        warnings.append(f"setting {name} is {ours!r} on torch and {theirs!r} on paddle")
    return warnings
