"""What result.json gets of a run: its verdict, its first divergence, its error, what each side proved to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import numpy as np
import pytest

from stepalign.coordinator.cases.case import Case, CaseFile, DataSection, SideSection
from stepalign.coordinator.comparison.comparison import Comparison, compare_rate, compare_values
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.devices.placement import Device
from stepalign.coordinator.results.result import FirstDivergence, Verdict
from stepalign.coordinator.running.recorder import describe_comparison
from stepalign.coordinator.running.run_state import Run
from stepalign.coordinator.running.verdict import divergence_of, error_facts, result_of
from stepalign.protocol.errors import CaseError, StepalignError, WorkerFailure
from stepalign.protocol.messages import WorkerFacts

FILE = CaseFile(
    SideSection("t.py"), SideSection("p.py"), DataSection("data.npz"), "port", 7, mode="train", dtype="float64", seed=3
)
CASE = Case(Path("."), FILE)
PLACE = FirstDivergence(2, "loss", "loss", "loss")
ITEM = Comparison(
    2, "parameter", "fc.weight", "dense.weight", False, 1e-5, 1e-7,
    Measures(8, 0.25, 0.5, 0.125, 77, index=(1, 2), reference=0.5, candidate=0.75), "1 of 8 out",
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "divergence", "inconclusive", "verdict"),
    [
        (None, None, False, Verdict.ALIGNED),
        (None, None, True, Verdict.INCONCLUSIVE),
        (None, PLACE, True, Verdict.DIVERGED),
        (WorkerFailure("died"), PLACE, True, Verdict.FAILED),
    ],
)
def test_a_failure_goes_before_a_divergence_and_that_before_too_much_noise(
    error: Optional[StepalignError], divergence: Optional[FirstDivergence], inconclusive: bool, verdict: Verdict
) -> None:
    run = Run(CASE, Path("."), error=error, divergence=divergence, inconclusive=inconclusive)
    result = result_of(run)
    assert result.verdict is verdict
    assert result.first_divergence == (PLACE if verdict is Verdict.DIVERGED else None)
    assert (result.error is not None) == (verdict is Verdict.FAILED)


def test_a_result_tells_which_case_ran_and_how_far_it_came() -> None:
    run = Run(CASE, Path("."))
    for step in range(2):
        for number in (0, 1):
            run.record.losses[number].append(np.array(0.5 + number + step, np.float32))
            run.record.rates[number].append([0.1 * (1 + number), 0.2])
            run.record.batch_digests[number].append(f"{step}{number}")
    run.record.rate_pairs = ((0, 1), (1, 0))
    run.record.worst["parameter"] = ITEM
    result = result_of(run)
    facts = result.case
    assert (facts.name, facts.steps, facts.mode, facts.dtype, facts.seed) == ("port", 7, "train", "float64", 3)
    assert result.steps_completed == 2
    series = result.series
    assert (list(series.loss_torch), list(series.loss_paddle)) == ([0.5, 1.5], [1.5, 2.5])
    assert [list(rates) for rates in series.lr_torch if rates] == [[0.1, 0.2]] * 2
    assert [list(rates) for rates in series.lr_paddle if rates] == [[0.2, 0.2]] * 2
    assert series.lr_pairs == ((0, 1), (1, 0))
    worst = result.worst["parameter"]
    assert (worst["step"], worst["max_abs"], worst["torch_name"]) == (2, 0.25, "fc.weight")


def test_the_worst_loss_and_rate_of_a_run_that_agrees_have_all_their_measures() -> None:
    """Every step only screens two numbers: what it does not measure is not told as zero, neither of a step nor of the run."""
    run = Run(CASE, Path("."))
    torch = np.array(0.7, np.float32)
    paddle = np.nextafter(torch, np.float32(1))
    for number, loss in enumerate((torch, paddle)):
        run.record.losses[number].append(loss)
    run.record.worst["loss"] = compare_values(0, "loss", "loss", "loss", torch, paddle, 1e-5, 0.0)
    run.record.worst["lr"] = compare_rate(0, "group 0", "group 0", 0.1, np.nextafter(0.1, 1.0), 1e-11, 0.0)
    for kind, item in run.record.worst.items():
        assert item.passed and item.measures is not None and not item.measures.complete
        assert not {"max_rel", "rel_l2", "max_ulp", "cosine", "smallest_rtol"} & describe_comparison(item).keys(), kind
    worst = result_of(run).worst
    assert worst["loss"]["max_ulp"] == worst["lr"]["max_ulp"] == 1
    assert worst["loss"]["max_rel"] == worst["loss"]["rel_l2"] == pytest.approx(float(paddle - torch) / float(torch))
    assert worst["lr"]["max_rel"] == pytest.approx(2**-56 / 0.1) and worst["loss"]["step"] == 0


def test_a_divergence_has_the_numbers_of_its_comparison_or_only_its_reason() -> None:
    found = divergence_of(ITEM)
    assert (found.step, found.kind, found.torch_name, found.paddle_name) == (2, "parameter", "fc.weight", "dense.weight")
    assert (found.index, found.torch, found.paddle, found.reason) == ((1, 2), 0.5, 0.75, "1 of 8 out")
    assert (found.max_abs, found.max_rel, found.rel_l2, found.max_ulp) == (0.25, 0.5, 0.125, 77)
    assert (found.rtol, found.atol) == (1e-5, 1e-7)
    bare = divergence_of(replace(ITEM, measures=None))
    assert bare == FirstDivergence(
        2, "parameter", "fc.weight", "dense.weight", rtol=1e-5, atol=1e-7, reason="1 of 8 out"
    )


@pytest.mark.parametrize(("error", "code"), [(CaseError("wrong"), 2), (WorkerFailure("wrong"), 3), (ValueError("wrong"), 3)])
def test_an_error_keeps_its_exit_code_and_what_is_known_of_its_place(error: Exception, code: int) -> None:
    facts = error_facts(error)
    assert (facts.message, facts.exit_code, facts.side, facts.step) == ("wrong", code, None, None)
    error.fault = {"side": "paddle", "step": 4, "phase": "backward", "signal": "SIGKILL"}  # type: ignore[attr-defined]
    facts = error_facts(error)
    assert (facts.side, facts.step, facts.phase, facts.signal) == ("paddle", 4, "backward", "SIGKILL")


def test_each_side_has_its_own_facts_digests_and_device_and_a_recorded_one_when_it_was_made() -> None:
    run = Run(CASE, Path("."))
    run.facts = {
        side: WorkerFacts(
            framework=side, version="1", python="3.11", interpreter=f"/{side}", pid=number, device="cpu",
            other_frameworks_loaded=(), libraries=(), settings={"threads": number},
        )
        for number, side in enumerate(("torch", "paddle"), start=1)
    }  # fmt: skip
    gpu: Any = SimpleNamespace(uuid="GPU-1")
    device = Device("gpu", gpu, (2, 3), 2, {})
    placement: Any = SimpleNamespace(devices={"paddle": device})
    run.crew = SimpleNamespace(placement=placement)  # type: ignore[assignment]
    recording: Any = SimpleNamespace(side="torch", made="yesterday")
    run.case = replace(CASE, against=recording)
    for number, digest in enumerate(("ours", "theirs")):
        run.record.batch_digests[number].append(digest)
    result = result_of(run)
    assert result.torch is not None and result.paddle is not None
    assert (result.torch.interpreter, list(result.torch.batch_digests)) == ("/torch", ["ours"])
    assert (result.paddle.interpreter, list(result.paddle.batch_digests)) == ("/paddle", ["theirs"])
    assert result.torch.extra == {"recorded": "yesterday"} and result.torch.settings == {"threads": 1}
    assert result.paddle.extra == {"gpu": "GPU-1", "cores": [2, 3], "threads": 2}


def test_a_side_that_never_came_up_has_no_facts() -> None:
    result = result_of(Run(CASE, Path("."), error=WorkerFailure("died")))
    assert (result.torch, result.paddle, result.steps_completed) == (None, None, 0)
