"""JUnit files and GitHub annotations: well-formed, never passing by accident, out of standard output's way."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stepalign.coordinator import api
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.cli import running
from stepalign.coordinator.cli.main import main
from stepalign.coordinator.report.ci_outputs import annotation, annotation_text, blamed_file, junit_of
from stepalign.coordinator.results.result import ErrorFacts, Result, Verdict
from stepalign.coordinator.running import run_schedule
from stepalign.coordinator.running.run_state import Watcher

from ..made_up_results import HOSTILE_NAME, aligned, diverged, entry, every_result, failed, inconclusive, schedule_only
from ..real_cases import stepalign, write_case

_RESULTS = every_result()
_FOLDER = Path("/runs/made-up")


def _suite(result: Result) -> ElementTree.Element:
    root = ElementTree.fromstring(junit_of(api.Result(result, _FOLDER), 1.5))
    assert root.tag == "testsuites" and [suite.tag for suite in root] == ["testsuite"]
    return root[0]


def _states(result: Result) -> dict[str, str]:
    found = {}
    for case in _suite(result).iter("testcase"):
        complaint = next((part.tag for part in case if part.tag in ("failure", "error", "skipped")), "passed")
        found[case.attrib["name"]] = complaint
    return found


@pytest.mark.parametrize("name", _RESULTS)
def test_a_junit_file_fails_exactly_where_the_exit_code_does(name: str) -> None:
    suite = _suite(_RESULTS[name])
    states = _states(_RESULTS[name])
    counts = {state: list(states.values()).count(state) for state in ("failure", "error", "skipped")}
    assert int(suite.attrib["tests"]) == len(states) >= 1
    assert (suite.attrib["failures"], suite.attrib["errors"], suite.attrib["skipped"]) == tuple(
        map(str, counts.values())
    )
    assert bool(counts["failure"] + counts["error"]) == (_RESULTS[name].exit_code != 0)


@pytest.mark.parametrize("name", [name for name, result in _RESULTS.items() if result.exit_code != 0])
def test_the_verdicts_test_case_holds_the_terminals_text(name: str) -> None:
    case = next(_suite(_RESULTS[name]).iter("testcase"))
    assert case.attrib["name"] == "verdict"
    complaint = case.find("failure") if _RESULTS[name].verdict is not Verdict.FAILED else case.find("error")
    assert complaint is not None and complaint.text == api.Result(_RESULTS[name], _FOLDER).text
    assert complaint.attrib["type"] == _RESULTS[name].verdict.value


def test_each_kind_that_was_compared_has_a_test_case_in_causal_order() -> None:
    worst = {kind: entry(kind, "fc.bias", 0.5, True) for kind in ("parameter", "loss", "lr")}
    assert _states(dataclasses.replace(aligned(), worst=worst)) == dict.fromkeys(
        ["verdict", "lr", "loss", "parameter"], "passed"
    )
    worst["parameter"] = entry("parameter", "fc.bias", 2.0, False)
    worst["buffer"] = entry("buffer", "bn.mean", 2.0, False)
    assert _states(dataclasses.replace(diverged(), worst=worst)) == {
        "verdict": "failure", "lr": "passed", "loss": "passed", "parameter": "failure", "buffer": "failure",
    }  # fmt: skip


def test_the_first_divergence_fails_its_kind_with_the_place_and_the_values() -> None:
    case = next(case for case in _suite(diverged()).iter("testcase") if case.attrib["name"] == "parameter")
    failure = case.find("failure")
    assert failure is not None and failure.text is not None
    assert failure.attrib["message"] == f"step 2, parameter {HOSTILE_NAME}, element [3]"
    assert "torch 0.125, paddle 0.25" in failure.text and "allowed: 3.225e-08" in failure.text


def test_what_noise_explains_is_skipped_where_nothing_can_be_said_and_passes_where_the_case_is_aligned() -> None:
    worst = {"parameter": entry("parameter", "fc.bias", 2.0, False)}
    assert _states(dataclasses.replace(inconclusive(), worst=worst)) == {"verdict": "failure", "parameter": "skipped"}
    assert _states(dataclasses.replace(aligned(), worst=worst)) == {"verdict": "passed", "parameter": "passed"}


def test_a_comparison_of_schedules_has_a_suite_of_its_own() -> None:
    suite = _suite(schedule_only())
    assert suite.attrib["name"] == "stepalign.bert.schedule"
    assert _states(schedule_only()) == {"verdict": "failure", "lr": "failure"}


def test_a_suite_says_what_ran() -> None:
    facts = {item.attrib["name"]: item.attrib["value"] for item in _suite(aligned()).iter("property")}
    assert facts["torch"] == "torch 2.13.0 on cpu" and facts["paddle"] == "paddle 3.3.1 on cpu"
    assert facts["run_folder"] == str(_FOLDER) and facts["dtype"] == "float32"
    assert _suite(aligned()).attrib["time"] == "1.500"


def test_whatever_a_worker_printed_the_file_is_well_formed() -> None:
    hostile = "]]></error>\x00\x1b[31m\x0b\udc80\ufffe <&\"' \U0001f525"
    result = dataclasses.replace(failed(), error=ErrorFacts(hostile), warnings=(hostile,))
    error = next(_suite(result).iter("error"))
    assert error.text is not None and "]]></error>" in error.text and "\U0001f525" in error.text


# ---------------------------------------------------------------------------------------------- GitHub


def test_an_annotation_is_one_line_escaped_as_github_asks() -> None:
    line = annotation("error", {"file": "a,b:c/100%.py", "title": "x\ny"}, "100 %: a, b\r\nnext\x1b[31m")
    assert line == "::error file=a%2Cb%3Ac/100%25.py,title=x%0Ay::100 %25: a, b%0Anext"


@pytest.mark.parametrize("name", _RESULTS)
def test_an_annotation_says_what_to_do(name: str) -> None:
    text = annotation_text(_RESULTS[name])
    assert len(text.splitlines()) >= 2 and len(text) < 2000
    if _RESULTS[name].causes:
        assert text.endswith("Fix: pass apply_decay_param_fun")


def test_an_annotation_is_shown_at_the_file_to_look_at(tmp_path: Path) -> None:
    case = load_case(write_case(tmp_path / "case"))
    assert blamed_file(case, diverged()).name == "paddle_side.py"
    assert blamed_file(case, failed()).name == "torch_side.py"
    assert blamed_file(case, inconclusive()).name == "case.toml"


# ---------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    """Let each run of the command line end with the next of these results."""
    results: list[Result] = []

    def end(case: Case, out: Path | None, watcher: Watcher) -> tuple[Result, Path]:
        return results.pop(0), out or Path("runs/made-up")

    monkeypatch.setattr(running, "run_case", end)
    monkeypatch.setattr(run_schedule, "run_schedule", end)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return results


def test_run_and_schedule_write_the_file_and_keep_standard_output_json(
    tmp_path: Path, ending: list[Result], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = write_case(tmp_path / "repo" / "case")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "repo"))
    for command, result in (("run", diverged()), ("schedule", schedule_only())):
        ending.append(result)
        junit = tmp_path / "new" / command / "junit.xml"
        assert main([command, str(case), "--json", "--quiet", "--junit", str(junit)]) == 1
        out, err = capsys.readouterr()
        assert json.loads(out)["verdict"] == "diverged"
        assert err.startswith("::error file=case/paddle_side.py,title=stepalign%3A bert diverged%3A step ")
        assert err.count("\n") == 1
        assert ElementTree.parse(junit).getroot().attrib["failures"] == "2"


def test_an_aligned_run_annotates_nothing_and_replaces_the_file_of_an_earlier_run(
    tmp_path: Path, ending: list[Result], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    ending.append(aligned())
    junit = tmp_path / "junit.xml"
    junit.write_text("old", encoding="utf-8")
    assert main(["run", str(write_case(tmp_path / "case")), "--junit", str(junit)]) == 0
    assert "::" not in capsys.readouterr().err
    assert ElementTree.parse(junit).getroot().attrib["failures"] == "0"


def test_away_from_github_nothing_is_annotated(
    tmp_path: Path, ending: list[Result], capsys: pytest.CaptureFixture[str]
) -> None:
    ending.append(diverged())
    assert main(["run", str(write_case(tmp_path / "case"))]) == 1
    assert "::error" not in capsys.readouterr().err


def test_a_case_outside_of_the_workspace_is_annotated_without_a_file(
    tmp_path: Path, ending: list[Result], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path / "elsewhere"))
    ending.append(inconclusive())
    assert main(["run", str(write_case(tmp_path / "case"))]) == 4
    assert capsys.readouterr().err.startswith("::warning title=stepalign%3A bert inconclusive::")


def test_a_file_that_cannot_be_written_is_told_before_the_run(
    tmp_path: Path, ending: list[Result], capsys: pytest.CaptureFixture[str]
) -> None:
    ending.append(aligned())
    case = write_case(tmp_path / "case")
    for place in (tmp_path, case / "case.toml" / "junit.xml"):
        assert main(["run", str(case), "--junit", str(place)]) == 2
        assert f"--junit {place}" in capsys.readouterr().err
    assert ending


def test_a_command_that_comes_to_no_run_leaves_an_error_in_the_file(tmp_path: Path) -> None:
    junit = tmp_path / "junit.xml"
    junit.write_text("<testsuites/>", encoding="utf-8")
    ended = stepalign("run", tmp_path / "nothing", "--junit", junit, cwd=tmp_path)
    assert ended.code == 2
    (case,) = ElementTree.parse(junit).getroot().iter("testcase")
    error = case.find("error")
    assert error is not None and error.attrib["type"] == "CaseError" and "no case at" in (error.text or "")
