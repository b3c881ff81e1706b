"""steps.jsonl of a run that is resumed: steps that it has already must come out as they were; then it is continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Tuple

from stepalign.coordinator.results.records import StepsLog, iterate_steps, to_strict
from stepalign.protocol.errors import StepalignError

_MAY_DIFFER = ("seconds",)


class NotRepeatedError(StepalignError):
    """A run that continues is not where the interrupted one was: a state not put back, or a repeated step that differs."""


class RepeatedLog:
    """Takes the place of the log while steps are repeated. ``count`` is how many lines the log has."""

    def __init__(self, log: StepsLog, folder: Path, count: int) -> None:
        self._log = log
        self._folder = folder
        self._count = count
        self._recorded: Optional[Iterator[Mapping[str, Any]]] = None
        self._failed: Optional[NotRepeatedError] = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Compare a line with the one that is there, bit by bit, or append it. Raises NotRepeatedError."""
        step = int(record["step"])
        if self._failed is not None:
            raise self._failed  # steps that were under way must not be appended
        if step >= self._count:
            self._recorded = None
            self._log.append(record)
            return
        if self._recorded is None:
            self._recorded = iterate_steps(self._folder, step)
        difference = _difference(next(self._recorded), to_strict(record))
        if difference:
            self._failed = NotRepeatedError(f"step {step}, run again, did not give what was recorded: {difference}")
            raise self._failed


def _difference(before: Any, now: Any) -> str:
    """Say what differs first between two lines of one step; empty if nothing does."""
    were, are = dict(_leaves(before)), dict(_leaves(now))
    for path in [*were, *(path for path in are if path not in were)]:
        if were.get(path) != are.get(path) and path[0] not in _MAY_DIFFER:
            return f"{'.'.join(map(str, path))} was {_shown(were.get(path))}, now {_shown(are.get(path))}"
    return ""


def _leaves(value: Any, path: Tuple[Any, ...] = ()) -> Iterator[Tuple[Tuple[Any, ...], Any]]:
    items: Any = None
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    if not items:
        yield path, value
        return
    for key, item in items:
        yield from _leaves(item, (*path, key))


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
