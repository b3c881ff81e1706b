"""What a checkpoint holds of the judge and the record comes back as it was, to the last bit."""

from __future__ import annotations

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement, compare_values
from stepalign.coordinator.comparison.judge_memory import JudgeMemory
from stepalign.coordinator.results.result import KnownDifference
from stepalign.coordinator.running import recorder
from stepalign.coordinator.running.checkpoints import Kept, read_checkpoint, write_checkpoint
from stepalign.coordinator.running.continuing import missing_steps
from stepalign.coordinator.running.difference_map import MAX_STEPS, DifferenceMap
from stepalign.coordinator.running.kept_record import pack_memory, pack_record, unpack_memory, unpack_record
from stepalign.coordinator.running.recorder import Record, Recorder
from stepalign.coordinator.running.run_state import Origin, Run
from stepalign.coordinator.sessions.step_plan import StepPair
from stepalign.protocol.messages import Named, StepResult
from stepalign.protocol.tensors import digest


def through_the_disk(folder: Path, arrays: Named, plain: dict[str, Any]) -> tuple[Named, dict[str, Any]]:
    """Write and read a part of a checkpoint."""
    write_checkpoint(folder / "checkpoints", Kept(2, {"part": arrays}, {"plain": plain}))
    found = read_checkpoint(folder, 2)
    return dict(found.arrays["part"]), found.plain["plain"]


def described(arrays: Named) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def test_a_judges_memory_comes_back(tmp_path: Path) -> None:
    memory = JudgeMemory(
        ({"a/b.weight": np.array([[1.5, np.nan]], np.float32)}, {"a/b.weight": np.array([[1.5, -0.0]], np.float32)}),
        ({"a/b.weight": {"exp_avg": np.ones(2), "step": np.array(3, np.int64)}}, {"w": {"moment1": np.zeros((0, 3))}}),
        math.inf,
        0.1 + 0.2,
        {"a/b.weight": {"form": "coupled", "betas": (0.9, 0.999), "none": None, "eps": 1e-300}},
        {("a/b.weight", 0): "float32", ("a/b.weight", 1): "fused"},
        {"average/b", "average.a"},
    )
    came = unpack_memory(*through_the_disk(tmp_path, *pack_memory(memory)))
    for side in (0, 1):
        assert described(came.before[side]) == described(memory.before[side])
        assert {name: described(slots) for name, slots in came.state_before[side].items()} == {
            name: described(slots) for name, slots in memory.state_before[side].items()
        }
    assert (came.drift, came.peak_rate) == (memory.drift, memory.peak_rate)
    assert (came.variants, came.rounding, came.adrift) == (memory.variants, memory.rounding, memory.adrift)


def test_what_a_judge_remembers_transposed_is_kept_once_with_the_sides_own_state(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(3, 2)
    memory = JudgeMemory(({}, {"w": weight.T}), ({}, {"w": {"moment1": weight.T}}), 0.0, 0.0, {}, {}, set())
    arrays, plain = pack_memory(memory)
    assert {digest({"": array}) for array in arrays.values()} == {digest({"": weight})}
    came = unpack_memory(*through_the_disk(tmp_path, arrays, plain))
    for array in (came.before[1]["w"], came.state_before[1]["w"]["moment1"]):
        assert np.array_equal(array, weight.T) and array.flags.f_contiguous


class Judge:
    """Judges a step of a value, a shape and a name that differ more from step to step."""

    def judge(self, pair: StepPair) -> StepJudgement:
        step = pair.step
        ours, theirs = np.float32([1.0, 2.0]), np.float32([1.0, 2.0 + (step % 5) * 1e-6])
        found = [
            compare_values(step, "loss", "loss", "loss", pair.reference.loss, pair.candidate.loss, 1e-5, 0.0),
            compare_values(step, "parameter", "w", "v", ours, theirs, 1e-6, 1e-9),
            compare_values(step, "gradient", f"only {step // 9}", None, ours, None, 0.0, 0.0),
            Comparison(step, "lr", "group 0", "group 0", step % 4 != 3),
        ]
        known = (KnownDifference(f"code {step % 2}", "w", "text"),)
        return StepJudgement(step, tuple(found[: 4 if step > 6 else 2]), known, step / 7)

    def resynchronised(self) -> None:
        """Nothing is remembered."""


def pair(step: int) -> StepPair:
    losses = np.float32([1 / (step + 1), np.nan if step == 11 else 1 / (step + 1)])
    tensors = {"parameter": {"w": np.ones(3)}, "used_gradient": {"w": np.ones(3)} if step == 1 else {}}
    sides = [
        StepResult(step, [0.1 / 3, step], np.array(loss), f"{step:032x}", tensors, (), 0.1 + number)
        for number, loss in enumerate(losses)
    ]
    return StepPair(step, sides[0], sides[1], f"{step:032x}")


def recorded(steps: range, record: Record | None = None) -> Record:
    """Return the record of these steps, which goes on with ``record`` if there is one."""
    taking = Recorder(Judge(), None)  # type: ignore[arg-type]
    if record is not None:
        taking.record = record
    for step in steps:
        taking.take(pair(step))
    return taking.record


def plain_of(record: Record) -> dict[str, Any]:
    """Return all of a record as texts, in which types show and NaN is equal to itself."""
    arrays, plain = pack_record(record)
    failures = [repr(judgement) for judgement in record.failures], repr(record.failures.first), record.failures.last_step
    return {
        "arrays": described(arrays),
        "plain": json.dumps({name: value for name, value in plain.items() if name != "failures"}, default=str),
        "failures": failures,
        "dtypes": [[str(loss.dtype) for loss in losses] for losses in record.losses],
        "map": record.map.to_plain(),
        "worst": {kind: repr(item) for kind, item in record.worst.items()},
        "known": record.known,
    }


@pytest.mark.parametrize("stopped", [0, 2, 13, 40])
def test_a_record_that_goes_on_from_a_checkpoint_is_that_of_an_uninterrupted_run(stopped: int, tmp_path: Path) -> None:
    whole = recorded(range(60))
    before = recorded(range(stopped))
    came = Record()
    lost = unpack_record(came, *through_the_disk(tmp_path, *pack_record(before)))
    assert lost == sorted(before.pairs)
    came.pairs.update(before.pairs)  # what a resumed run repeats
    assert plain_of(came) == plain_of(before)
    assert plain_of(recorded(range(stopped, 60), came)) == plain_of(whole)
    assert sorted(came.pairs) == sorted(whole.pairs) and came.steps == 60 and came.clipped


def test_failures_of_many_steps_go_into_a_checkpoint_as_they_are_packed() -> None:
    before, came = Record(), Record()
    for step in range(1000):
        ours, theirs = np.random.default_rng(step).standard_normal((2, 3))
        failed = [compare_values(step, "loss", f"{number}", None, ours, theirs, 1e-6, 0.0) for number in range(10)]
        before.failures.take(StepJudgement(step, tuple(failed), (), step / 7))
    tracemalloc.start()
    try:
        arrays, plain = pack_record(before)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    unpack_record(came, arrays, plain)
    assert repr(list(came.failures)) == repr(list(before.failures)) and len(came.failures) == 1000
    assert peak / 10_000 < 200


def test_whole_steps_find_as_much_room_after_a_checkpoint_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_bytes = 2 * np.ones(3).nbytes
    monkeypatch.setattr(recorder, "KEPT_SIZE_BYTES", size_bytes)
    before = recorded(range(1))
    came = Record()
    assert unpack_record(came, *through_the_disk(tmp_path, *pack_record(before))) == [0]
    assert sorted(recorded(range(1, 5), came).pairs) == [2, 3]  # the first failure and the step before: always


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_the_step_before_the_first_failure_is_had_after_a_checkpoint_too(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 3 is the first that fails; its update started from what step 2 left."""
    monkeypatch.setattr(recorder, "KEPT_SIZE_BYTES", 0)
    run = Run(cast(Case, None), tmp_path, Origin(first, Kept(first, {})))
    run.lost_steps = unpack_record(run.record, *through_the_disk(tmp_path, *pack_record(recorded(range(first)))))
    recorded(range(first, 6), run.record)
    assert sorted({*run.record.pairs, *missing_steps(run)}) == sorted(recorded(range(6)).pairs) == [2, 3]


def judgements(count: int, fails_at: int) -> list[StepJudgement]:
    """Return steps of which one fails, with rows that come and go."""
    chance = np.random.default_rng(0)
    found = []
    for step in range(count):
        apart = np.float32(chance.uniform(0, 1e-7, 4))
        items = [
            compare_values(step, "parameter", f"w{row}", f"v{row}", np.float32([1]), np.float32([1 + apart[row]]), 1e-6, 0)
            for row in range(4)
            if (step + row) % 3
        ]
        items.append(Comparison(step, "lr", None, None, step != fails_at))
        found.append(StepJudgement(step, tuple(items)))
    return found


@pytest.mark.parametrize("stopped", [0, 1, 100, MAX_STEPS + 1, 3 * MAX_STEPS])
def test_a_map_that_goes_on_from_a_checkpoint_is_that_of_an_uninterrupted_run(stopped: int, tmp_path: Path) -> None:
    steps = judgements(4 * MAX_STEPS, fails_at=MAX_STEPS + 60)
    whole, before, came = DifferenceMap(), DifferenceMap(), DifferenceMap()
    for judgement in steps:
        whole.note(judgement)
    for judgement in steps[:stopped]:
        before.note(judgement)
    before.left_out = 3
    levels, plain = before.pack()
    arrays, plain = through_the_disk(tmp_path, {"levels": levels}, plain)
    came.unpack(arrays["levels"], plain)
    assert came.to_plain() == before.to_plain()
    for judgement in steps[stopped:]:
        came.note(judgement)
    assert came.to_plain() == {**whole.to_plain(), "left_out": 3}
