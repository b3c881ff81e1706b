"""details.json: what a real divergence leaves for the report, and that it stays bounded."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest

from stepalign.coordinator.comparison.comparison import Comparison, StepJudgement
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.results.details_json import read_details_json
from stepalign.coordinator.results.result_json import load_result
from stepalign.coordinator.running.difference_map import MAX_STEPS, MAX_TENSORS, DifferenceMap, level_of

from ..real_cases import PADDLE_SIDE, run, write_case


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the run folder of a port without weight decay."""
    paddle = PADDLE_SIDE.replace("weight_decay=0.01", "weight_decay=0.0")
    assert paddle != PADDLE_SIDE
    ended = run(write_case(tmp_path_factory.mktemp("case") / "decay", "steps = 3", paddle=paddle))
    assert ended.code == 1, ended.stderr
    return Path(ended.folder)


def test_the_map_has_every_tensor_of_every_kind_at_every_step(diverged: Path) -> None:
    details = read_details_json(diverged)
    rows = {(kind, torch) for kind, torch, _ in details["map"]["rows"]}
    assert details["map"]["steps"] == [0, 1, 2] and details["map"]["left_out"] == 0
    for tensor in details["tensors"]:
        assert {("gradient", tensor), ("parameter", tensor), ("optimizer_state", f"{tensor}/moment1")} <= rows
    levels = dict(zip(map(tuple, details["map"]["rows"]), details["map"]["levels"]))
    assert all(level > 0 for level in levels["parameter", "fc1.weight", "fc1.weight"])
    assert levels["loss", "loss", "loss"][0] < 0


def test_the_first_failing_steps_elements_agree_with_the_verdict(diverged: Path) -> None:
    details, place = read_details_json(diverged), load_result(diverged).first_divergence
    assert place is not None and details["first_failure"]["step"] == place.step == 0
    tensor = next(
        item
        for item in details["first_failure"]["tensors"]
        if (item["kind"], item["torch_name"]) == (place.kind, place.torch_name)
    )
    assert tensor["worst"][0]["difference"] == pytest.approx(place.max_abs)
    assert tensor["worst"][0]["index"] == list(place.index or ())
    assert tensor["worst"][0]["torch"] == pytest.approx(place.torch)
    assert sum(tensor["counts"]) + tensor["equal"] + tensor["not_finite"] == tensor["elements"] == tensor["looked_at"]


def test_the_module_of_the_first_divergence_is_marked_in_the_page(diverged: Path) -> None:
    details = read_details_json(diverged)
    assert details["bad_module"] == "fc1"
    assert {"path": "fc1", "type": "Linear"}.items() <= details["modules"][1].items()
    html = (diverged / "report.html").read_text(encoding="utf-8")
    (marked,) = [line for line in html.splitlines() if "first divergence</strong>" in line]
    assert re.search(r'class="leaf bad".*>fc1<', marked)


def _judgement(step: int, tensors: int, passed: bool) -> StepJudgement:
    measures = Measures(count=4, max_abs=1e-3, reference=1.0)
    items = [
        Comparison(step, "parameter", f"w{number}", f"w{number}", passed, 1e-2 if passed else 1e-5, 0.0, measures)
        for number in range(tensors)
    ]
    return StepJudgement(step, tuple(items), (), 0.0)


def test_the_map_of_a_long_run_of_a_large_model_stays_bounded() -> None:
    table = DifferenceMap()
    for step in range(5000):
        table.note(_judgement(step, 2, passed=step != 4001))
    plain = table.to_plain()
    assert len(plain["steps"]) <= MAX_STEPS and plain["steps"] == sorted(plain["steps"])
    assert set(range(4001, 4009)) <= set(plain["steps"]) and plain["steps"][0] == 0
    assert plain["levels"][0][plain["steps"].index(4001)] == pytest.approx(2.0)
    table.note(_judgement(5120, MAX_TENSORS + 10, passed=False))
    assert len(table.to_plain()["rows"]) == MAX_TENSORS and table.left_out == 10


def test_the_steps_around_a_first_failure_that_is_found_when_steps_are_repeated_stay() -> None:
    table = DifferenceMap()
    for step in range(5000):
        table.note(_judgement(step, 2, passed=step < 4001))
    for step in range(3981, 4001):
        table.note(_judgement(step, 2, passed=step < 3985))
    steps = table.to_plain()["steps"]
    assert set(range(3985, 3993)) <= set(steps) and len(steps) <= MAX_STEPS


def test_a_cell_of_the_map_takes_eight_bytes_and_little_more() -> None:
    steps = [_judgement(step, 300, passed=True) for step in range(100)]
    table = DifferenceMap()
    table.note(steps[0])
    tracemalloc.start()
    try:
        for judgement in steps[1:]:
            table.note(judgement)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / (99 * 300) < 10


def test_a_tensor_that_comes_later_has_no_cell_at_the_steps_before() -> None:
    table = DifferenceMap()
    table.note(_judgement(0, 1, passed=True))
    table.note(_judgement(1, 3, passed=True))
    table.note(_judgement(2, 0, passed=True))
    assert table.to_plain()["levels"] == [[-1.0, -1.0, None], [None, -1.0, None], [None, -1.0, None]]


def test_a_level_is_on_the_side_of_zero_that_its_verdict_is() -> None:
    (passed,) = _judgement(0, 1, passed=True).comparisons
    (failed,) = _judgement(0, 1, passed=False).comparisons
    assert level_of(passed) == pytest.approx(-1.0) and level_of(failed) == pytest.approx(2.0)
    assert level_of(Comparison(0, "parameter", "w", None, False, reason="missing")) == 6.0
