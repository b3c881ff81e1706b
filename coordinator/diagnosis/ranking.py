"""Puts causes in the order that a reader wants: one per category and code, most likely first."""

from __future__ import annotations

from collections.abc import Iterable

from stepalign.coordinator.diagnosis.cause import Cause


def rank(causes: Iterable[Cause]) -> list[Cause]:
    """Return one cause per category and code, the one with the highest confidence, sorted most likely first.

    Causes of equal confidence keep the order in which they came.
    """
    best: dict[tuple[str, str], Cause] = {}
    for cause in causes:
        key = (cause.category.value, cause.code)
        known = best.get(key)
        if known is None or cause.confidence > known.confidence:
            best[key] = cause
    return sorted(best.values(), key=lambda cause: -cause.confidence)
