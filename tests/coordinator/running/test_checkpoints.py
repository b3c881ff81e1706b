"""What is kept of a run, when, and that nothing but what was written is ever read."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepalign.coordinator.results.records import StepsLog
from stepalign.coordinator.running import checkpoints
from stepalign.coordinator.running.checkpoints import (
    Keeper,
    Kept,
    forget,
    kept_steps,
    read_checkpoint,
    why_refused,
    write_checkpoint,
)
from stepalign.protocol.errors import CaseError
from stepalign.protocol.messages import Checkpoint, Named


class Clock:
    """A clock that a test turns; ``tick_s`` passes at each look."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tick_s = 0.0

    def __call__(self) -> float:
        self.now += self.tick_s
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[StepsLog]:
    with StepsLog(tmp_path / "steps.jsonl") as opened:
        yield opened


def kept(step: int, size: int = 3) -> Kept:
    """Return a checkpoint with every dtype's troubles, one array twice, and numbers that are not finite."""
    weights = np.linspace(0, 1, size, dtype=np.float32)
    arrays = {
        "torch": {"a.weight": weights, "b": np.array(np.nan), "empty": np.zeros((0, 2), np.int64)},
        "paddle": {"a.weight": weights.copy()},
        "record": {"passed": np.array([True, False]), "wide": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
    }
    return Kept(step, arrays, {"memory": {"drift": float("inf")}, "sides": {"torch": "text"}})


def state(problem: str = "", seconds: float = 0.0, size: int = 1) -> dict[str, Checkpoint]:
    """Return what both sides say of their state; the torch side may have a problem."""
    return {
        "torch": Checkpoint({} if problem else {"w": np.ones(size)}, "" if problem else "{}", problem, seconds),
        "paddle": Checkpoint({"w": np.ones(1)}, "{}", "", 0.0),
    }


def describe() -> tuple[dict[str, Named], dict[str, object]]:
    return {"judge": {"before": np.zeros(2)}}, {"memory": {}}


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / str(step)


def assert_read(found: Kept, expected: Kept) -> None:
    assert found.step == expected.step
    assert found.plain == {"step": expected.step, "memory": {"drift": "Infinity"}, "sides": {"torch": "text"}}
    assert {owner: list(named) for owner, named in found.arrays.items()} == {
        owner: list(named) for owner, named in expected.arrays.items()
    }
    for owner, named in expected.arrays.items():
        for name, array in named.items():
            came = found.arrays[owner][name]
            assert (came.dtype, came.shape, came.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_what_is_read_is_what_was_written_and_equal_arrays_are_there_once(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(5))
    assert_read(read_checkpoint(tmp_path, 5), kept(5))
    with np.load(folder_of(tmp_path, 5) / "arrays.npz", allow_pickle=False) as archive:
        assert len(archive.files) == 5


def test_arrays_larger_than_what_is_written_at_once_are_read_as_they_were(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(5, 100_001))
    assert_read(read_checkpoint(tmp_path, 5), kept(5, 100_001))


def test_all_of_a_checkpoint_and_the_steps_before_it_are_on_the_disk_before_it_has_its_name_and_that_at_once_after(
    tmp_path: Path, log: StepsLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.partition(".tmp")[0])
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append(f"named {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    Keeper(tmp_path, log, 1.0, describe, clock).keep(5, state())
    at = done.index("named 5")
    assert done[0] == "steps.jsonl"
    assert {"arrays.npz"} < set(done[:at]) and sum(name.startswith(".state.") for name in done[:at]) == 2
    assert done[at - 1] == ".5"  # the folder itself: which files it has
    assert done[at + 1 :] == ["checkpoints"]


def test_the_two_newest_are_kept_and_half_written_ones_are_not_taken_for_any(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (9, 10, 100):
        write_checkpoint(folder, kept(step))
    assert kept_steps(tmp_path) == [100, 10]
    (folder / ".101.tmp").mkdir()  # as a kill in the midst of writing leaves it
    (folder / ".101.tmp" / "arrays.npz").write_bytes(b"PK")
    shutil.copytree(folder / "10", folder / "10 (copy)")
    assert kept_steps(tmp_path) == [100, 10]
    shutil.rmtree(folder / "10 (copy)")
    write_checkpoint(folder, kept(100, 4))
    assert sorted(path.name for path in folder.iterdir()) == ["10", "100"]
    assert read_checkpoint(tmp_path, 100).arrays["torch"]["a.weight"].size == 4


@pytest.mark.parametrize("name", ["arrays.npz", "state.json", "state.sha256"])
def test_no_flipped_byte_is_read_as_if_it_were_what_was_written(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(3))
    path = folder_of(tmp_path, 3) / name
    content = path.read_bytes()
    refused = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            found = read_checkpoint(tmp_path, 3)
        except CaseError as error:
            assert str(folder_of(tmp_path, 3)) in str(error)
            refused += 1
        else:
            assert_read(found, kept(3))  # a time stamp or a copy of a name in the archive
    assert refused > len(content) / 2


@pytest.mark.parametrize("name", ["arrays.npz", "state.json", "state.sha256"])
def test_a_half_written_or_missing_file_is_named(name: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(3, 1000))
    path = folder_of(tmp_path, 3) / name
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CaseError, match="checkpoints/3: a damaged checkpoint"):
            read_checkpoint(tmp_path, 3)
    path.unlink()
    with pytest.raises(CaseError, match="checkpoints/3: a damaged checkpoint"):
        read_checkpoint(tmp_path, 3)


def test_arrays_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(3))
    write_checkpoint(tmp_path / "checkpoints", kept(4, 5))
    shutil.copy(folder_of(tmp_path, 3) / "arrays.npz", folder_of(tmp_path, 4) / "arrays.npz")
    with pytest.raises(CaseError, match="damaged checkpoint"):
        read_checkpoint(tmp_path, 4)
    shutil.copytree(folder_of(tmp_path, 3), folder_of(tmp_path, 7))
    with pytest.raises(CaseError, match="damaged checkpoint"):
        read_checkpoint(tmp_path, 7)


def test_other_numbers_under_the_names_of_what_was_written_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(3))
    path = folder_of(tmp_path, 3) / "arrays.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    changed = next(name for name, array in arrays.items() if array.dtype == np.float32)
    np.savez(path, **{**arrays, changed: np.nextafter(arrays[changed], np.float32(9.0))})
    with pytest.raises(CaseError, match="an array is not what its digest says"):
        read_checkpoint(tmp_path, 3)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(3))
    path = folder_of(tmp_path, 3) / "state.json"
    written = json.loads(path.read_text())
    for version in (checkpoints.VERSION + 1, None):
        content = json.dumps({**written, "version": version}).encode()
        path.write_bytes(content)
        path.with_name("state.sha256").write_text(hashlib.sha256(content).hexdigest())
        with pytest.raises(CaseError, match="a checkpoint that another stepalign wrote"):
            read_checkpoint(tmp_path, 3)


def test_an_archive_that_asks_for_a_later_zip_or_a_password_is_damaged(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(3))
    path = folder_of(tmp_path, 3) / "arrays.npz"
    content = path.read_bytes()
    entry = content.index(b"PK\x01\x02")
    for offset, bits, message in ((6, 0xC0, "NotImplementedError: zip"), (8, 0x01, "RuntimeError: .* encrypted")):
        changed = bytearray(content)
        changed[entry + offset] |= bits
        path.write_bytes(changed)
        with pytest.raises(CaseError, match=f"damaged checkpoint: {message}"):
            read_checkpoint(tmp_path, 3)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(3))
    np.savez(folder_of(tmp_path, 3) / "arrays.npz", x=np.array([print], dtype=object))
    with pytest.raises(CaseError, match="damaged checkpoint"):
        read_checkpoint(tmp_path, 3)


def test_it_is_time_when_the_interval_is_over(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    keeper = Keeper(tmp_path, log, 30.0, describe, clock)
    asked = []
    for clock.now in (0.0, 29.9, 30.0, 30.1, 59.9, 60.0):
        asked.append(keeper.due(False))
    assert asked == [False, False, True, False, False, True]


def test_what_takes_long_is_done_less_often(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    keeper = Keeper(tmp_path, log, 30.0, describe, clock)
    clock.tick_s = 5.0
    keeper.keep(2, state(seconds=3.0))
    clock.tick_s = 0.0
    ended = clock.now
    cost_s = 5.0 + 3.0  # one look at the clock is between begin and end, and the slower side's own time
    clock.now = ended + cost_s / checkpoints.MOST_OF_TIME - 6
    assert not keeper.due(False)
    clock.now += 7
    assert keeper.due(False)


def test_the_first_time_too_waits_until_it_takes_little_of_the_runs_time(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    keeper = Keeper(tmp_path, log, 30.0, describe, clock, size_bytes=10 * checkpoints.KEPT_BYTES_PER_S)
    clock.now = 10 / checkpoints.MOST_OF_TIME - 1
    assert not keeper.due(False)
    assert keeper.due(True)
    clock.now = 2 * clock.now + 2
    assert keeper.due(False)


def test_an_interruption_waits_for_nothing_that_is_worth_keeping(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    keeper = Keeper(tmp_path, log, 30.0, describe, clock)
    clock.now = checkpoints.WORTH_S - 0.1
    assert not keeper.due(True)
    clock.now = checkpoints.WORTH_S
    assert not keeper.due(False)
    assert keeper.due(True)


def test_an_interruption_waits_no_longer_than_the_interval(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    keeper = Keeper(tmp_path, log, checkpoints.WORTH_S / 4, describe, clock)
    clock.now = checkpoints.WORTH_S / 4
    assert keeper.due(True)


def test_zero_seconds_keep_nothing(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    keeper = Keeper(tmp_path, log, 0.0, describe, clock)
    clock.now = 1e6
    assert not keeper.due(False) and not keeper.due(True)


def test_a_checkpoint_has_both_sides_and_the_coordinators_part(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    keeper = Keeper(tmp_path, log, 1.0, describe, clock)
    keeper.keep(checkpoints.FIRST_STEP - 1, state())
    assert kept_steps(tmp_path) == []
    keeper.keep(checkpoints.FIRST_STEP, state(size=4))
    found = read_checkpoint(tmp_path, checkpoints.FIRST_STEP)
    assert {owner: {name: array.size for name, array in named.items()} for owner, named in found.arrays.items()} == {
        "judge": {"before": 2},
        "torch": {"w": 4},
        "paddle": {"w": 1},
    }
    assert found.plain["sides"] == {"torch": "{}", "paddle": "{}"}


def test_what_a_checkpoint_was_made_of_is_gone_when_freed_memory_is_given_back(
    tmp_path: Path, log: StepsLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[bool] = []

    def describe_once() -> tuple[dict[str, Named], dict[str, object]]:
        array = np.zeros(3)
        made.append(weakref.ref(array))
        return {"record": {"losses": array}}, {}

    monkeypatch.setattr(checkpoints, "give_back", lambda: alive.append(made[0]() is not None))
    Keeper(tmp_path, log, 1.0, describe_once, clock).keep(2, state())
    assert kept_steps(tmp_path) == [2] and alive == [False]


def test_a_side_without_state_ends_keeping_and_what_was_kept_goes(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    keeper = Keeper(tmp_path, log, 1.0, describe, clock)
    keeper.keep(5, state())
    assert (kept_steps(tmp_path), why_refused(tmp_path)) == ([5], None)
    keeper.keep(6, state("global CALLS changes"))
    assert kept_steps(tmp_path) == []
    assert why_refused(tmp_path) == "the torch side: global CALLS changes"
    clock.now = 1e6
    assert not keeper.due(False) and not keeper.due(True)


def test_a_side_without_state_is_named_though_nothing_was_kept_yet(tmp_path: Path, log: StepsLog, clock: Clock) -> None:
    states = state()
    states["paddle"] = replace(states["paddle"], problem="a file is open")
    Keeper(tmp_path, log, 1.0, describe, clock).keep(1, states)
    assert why_refused(tmp_path) == "the paddle side: a file is open"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"step": 3}', "3"])
def test_a_reason_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / checkpoints.REFUSED_NAME).write_text(content)
    assert why_refused(tmp_path) is None


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may grow beyond 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_ends_keeping_and_leaves_what_is_there(
    tmp_path: Path, log: StepsLog, clock: Clock, little_room: None
) -> None:
    keeper = Keeper(tmp_path, log, 1.0, describe, clock)
    keeper.keep(5, state(size=10))
    keeper.keep(6, state(size=1 << 16))
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["5", "refused.json"]
    assert read_checkpoint(tmp_path, 5).step == 5
    assert "File too large" in str(why_refused(tmp_path))
    clock.now = 1e6
    assert not keeper.due(False) and not keeper.due(True)


def test_a_full_disk_that_has_no_room_for_the_reason_either_ends_keeping_all_the_same(
    tmp_path: Path, log: StepsLog, clock: Clock
) -> None:
    (tmp_path / "checkpoints").write_text("a file in the folder's place")
    keeper = Keeper(tmp_path, log, 1.0, describe, clock)
    keeper.keep(5, state())
    clock.now = 1e6
    assert not keeper.due(False)
    assert (kept_steps(tmp_path), why_refused(tmp_path)) == ([], None)


def test_a_complete_run_forgets_its_checkpoints(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoints", kept(3))
    forget(tmp_path)
    forget(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_pages_are_given_back_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[None] = []
    write_checkpoint(tmp_path / "small", kept(3), lambda: given_back.append(None))
    assert not given_back
    monkeypatch.setattr(checkpoints, "RESIDENT_SIZE_BYTES", 8)
    write_checkpoint(tmp_path / "checkpoints", kept(3), lambda: given_back.append(None))
    assert len(given_back) > 3
    given_back.clear()
    monkeypatch.setattr(checkpoints, "RESIDENT_SIZE_BYTES", 40)  # of 82 bytes that are read for digests, and 70 to be written
    write_checkpoint(tmp_path / "checkpoints", kept(4), lambda: given_back.append(None))
    assert len(given_back) == 2
    read, written = read_checkpoint(tmp_path, 3).arrays, kept(3).arrays
    assert {owner: set(named) for owner, named in read.items()} == {owner: set(named) for owner, named in written.items()}
