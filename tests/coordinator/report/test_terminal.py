"""The end of a run in a terminal: the verdict first, narrow, plain where it must be."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.report.rows import chosen_steps, relative, step_row
from stepalign.coordinator.report.terminal import print_verdict
from stepalign.coordinator.report.wording import measures_line
from stepalign.coordinator.results.result import ErrorFacts, RegimeFacts, Result, Series, Verdict

from ..made_up_results import HOSTILE_NAME, aligned, diverged, every_result, failed, schedule_only

_RESULTS = every_result()


class _Terminal(io.StringIO):
    """A terminal that keeps what it is shown."""

    def isatty(self) -> bool:
        return True


def _printed(result: Result, folder: Path | None = None, rate_steps: Sequence[int] = ()) -> str:
    file = io.StringIO()
    print_verdict(result, folder, file, rate_steps)
    return file.getvalue()


def _table(text: str) -> list[str]:
    """Give the rows of the table of steps."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("step "))
    return lines[start + 1 : lines.index("", start)]


def _flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", _RESULTS)
def test_every_result_fits_80_columns_without_terminal_sequences(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm-256color")
    lines = _printed(_RESULTS[name]).splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "\x1b" in line or line != line.rstrip()]


def test_what_is_declared_otherwise_and_not_to_be_seen_is_noted_under_a_verdict_without_a_divergence() -> None:
    cause = Cause(Category.GRADIENT_CLIPPING, "not_clipped", 0.5, "torch clips; paddle does not", "clip in paddle")
    hint = Finding(cause, "parameter", "", "", False, "after_backward", None)
    text = _flat(_printed(dataclasses.replace(aligned(), findings=(hint,))))
    assert "NEXT Nothing to mend in what this run shows; losses.md" in text
    assert "NOTED declared otherwise, which this run cannot show: torch clips; paddle does not. Fix: clip in paddle" in text
    assert "NOTED" not in _printed(aligned()) and "Nothing to mend; losses.md" in _printed(aligned())
    assert "NOTED" not in _printed(dataclasses.replace(diverged(), findings=(hint,)))


def test_the_end_of_a_run_is_told_in_order(tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    text = _printed(diverged(), tmp_path)
    parts = ["VERDICT", "WHERE", "WHY", "NEXT", "KNOWN", "WARNING", "torch loss", "run folder", "report  "]
    places = [text.index(part) for part in parts]
    assert places == sorted(places) and places[0] == 0


def test_the_divergence_is_told_with_both_names_both_values_and_what_was_allowed() -> None:
    text = _flat(_printed(diverged()))
    assert f"step 2, parameter {HOSTILE_NAME}, element [3]" in text
    assert "in paddle: encoders.0.bias" in text
    assert "torch 0.125, paddle 0.25" in text
    assert "rtol 2.5e-07, atol 1e-09" in text and "12345 ulp" in text and "1 of 8 out" in text


def test_whole_numbers_that_differ_from_zero_are_told_without_units_in_the_last_place_or_a_quotient() -> None:
    place = diverged().first_divergence
    assert place is not None
    counted = dataclasses.replace(place, torch=0.0, paddle=3.0, max_abs=3.0, max_rel=math.inf, rel_l2=math.inf, max_ulp=0)
    assert measures_line(counted) == "greatest difference 3"
    assert measures_line(dataclasses.replace(counted, torch=2.0, paddle=5.0, max_rel=1.5, rel_l2=1.5)) == (
        "greatest difference 3, relative 1.5"
    )
    assert measures_line(dataclasses.replace(counted, paddle=0.0, max_abs=0.0, max_rel=0.0, rel_l2=0.0)).endswith("0 ulp")


def test_three_causes_are_told_most_likely_first_each_with_its_fix() -> None:
    text = _flat(_printed(diverged()))
    order = [
        text.index(word) for word in ("decay on bias", "pass apply_decay_param_fun", "epsilon", "set epsilon", "betas")
    ]
    assert order == sorted(order)
    assert "confidence 97 %" in text and "rounding" not in text and "and 1 more in the report" in text


def test_known_differences_are_merged_by_code() -> None:
    text = _flat(_printed(diverged()))
    assert text.count("batch norm running variance") == 1
    assert "20 tensors, first bn0.running_var" in text


def test_a_long_run_shows_its_first_steps_the_divergent_one_and_the_last() -> None:
    text = _printed(diverged(steps=1000, at=500))
    steps = [row.split()[0] for row in _table(text) if row.split()[0].isdigit()]
    assert steps == ["0", "1", "2", "3", "4", "499", "500", "501", "998", "999"]


def test_the_rates_row_is_of_the_group_that_is_furthest_apart() -> None:
    series = Series(lr_torch=((1e-3, 2e-3),), lr_paddle=((1e-3, 2.002e-3),))
    row = step_row(series, 0)
    assert (row.torch_rate, row.paddle_rate, row.group) == (2e-3, 2.002e-3, 1)
    assert row.rate_difference == pytest.approx(1e-3)
    assert step_row(Series(lr_torch=((1e-3, 2e-3),), lr_paddle=((1e-3,),)), 0).paddle_rate is None


def test_rates_alone_are_shown_at_the_steps_asked_for_and_the_divergent_one() -> None:
    text = _printed(schedule_only(), rate_steps=[100, 500, 9999])
    assert [row.split()[0] for row in _table(text)] == ["100", "500", "3999", "4000", "4001"]
    assert "torch loss" not in text
    assert "the rates differ" in text


def test_optimizers_alone_are_told_regime_by_regime_without_a_table() -> None:
    regimes = (
        RegimeFacts("normal", 50, True, 1.9e-5, 49, "fc.weight"),
        RegimeFacts("tiny", 50, False, 0.98, 3, "fc.bias", ("rmsprop_formula",)),
        RegimeFacts("zeros", 50, True, 0.0, 0, ""),
    )
    text = _printed(dataclasses.replace(diverged(), series=Series(), regimes=regimes))
    assert "DIVERGED: the optimizers do not do the same" in text and "torch loss" not in text
    text = " ".join(text.split())
    assert "normal: the same; apart by 1.9e-05 of the way gone (step 49, fc.weight)" in text
    assert "tiny: differs; apart by 0.98 of the way gone (step 3, fc.bias)" in text
    assert "zeros: nothing moved" in text


def test_a_failed_run_tells_its_error_where_it_was_and_which_log_to_read() -> None:
    text = _printed(failed())
    assert "the torch worker died: SIGKILL(-9)" in text and "<b>last</b> line" in text
    assert "side torch, phase step, step 3, signal SIGKILL" in text
    assert "torch.log" in text and "paddle did not get ready" in text


def test_a_failure_without_a_side_names_both_logs() -> None:
    text = _printed(dataclasses.replace(failed(), error=ErrorFacts("no answer came")))
    assert "torch.log and paddle.log" in text


def test_a_wrong_case_is_told_to_be_mended_not_the_environments() -> None:
    text = _printed(dataclasses.replace(failed(), error=ErrorFacts("case.toml: stepz: unknown key", exit_code=2)))
    assert "Mend what the message above names" in text and "doctor" not in text


def test_an_inconclusive_run_says_what_settles_it() -> None:
    text = _flat(_printed(_RESULTS["inconclusive"]))
    assert "INCONCLUSIVE" in text and "--dtype float64" in text and "compare.resync=1" in text


def test_paths_are_never_broken_into_lines(tmp_path: Path) -> None:
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    assert str(folder) in _printed(aligned(), folder).splitlines()[-1]


def test_colours_are_for_terminals_and_obey_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured, plain = _Terminal(), _Terminal()
    print_verdict(aligned(), None, coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    print_verdict(aligned(), None, plain)
    assert "\x1b[1;32m" in coloured.getvalue()
    assert "32m" not in plain.getvalue()


def test_the_verdict_goes_to_standard_output_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    print_verdict(aligned(), None)
    captured = capsys.readouterr()
    assert "ALIGNED" in captured.out and captured.err == ""


def test_differences_of_missing_and_infinite_values_are_named_not_computed() -> None:
    assert relative(None, 1.0) is None and relative(0.0, 0.0) == 0.0 and relative(0.0, 1e-9) == float("inf")
    assert relative(float("inf"), float("inf")) == 0.0 and relative(float("inf"), 1.0) == float("inf")


def test_chosen_steps_are_never_more_than_there_is_room_for() -> None:
    for count in (0, 1, 6, 13, 100_000):
        for evenly in (False, True):
            steps = chosen_steps(count, 12, important=[-1, 50, 99_999, 10**9], evenly=evenly)
            assert len(steps) <= 12 and steps == sorted(set(steps)) and all(0 <= step < count for step in steps)
            assert not count or {0, count - 1} <= set(steps)


def test_every_verdict_has_a_headline_and_a_next_step() -> None:
    assert {result.verdict for result in _RESULTS.values()} == set(Verdict)
    for result in _RESULTS.values():
        text = _printed(result)
        assert "VERDICT" in text and "NEXT" in text


def test_a_long_traceback_is_cut_to_its_start_and_its_end() -> None:
    message = "\n".join(["the torch side failed", *(f"frame {number}" for number in range(40)), "KeyError: 'fc'"])
    text = _printed(dataclasses.replace(failed(), error=ErrorFacts(message)))
    assert "the torch side failed" in text and "KeyError: 'fc'" in text and "31 lines, in result.json" in text
    assert "frame 20" not in text


def test_a_long_traceback_keeps_the_last_frame_of_the_users_own_code() -> None:
    def frame(path: str, line: str) -> list[str]:
        return [f'  File "{path}", line 3, in f', f"    {line}"]

    library = [line for number in range(8) for line in frame("/v/lib/python3.11/site-packages/paddle/x.py", f"call({number})")]
    own = [*frame("/home/me/port/train.py", "outer()"), *frame("/home/me/port/model.py", "y = broken(x)")]
    lines = ["the paddle side failed", "Traceback (most recent call last):", *library[:4], *own, *library, "ValueError: no"]
    text = _printed(dataclasses.replace(failed(), error=ErrorFacts("\n".join(lines))))
    assert "model.py" in text and "y = broken(x)" in text and "ValueError: no" in text
    assert "outer()" not in text and "call(2)" not in text
    assert "... 4 lines, in result.json" in text and "... 10 lines, in result.json" in text


def test_a_fix_that_only_says_where_to_look_is_not_told_to_be_applied() -> None:
    result = diverged()
    for fix, said in (("compare the two losses", "Look at the place"), ("epsilon=1e-12", "Apply the first fix")):
        causes = (dataclasses.replace(result.causes[0], confidence=0.9, fix=fix),)
        text = " ".join(_printed(dataclasses.replace(result, causes=causes)).split())
        assert said in text


def test_causes_found_before_a_failure_do_not_pass_for_the_failures_reason() -> None:
    text = _printed(dataclasses.replace(failed(), causes=diverged().causes))
    assert "CAUSES" in text and "WHY" not in text
