"""The Python API: stable names, the terminal's words, a summary for notebooks, signals that go where they belong."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import stepalign
from stepalign.coordinator import api
from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.report.terminal import print_verdict
from stepalign.coordinator.results.result import Result
from stepalign.coordinator.results.result_json import load_result
from stepalign.coordinator.running.run_state import Watcher
from stepalign.protocol.errors import StepalignError

from .made_up_results import HOSTILE_NAME, aligned, diverged, every_result, failed, inconclusive, schedule_only
from .real_cases import PADDLE_SIDE, write_case

_RESULTS = every_result()
_ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Asked:
    """What a run that never took place was asked for."""

    result: Result
    case: Case | None = None
    out: Path | None = None
    signal: signal.Signals | None = None
    notice: str = ""

    def __call__(self, case: Case, out: Path | None, watcher: Watcher) -> tuple[Result, Path]:
        self.case, self.out = case, out
        if self.notice:
            watcher.notice(self.notice)
        if self.signal is not None:
            os.kill(os.getpid(), self.signal)
            try:
                watcher.tick()
            except StepalignError:
                return failed(), Path("runs/interrupted")
        return self.result, out or Path("runs/made-up")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Let both functions of the API end with a made-up result."""
    asked = Asked(aligned())
    monkeypatch.setattr(api, "run_case", asked)
    monkeypatch.setattr(api, "run_schedule", asked)
    return asked


def test_the_stable_names_are_these() -> None:
    assert stepalign.__all__ == [
        "CaseError", "Result", "StepalignError", "Verdict", "__version__", "optimizer", "record", "run", "schedule",
    ]  # fmt: skip
    assert {name for name in dir(stepalign.Result) if not name.startswith("_")} == {
        "assert_aligned", "causes", "error", "exit_code", "first_divergence", "headline", "is_aligned", "known_differences",
        "rate_steps", "series", "steps_completed", "text", "verdict", "warnings",
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(stepalign.Result)} == {"result", "folder", "rate_steps"}
    assert {verdict.value for verdict in stepalign.Verdict} == {"aligned", "diverged", "inconclusive", "failed"}
    run, schedule = inspect.signature(stepalign.run), inspect.signature(stepalign.schedule)
    assert list(run.parameters) == [
        "case_folder", "torch", "paddle", "data", "config", "accumulate", "against", "steps", "mode", "dtype", "seed",
        "assignments", "out", "resume",
    ]  # fmt: skip
    assert list(schedule.parameters) == ["case_folder", "steps", "assignments", "out"]


def test_every_stable_name_is_there_and_has_a_type() -> None:
    assert all(getattr(stepalign, name) is not None for name in stepalign.__all__)
    assert set(stepalign.__all__) <= set(dir(stepalign))
    stub = ast.parse((_ROOT / "protocol/_root/__init__.pyi").read_text(encoding="utf-8"))
    imported = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(stepalign.__all__) - {"__version__"}
    (listed,) = (ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert listed == stepalign.__all__


def test_what_a_person_has_to_start_is_logged_and_nothing_is_printed(
    asked: Asked, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked.notice = "start there: stepalign worker --connect tcp://192.0.2.1:7"
    stepalign.run(write_case(tmp_path / "case"))
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [
        ("stepalign", "WARNING", asked.notice)
    ]
    assert capsys.readouterr() == ("", "")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(stepalign, "no_such_name")


def test_importing_stepalign_imports_nothing_else() -> None:
    code = (
        "import sys\nbefore = set(sys.modules)\nimport stepalign\n"
        "print(sorted(set(sys.modules) - before))\n"
        "from stepalign import run\nassert 'stepalign.coordinator.api' in sys.modules and run is stepalign.run\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['stepalign']"


@pytest.mark.parametrize("name", _RESULTS)
def test_an_outcome_says_what_the_terminal_says(name: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    file = io.StringIO()
    print_verdict(_RESULTS[name], tmp_path, file, (0, 500))
    outcome = stepalign.Result(_RESULTS[name], tmp_path, (0, 500))
    assert outcome.text == str(outcome) == file.getvalue().rstrip()
    assert outcome.exit_code == _RESULTS[name].exit_code


@pytest.mark.parametrize("name", [name for name, result in _RESULTS.items() if result.exit_code != 0])
def test_what_is_not_aligned_raises_with_the_terminals_text(name: str, tmp_path: Path) -> None:
    outcome = stepalign.Result(_RESULTS[name], tmp_path)
    assert not outcome.is_aligned
    with pytest.raises(AssertionError) as caught:
        outcome.assert_aligned()
    assert str(caught.value) == outcome.text


def test_aligned_raises_nothing(tmp_path: Path) -> None:
    stepalign.Result(aligned(), tmp_path).assert_aligned()


def test_the_text_has_no_colours_whatever_the_environment_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = stepalign.Result(diverged(), tmp_path).text
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert stepalign.Result(diverged(), tmp_path).text == plain


def test_the_fields_of_the_result_are_at_hand(tmp_path: Path) -> None:
    outcome = stepalign.Result(diverged(), tmp_path)
    assert outcome.verdict == "diverged" and outcome.verdict is stepalign.Verdict.DIVERGED
    assert outcome.first_divergence is outcome.result.first_divergence is not None
    assert [cause.code for cause in outcome.causes] == ["decay_on_bias", "epsilon", "betas", "rounding"]
    assert outcome.warnings == ("one GPU is shared by both sides",)
    assert len(outcome.known_differences) == 20 and len(outcome.series.loss_torch) == outcome.steps_completed == 10
    assert outcome.error is None and stepalign.Result(failed(), tmp_path).error is not None
    assert outcome.headline == f"bert diverged: step 2, parameter {HOSTILE_NAME}, element [3]"
    assert stepalign.Result(inconclusive(), tmp_path).headline == "bert inconclusive"
    assert repr(outcome) == f"<stepalign.Result {outcome.headline!r}, {str(tmp_path)!r}>"


@pytest.mark.parametrize("name", _RESULTS)
def test_a_notebooks_summary_is_well_formed_and_escaped(name: str, tmp_path: Path) -> None:
    summary = stepalign.Result(_RESULTS[name], tmp_path / "<b>&")._repr_html_()
    root = ElementTree.fromstring(summary)
    assert {element.tag for element in root.iter()} == {"div", "p", "strong", "table", "tr", "th", "td"}
    text = "".join(root.itertext())
    assert _RESULTS[name].verdict.value.upper() in text and str(tmp_path / "<b>&") in text
    assert "\x1b" not in summary and len(summary) < 5000


def test_a_notebooks_summary_names_place_cause_and_fix(tmp_path: Path) -> None:
    text = "".join(ElementTree.fromstring(stepalign.Result(diverged(), tmp_path)._repr_html_()).itertext())
    for part in (HOSTILE_NAME, "decay on bias, confidence 97 %", "pass apply_decay_param_fun", "20 tensors, first bn0"):
        assert part in text


def test_run_passes_on_what_it_is_given(tmp_path: Path, asked: Asked) -> None:
    case = write_case(tmp_path / "case")
    outcome = stepalign.run(
        str(case), steps=7, mode="train", dtype="float64", seed=3, assignments=["hidden=64"], out=str(tmp_path / "out")
    )
    assert asked.case is not None
    file = asked.case.file
    assert (file.steps, file.mode, file.dtype, file.seed, file.options) == (7, "train", "float64", 3, {"hidden": 64})
    assert outcome.folder == tmp_path / "out" and outcome.result is asked.result


def test_run_takes_the_cases_own_values_and_a_folder_below_runs(tmp_path: Path, asked: Asked) -> None:
    outcome = stepalign.run(write_case(tmp_path / "case"), assignments="compare.resync=2")
    assert asked.case is not None and asked.out is None
    assert (asked.case.steps, asked.case.file.compare.resync) == (3, 2)
    assert outcome.folder == Path.cwd() / "runs/made-up"


def test_schedule_shows_the_cases_milestones(tmp_path: Path, asked: Asked) -> None:
    asked.result = schedule_only()
    case = write_case(tmp_path / "case", "[schedule]\nsteps = 100\nmilestones = [3, 70]\n")
    outcome = stepalign.schedule(case, steps=4500, assignments=["seed=5"], out=tmp_path / "out")
    assert asked.case is not None
    assert (asked.case.file.schedule.steps, asked.case.file.seed) == (4500, 5)
    assert [int(line.split()[0]) for line in outcome.text.splitlines() if line.strip()[:1].isdigit()][:3] == [
        3,
        70,
        3999,
    ]


@pytest.mark.parametrize("call", [stepalign.run, stepalign.schedule])
def test_a_folder_without_a_case_is_a_case_error(tmp_path: Path, call: Any) -> None:
    with pytest.raises(stepalign.CaseError, match="no case at"):
        call(tmp_path)


def test_a_value_that_a_case_does_not_take_is_a_case_error(tmp_path: Path, asked: Asked) -> None:
    with pytest.raises(stepalign.CaseError, match="dtype"):
        stepalign.run(write_case(tmp_path / "case"), dtype="int8")


def test_an_interruption_ends_the_run_in_order_and_then_reaches_the_caller(tmp_path: Path, asked: Asked) -> None:
    asked.signal = signal.SIGINT
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stepalign.run(write_case(tmp_path / "case"))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_callers_own_gets_its_signal_after_the_run(tmp_path: Path, asked: Asked) -> None:
    asked.signal = signal.SIGTERM
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        assert stepalign.run(write_case(tmp_path / "case")).verdict == "failed"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_a_run_can_be_started_from_any_thread(tmp_path: Path, asked: Asked) -> None:
    case, outcomes = write_case(tmp_path / "case"), []
    thread = threading.Thread(target=lambda: outcomes.append(stepalign.run(case)))
    thread.start()
    thread.join(30)
    assert [outcome.is_aligned for outcome in outcomes] == [True]


def test_a_real_divergence_comes_back_with_its_cause_and_its_run_folder(tmp_path: Path) -> None:
    case = write_case(tmp_path / "case", paddle=PADDLE_SIDE.replace("weight_decay=0.01", "weight_decay=0.0"))
    outcome = stepalign.run(case, steps=1, out=tmp_path / "out")
    assert outcome.verdict == "diverged" and outcome.causes[0].category.value == "weight_decay"
    assert load_result(outcome.folder).first_divergence == outcome.first_divergence
    assert json.loads((outcome.folder / "result.json").read_text())["case"]["steps"] == 1
    with pytest.raises(AssertionError, match="VERDICT  DIVERGED"):
        outcome.assert_aligned()


def test_the_snippets_of_the_documentation_run(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_case(tmp_path / "my_case")
    asked.result = diverged()
    page = (_ROOT / "docs/python.md").read_text(encoding="utf-8")
    snippets = [part.partition("```")[0] for part in page.split("```python\n")[1:] if "import pytest" not in part]
    assert len(snippets) == 2
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/python.md", "exec"), names)
    assert "decay_on_bias 0.97" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="VERDICT  DIVERGED"):
        names["test_my_port"]()
