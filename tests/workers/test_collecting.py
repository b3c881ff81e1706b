"""What imports without the collector leave behind: nothing but older objects."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from stepalign.workers.collecting import no_collecting


class Node:
    """Something that the collector tracks."""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Leave the collector as it was."""
    was = gc.isenabled()
    yield
    (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_does_nothing_inside_and_is_as_it_was_afterwards(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    collections: list[str] = []

    def note(phase: str, info: object) -> None:
        collections.append(phase)

    gc.callbacks.append(note)
    try:
        with no_collecting():
            assert not gc.isenabled()
            kept = [Node() for _ in range(50_000)]
            assert collections == []
    finally:
        gc.callbacks.remove(note)
    assert gc.isenabled() is enabled and len(kept) == 50_000


def test_the_collector_is_as_it_was_after_an_import_that_failed() -> None:
    gc.enable()
    with pytest.raises(ImportError), no_collecting():
        raise ImportError("nothing of this name")
    assert gc.isenabled()


def test_what_was_made_inside_is_old_and_still_found() -> None:
    with no_collecting():
        kept = Node()
    assert any(found is kept for found in gc.get_objects(generation=2))
    assert gc.get_freeze_count() == 0


def test_garbage_that_was_made_inside_is_collected_later() -> None:
    alive: list[str] = []

    class Loop:
        def __del__(self) -> None:
            alive.append("collected")

    with no_collecting():
        loop = Loop()
        loop.itself = loop  # type: ignore[attr-defined]
        del loop
    assert alive == []
    gc.collect()
    assert alive == ["collected"]


def test_what_a_script_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with no_collecting():
            kept = Node()
        assert gc.get_freeze_count() >= frozen - 10 > 0 and kept is not None
    finally:
        gc.unfreeze()
