"""report.html: whole, self-contained, escaped, small, whatever the run was."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.report import build_report, write_report
from stepalign.coordinator.report.curves import ROOM, chart_data, thin
from stepalign.coordinator.report.steps_sample import StepsSample, read_sample
from stepalign.coordinator.report.tensor_map import tensor_map
from stepalign.coordinator.results.details_json import write_details_json
from stepalign.coordinator.results.records import write_json
from stepalign.coordinator.results.result import CaseFacts, Result, SideFacts
from stepalign.coordinator.results.result_json import to_json

from ..made_up_results import (
    HOSTILE_NAME,
    aligned,
    details,
    diverged,
    entry,
    every_result,
    failed,
    schedule_only,
    write_steps,
)

_VOID = frozenset(("meta", "link", "br", "hr", "img", "input"))
_RESULTS = every_result()


class _Page(HTMLParser):
    """What a page holds: its text by section, its scripts, the addresses it names, the elements left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self._section = ""
        self._script: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.addresses += [attributes[name] for name in ("src", "href", "srcset", "action") if name in attributes]
        assert not [name for name in attributes if name.startswith("on")]
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "section":
            self._section = attributes["id"]
        if tag == "script":
            self._script = attributes.get("id", "main")
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._script = None if tag == "script" else self._script

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data
        else:
            self.texts[self._section] = self.texts.get(self._section, "") + data

    @property
    def charts(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.scripts["charts"], parse_constant=pytest.fail)
        return value


def _written(folder: Path, result: Result) -> _Page:
    write_report(folder, result)
    return _Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", _RESULTS)
def test_a_report_of_every_kind_of_run_is_whole_small_and_names_no_address_outside_itself(
    name: str, tmp_path: Path
) -> None:
    write_steps(tmp_path, 10, first_failure=4)
    page = _written(tmp_path, _RESULTS[name])
    assert page.open == []
    assert page.addresses[0] == "data:,"
    assert all(address.startswith("#") for address in page.addresses[1:])
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
    assert _RESULTS[name].verdict.value in page.texts[""]


def test_the_page_forbids_itself_every_request_and_every_upload(tmp_path: Path) -> None:
    page = _written(tmp_path, aligned())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in html and "connect-src" not in html
    assert "showSendToCloud: false" in page.scripts["main"] and 'plotlyServerURL: ""' in page.scripts["main"]


def test_the_embedded_library_unpacks_to_plotly(tmp_path: Path) -> None:
    library = _written(tmp_path, aligned()).scripts["library"]
    assert zlib.decompress(base64.b64decode(library)).startswith(b"/**\n* plotly.js")


def test_markup_in_names_errors_and_reasons_stays_text(tmp_path: Path) -> None:
    write_steps(tmp_path, 10, first_failure=2)
    page = _written(tmp_path, diverged())
    assert HOSTILE_NAME in page.texts["where"]
    assert sorted(page.scripts) == ["charts", "library", "main"]
    assert any(HOSTILE_NAME in row["name"] for row in page.charts["heat_map"]["rows"])
    page = _written(tmp_path, failed())
    assert "<b>last</b> line" in page.texts["error"] and "\x1b" not in page.texts["error"]
    assert "b" not in page.tags[: page.tags.index("main") + 5]


def test_where_why_what_to_do_and_the_rest_are_told_in_this_order(tmp_path: Path) -> None:
    texts = _written(tmp_path, diverged()).texts
    expected = ["where", "why", "next", "warnings", "losses", "known", "findings"]
    assert [section for section in texts if section in expected] == expected
    assert "encoders.0.bias" in texts["where"] and "0.125" in texts["where"] and "12345" in texts["where"]
    assert texts["why"].index("decay on bias") < texts["why"].index("epsilon")
    assert "97 %" in texts["why"] and "pass apply_decay_param_fun" in texts["why"]
    assert "(20)" in texts["known"] and "bn19.running_var" in texts["known"]
    assert "one GPU is shared" in texts["warnings"]


def test_a_run_that_failed_before_any_step_has_its_error_and_no_charts(tmp_path: Path) -> None:
    page = _written(tmp_path, failed())
    assert page.scripts == {}
    assert "SIGKILL(-9)" in page.texts["error"]
    assert "paddle did not get ready" in page.texts[""]
    assert "torch.log" in page.texts["next"]


def test_a_setting_that_differs_is_marked_and_a_version_is_not(tmp_path: Path) -> None:
    write_report(tmp_path, diverged())
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    marked = [line for line in html.splitlines() if 'class="differs"' in line]
    assert len(marked) == 1 and "setting: threads" in marked[0]


def test_batches_that_differ_are_named_by_their_first_step(tmp_path: Path) -> None:
    paddle = aligned().paddle
    assert isinstance(paddle, SideFacts)
    digests = (*paddle.batch_digests[:4], "f" * 32, *paddle.batch_digests[5:])
    result = dataclasses.replace(aligned(), paddle=dataclasses.replace(paddle, batch_digests=digests))
    assert "first at step 4" in _written(tmp_path, result).texts["sides"]


def test_the_tolerance_is_drawn_from_the_steps_and_without_them_from_the_worst(tmp_path: Path) -> None:
    without = _written(tmp_path, aligned()).charts["loss_difference"]
    assert without["allowed"] == [1e-5, 1e-5] and without["allowed_steps"] == [0, 9]
    write_steps(tmp_path, 10, first_failure=10)
    drawn = _written(tmp_path, aligned()).charts["loss_difference"]
    assert drawn["allowed"] == [1e-5] * 10 and drawn["drift"] == [1e-8] * 10
    assert drawn["difference"] == pytest.approx([1e-8] * 10, rel=1e-6)


def test_rates_alone_are_drawn_thinned_with_their_difference_and_tolerance(tmp_path: Path) -> None:
    charts = _written(tmp_path, schedule_only()).charts
    assert charts["loss"] is None
    steps = charts["rates"]["steps"]
    assert len(steps) <= ROOM + 10 and {0, 500, 3999, 4000, 4999} <= set(steps)
    assert len(charts["rates"]["groups"]) == 1
    difference = dict(zip(charts["rate_difference"]["steps"], charts["rate_difference"]["difference"]))
    assert difference[3999] is None and difference[4000] == pytest.approx(1e-3)
    assert charts["rate_difference"]["allowed"] == pytest.approx([1e-10] * 2)


def test_groups_with_the_same_rates_share_one_curve(tmp_path: Path) -> None:
    rates = tuple((1e-3, 2e-3, 1e-3, 1e-3) for _ in range(10))
    series = dataclasses.replace(aligned().series, lr_torch=rates, lr_paddle=rates)
    groups = _written(tmp_path, dataclasses.replace(aligned(), series=series)).charts["rates"]["groups"]
    assert [group["label"] for group in groups] == ["groups 0, 2, 3", "group 1"]


def test_losses_that_are_not_finite_are_gaps_and_are_told(tmp_path: Path) -> None:
    page = _written(tmp_path, _RESULTS["not finite"])
    assert page.charts["loss"]["torch"] == [0.7, None, None]
    assert "torch: not finite at 2 of 3 steps, first at step 1." in page.charts["notes"]["loss"]
    assert "Infinity" in page.texts["steps"] and "missing" in page.texts["steps"]


def test_thinning_keeps_a_single_peak_and_a_single_dip() -> None:
    curve = np.sin(np.linspace(0, 6, 100_000))
    curve[12_345], curve[77_777], curve[50_000] = 9.0, -9.0, math.nan
    steps = thin([curve, np.full(100_000, math.nan)], marks=[31_415])
    assert {0, 12_345, 31_415, 77_777, 99_999} <= set(steps)
    assert len(steps) <= 2 * ROOM and steps == sorted(steps)


def test_a_thinned_chart_says_so(tmp_path: Path) -> None:
    long, short = (chart_data(aligned(steps), read_sample(tmp_path, 1), {})["notes"] for steps in (5000, 10))
    drawn = re.compile(r"\d+ of 5000 steps are drawn, with the peaks and dips of every curve\.")
    assert any(map(drawn.match, long["loss"])) and any(map(drawn.match, long["rates"]))
    assert not any("are drawn" in line for lines in short.values() for line in lines)


def test_measured_noise_is_thinned_with_its_peaks(tmp_path: Path) -> None:
    noise = [[step, 1e-3 if step == 3333 else 1e-9] for step in range(5000)]
    data = chart_data(aligned(5000), read_sample(tmp_path, 1), {"noise": {"loss": noise}})["loss_difference"]
    assert 3333 in data["noise_steps"] and len(data["noise_steps"]) == len(data["noise"]) <= ROOM + 2


def test_without_details_the_map_has_what_the_steps_tell(tmp_path: Path) -> None:
    write_steps(tmp_path, 8, first_failure=5)
    drawn = tensor_map(read_sample(tmp_path, 100), {})
    assert drawn is not None and drawn["failure"] is None and drawn["steps"] == list(range(8))
    levels = {(row["kind"], row["name"]): cells for row, cells in zip(drawn["rows"], drawn["levels"])}
    assert list(levels)[:2] == [("lr", ""), ("loss", "")]
    assert levels["gradient", f"{HOSTILE_NAME}.2"] == [None] * 7 + [0.6]
    place = list(levels).index(("gradient", f"{HOSTILE_NAME}.2"))
    assert drawn["facts"][f"{place},7"][0] == "2e-05"


def test_with_details_the_map_has_every_tensor_in_the_models_order(tmp_path: Path) -> None:
    drawn = tensor_map(StepsSample(), details())
    assert drawn is not None
    rows = [(row["kind"], row["name"]) for row in drawn["rows"]]
    assert rows == [
        ("lr", "group 0"),
        ("loss", ""),
        ("activation", "embed"),
        ("gradient", "embed.weight"),
        ("optimizer_state", "embed.weight/moment1"),
        ("activation", "encoder.0"),
        ("gradient", "encoder.0.norm.bias"),
        ("gradient", HOSTILE_NAME),
    ]
    assert drawn["rows"][4]["tensor"] == "embed.weight" and drawn["kinds"][0] == ["lr", "learning rate"]
    assert drawn["levels"][7] == [-1.0, 2.0, 3.0]
    page = _page_with_details(tmp_path)
    assert page.charts["heat_map"]["failure"]["tensors"][0]["torch_name"] == HOSTILE_NAME
    assert page.charts["loss_difference"]["noise_steps"] == [1, 2]


def test_the_module_tree_marks_the_first_bad_module_and_counts_what_failed(tmp_path: Path) -> None:
    _page_with_details(tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    marked = [line for line in html.splitlines() if "first divergence</strong>" in line]
    assert len(marked) == 1 and ">norm<" in marked[0] and "LayerNorm" in marked[0]
    (model,) = [line for line in html.splitlines() if ">model<" in line]
    assert "1 out of tolerance" in model and "details open" in model


def test_how_it_was_made_names_the_case_and_the_replay(tmp_path: Path) -> None:
    text = _page_with_details(tmp_path).texts["repeat"]
    assert "stepalign run '/my cases/bert' --steps 10 --mode eval --dtype float32 --seed 0" in text
    assert f"stepalign replay {tmp_path} --step 1" in text


def test_damaged_details_cost_only_what_they_would_have_shown(tmp_path: Path) -> None:
    (tmp_path / "details.json").write_text('{"schema": 1, "map"', encoding="utf-8")
    assert "modules" not in _written(tmp_path, diverged()).texts


def _page_with_details(folder: Path) -> _Page:
    write_details_json(folder, details())
    return _written(folder, diverged())


def test_a_cells_colour_never_contradicts_its_verdict() -> None:
    missing = {
        "kind": "parameter",
        "torch_name": "a",
        "paddle_name": None,
        "passed": False,
        "reason": "paddle has none",
    }
    lines = (
        {"step": 0, "worst": {"loss": entry("loss", "loss", 50.0, True)}, "failures": [entry("lr", "lr", 0.5, False)]},
        {"step": 1, "worst": {"loss": {**entry("loss", "loss", 1.0, False), "max_abs": "NaN"}}, "failures": [missing]},
        {"step": 2, "worst": {"loss": entry("loss", "loss", 0.0, True)}, "failures": "damaged"},
    )
    drawn = tensor_map(StepsSample(lines, 3), {})
    assert drawn is not None
    levels = {(row["kind"], row["name"]): cells for row, cells in zip(drawn["rows"], drawn["levels"])}
    first = levels["loss", ""][0]
    assert first is not None and first < 0 and levels["loss", ""][1:] == [6.0, -6.0]
    assert levels["lr", ""][0] > 0
    assert levels["parameter", "a"][1] == 6.0


def test_a_long_log_is_sampled_around_its_first_failures(tmp_path: Path) -> None:
    write_steps(tmp_path, 3000, first_failure=2500)
    sample = read_sample(tmp_path, 200, important=[1234])
    steps = [line["step"] for line in sample.lines]
    assert sample.total == 3000 and len(steps) <= 200 and steps == sorted(steps)
    assert {0, 1234, *range(2500, 2550), 2999} <= set(steps)


def test_a_damaged_line_costs_that_line_only(tmp_path: Path) -> None:
    write_steps(tmp_path, 5, first_failure=9)
    lines = (tmp_path / "steps.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "steps.jsonl").write_bytes(b"".join([*lines[:2], b"{damaged\n", b"[]\n", *lines[4:], b'{"step": 5']))
    sample = read_sample(tmp_path, 100)
    assert [line["step"] for line in sample.lines] == [0, 1, 4]
    assert sample.unreadable == 2 and sample.total == 5
    assert "2 lines of steps.jsonl could not be read" in _written(tmp_path, aligned()).texts["heat"]


def test_the_table_of_a_long_run_is_cut_and_says_so(tmp_path: Path) -> None:
    texts = _written(tmp_path, diverged(steps=3000, at=1500)).texts
    assert "of 3000 steps; all of them are in result.json" in texts["steps"]
    assert "\n1499" in "\n" + texts["steps"] and "1500" in texts["steps"] and "1501" in texts["steps"]


def test_a_report_is_rebuilt_from_the_run_folder(tmp_path: Path) -> None:
    write_steps(tmp_path, 10, first_failure=2)
    write_json(tmp_path / "result.json", to_json(diverged()))
    write_report(tmp_path / "report.html", diverged())
    first = (tmp_path / "report.html").read_bytes()
    assert build_report(tmp_path) == tmp_path / "report.html"
    assert len((tmp_path / "report.html").read_bytes()) == len(first)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "result.json", "steps.jsonl"]


def test_a_case_named_in_any_script_is_written(tmp_path: Path) -> None:
    result = dataclasses.replace(aligned(), case=CaseFacts("对齐 & <co>", 10, "eval", "float32", 0))
    assert "对齐 & <co>: 10 of 10 steps" in _written(tmp_path, result).texts[""]


def test_importing_the_report_imports_neither_jinja_nor_plotly() -> None:
    code = "import sys, stepalign.coordinator.report; print([n for n in ('jinja2', 'plotly') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_rule_of_its_own_let_pass_is_said_to_have_passed(tmp_path: Path) -> None:
    result = dataclasses.replace(aligned(), worst={"buffer": entry("buffer", "bn.running_var", 40.0, True)})
    assert "40 times, passed by a rule of its own" in _written(tmp_path, result).texts["worst"]


def test_failures_that_the_log_only_counts_are_mentioned(tmp_path: Path) -> None:
    line = {
        "step": 0,
        "passed": False,
        "failed": 45,
        "failures": [entry("gradient", f"g{n}", 5.0, False) for n in range(20)],
    }
    (tmp_path / "steps.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert "up to 25 more" in _written(tmp_path, aligned()).texts["heat"]
