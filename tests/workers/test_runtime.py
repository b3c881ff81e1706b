"""What a worker does with a user's script, and how it tells what went wrong there. The framework is a numpy double."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, ProtocolError, StepalignError, WorkerFailure

TIMEOUT_S = 30.0


def configured(stage: Any, case: Any, expected: Any = messages.Ready, fault: str = "", **changes: Any) -> Any:
    """Start a double, give it the case, and return its answer."""
    values: dict[str, Any] = {
        "task": "train", "name": "case", "folder": str(case), "script": str(case / "torch_side.py"), "steps": 3,
        "mode": "eval", "dtype": "float64", "seed": 0, "device": "cpu", "threads": 1,
    }  # fmt: skip
    stage.start(fault=fault)
    stage.switchboard.greet(TIMEOUT_S)
    return stage.switchboard.ask({"torch": messages.Configure(**{**values, **changes})}, expected, TIMEOUT_S, "build")[
        "torch"
    ]


def ask(stage: Any, request: messages.Message, expected: Any) -> Any:
    return stage.switchboard.ask({"torch": request}, expected, TIMEOUT_S, "step")["torch"]


def batch(step: int, kinds: tuple[str, ...] = ("parameter",)) -> messages.Batch:
    random = np.random.default_rng(step)
    return messages.Batch(step, {"x": random.normal(size=(4, 2)), "y": random.normal(size=(4, 3))}, kinds)


def test_a_worker_declares_what_its_process_is(stage: Any, make_case: Any) -> None:
    ready = configured(stage, make_case())
    facts = ready.facts
    assert (facts.framework, facts.pid, facts.device) == ("torch", stage.workers["torch"].pid, "cpu")
    assert facts.other_frameworks_loaded == ()
    assert [spec.name for spec in ready.declaration.tensors] == ["fc.weight", "fc.bias"]


def test_the_script_sees_the_case(stage: Any, make_case: Any) -> None:
    script = (
        "from pathlib import Path\nfrom stepalign.workers import Training\n"
        "def build(case):\n"
        "    assert (case.name, case.steps, case.mode, case.dtype, case.seed) == ('case', 3, 'train', 'float64', 5)\n"
        "    assert case.options == {'hidden': 8, 'list': [1, 2.5]} and isinstance(case.folder, Path)\n"
        "    case.options['hidden'] = 9\n"
        "    return Training(model={}, loss=None, optimizer={'lr': [0.5]})\n"
    )
    configured(stage, make_case(torch_side=script), mode="train", seed=5, options={"hidden": 8, "list": [1, 2.5]})


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "torch_side.py has no function build(case); it defines: none"),
        ("def biuld(case): pass\n", "torch_side.py has no function build(case); it defines: biuld"),
        (
            "def build(case): return 3\n",
            "build(case) of torch_side.py returns a stepalign.workers.Training, got int: return",
        ),
        ("def build(case): pass\n", "returns a stepalign.workers.Training, got NoneType"),
        (
            "def build(case): raise ValueError('bad')\n",
            "build(case) of torch_side.py raised ValueError: bad\nTraceback",
        ),
        (
            "def build(): pass\n",
            "torch_side.py: build is called with one argument: def build(case): ... (too many positional arguments)",
        ),
        ("import nothing_of_this_name\n", "importing torch_side.py raised ModuleNotFoundError"),
        ("def build(case)\n", "importing torch_side.py raised SyntaxError"),
        ("from stepalign.workers import Training\ndef build(case): return Training()\n", "raised TypeError"),
        ("import paddle\n", "the torch side must not import paddle: the two frameworks never share a process"),
        ("def build(case): raise SystemExit(2)\n", "raised SystemExit: 2"),
    ],
)
def test_a_wrong_script_is_the_cases_fault_and_is_told_in_its_own_terms(
    stage: Any, make_case: Any, script: str, message: str
) -> None:
    with pytest.raises(CaseError) as caught:
        configured(stage, make_case(torch_side=script))
    text = str(caught.value)
    assert message in text
    assert text.startswith("the torch side failed in phase build: ")
    frames = [line for line in text.splitlines() if line.startswith("  File")]
    assert not frames or "torch_side.py" in frames[0]
    assert caught.value.exit_code == 2
    assert stage.workers["torch"].wait(10) and stage.workers["torch"].exit_code() == 70


def test_an_error_of_the_users_within_a_step_is_told_with_the_step_and_its_lines(stage: Any, make_case: Any) -> None:
    script = (
        "from stepalign.workers import Training\n"
        "def loss(model, batch):\n    return broken(batch)\n"
        "def broken(batch):\n    return batch['z']\n"
        "def build(case):\n    return Training(model={}, loss=loss, optimizer={'lr': [0.5]})\n"
    )
    configured(stage, make_case(torch_side=script))
    with pytest.raises(StepalignError) as caught:
        ask(stage, batch(0), messages.StepResult)
    text = str(caught.value)
    assert "the torch side failed in phase forward of step 0: step 0 raised KeyError: 'z'" in text
    assert "in loss" in text and "in broken" in text
    assert caught.value.fault == {"side": "torch", "phase": "forward", "step": 0, "signal": None}  # type: ignore[attr-defined]


def test_steps_train_and_report_what_was_asked_for(stage: Any, make_case: Any) -> None:
    configured(stage, make_case())
    before = ask(stage, messages.SendWeights(), messages.Weights).tensors
    first, second = batch(0, ("parameter", "gradient")), batch(1, ())
    result = ask(stage, first, messages.StepResult)
    assert (result.step, result.lr, sorted(result.tensors)) == (0, [0.125], ["gradient", "parameter"])
    expected = before["fc.weight"] - 0.125 * result.tensors["gradient"]["fc.weight"]
    np.testing.assert_array_equal(result.tensors["parameter"]["fc.weight"], expected)
    from stepalign.protocol.tensors import digest

    assert result.batch_digest == digest(first.arrays)
    assert ask(stage, second, messages.StepResult).tensors == {}


def test_jitter_moves_the_weights_before_each_step_by_about_nothing(stage: Any, make_case: Any) -> None:
    configured(stage, make_case(), jitter=True)
    before = ask(stage, messages.SendWeights(), messages.Weights).tensors["fc.weight"]
    zeros = messages.Batch(0, {"x": np.zeros((4, 2)), "y": np.zeros((4, 3))}, ("parameter",))
    after = ask(stage, zeros, messages.StepResult).tensors["parameter"]["fc.weight"]
    assert np.any(after != before)
    np.testing.assert_allclose(after, before, rtol=1e-7)


def test_weights_come_back_as_they_were_loaded(stage: Any, make_case: Any) -> None:
    configured(stage, make_case())
    weights = {"fc.weight": np.array([[np.nan, -0.0], [np.inf, 5e-324], [1, 2]]), "fc.bias": np.zeros(3)}
    assert ask(stage, messages.LoadWeights(weights), messages.WeightsLoaded).differing == {}
    held = ask(stage, messages.SendWeights(), messages.Weights).tensors
    assert {name: array.tobytes() for name, array in held.items()} == {
        name: array.tobytes() for name, array in weights.items()
    }


def test_weights_come_with_what_was_built_where_they_are_wanted_at_once(stage: Any, make_case: Any) -> None:
    ready = configured(stage, make_case(), give_weights=True)
    asked = ask(stage, messages.SendWeights(), messages.Weights).tensors
    assert list(ready.weights) == list(asked) == ["fc.weight", "fc.bias"]
    assert all(ready.weights[name].tobytes() == array.tobytes() for name, array in asked.items())


def test_weights_are_not_sent_before_they_are_asked_for(stage: Any, make_case: Any) -> None:
    assert configured(stage, make_case()).weights == {}


def test_a_schedule_is_read_without_a_model(stage: Any, make_case: Any) -> None:
    configured(stage, make_case(), messages.ScheduleReady, task="schedule")
    rates = ask(stage, messages.ReadRates(7), messages.Rates).rates
    assert rates.shape == (7, 1) and rates.dtype == np.float64 and np.all(rates == 0.125)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "has no function schedule(case)"),
        ("def schedule(case): return 3\n", "schedule(case) returns (optimizer, scheduler), got int"),
        ("def schedule(case): return 1, 2, 3\n", "schedule(case) returns (optimizer, scheduler), got tuple"),
        ("def schedule(case): raise ValueError('bad')\n", "schedule(case) of torch_side.py raised ValueError: bad"),
    ],
)
def test_a_wrong_schedule_is_the_cases_fault(stage: Any, make_case: Any, script: str, message: str) -> None:
    with pytest.raises(CaseError) as caught:
        configured(stage, make_case(torch_side=script), messages.ScheduleReady, task="schedule")
    assert message in str(caught.value)


def test_a_batch_to_a_worker_that_reads_schedules_is_refused(stage: Any, make_case: Any) -> None:
    configured(stage, make_case(), messages.ScheduleReady, task="schedule")
    with pytest.raises(ProtocolError, match="expected ReadRates or Finish, got Batch"):
        ask(stage, batch(0), messages.StepResult)


def test_what_a_script_prints_is_in_the_log_and_harms_nothing(stage: Any, make_case: Any) -> None:
    script = (
        "import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\nsys.stdout.close()\nsys.stderr.close()\n"
    )
    case = make_case()
    (case / "torch_side.py").write_text(script + (case / "torch_side.py").read_text(encoding="utf-8"), encoding="utf-8")
    configured(stage, case)
    stage.switchboard.send("torch", messages.Finish())
    worker = stage.workers["torch"]
    assert worker.wait(10) and worker.exit_code() == 0
    assert worker.log_tail().splitlines() == ["to stdout", "to stderr"]


def test_a_warning_of_the_users_is_not_an_error(stage: Any, make_case: Any) -> None:
    case = make_case()
    text = (case / "torch_side.py").read_text(encoding="utf-8")
    (case / "torch_side.py").write_text("import warnings\nwarnings.warn('careful')\n" + text, encoding="utf-8")
    configured(stage, case)
    assert "careful" in stage.workers["torch"].log_tail()


def test_an_unknown_failure_in_a_step_has_the_whole_traceback(stage: Any, make_case: Any) -> None:
    configured(stage, make_case(), fault="forward=raise")
    with pytest.raises(WorkerFailure) as caught:
        ask(stage, batch(0), messages.StepResult)
    assert "in misbehave" in str(caught.value) and caught.value.exit_code == 3
