"""result.json: every key of the format, strict, and back to an equal result."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.results.records import write_json
from stepalign.coordinator.results.result import (
    CaseFacts,
    ErrorFacts,
    FirstDivergence,
    KnownDifference,
    RegimeFacts,
    Result,
    Series,
    SideFacts,
    Verdict,
)
from stepalign.coordinator.results.result_json import from_json, load_result, to_json
from stepalign.protocol.errors import CaseError

_CONTRACT = """
{"schema": 1, "stepalign": "0.1.0", "verdict": "diverged", "exit_code": 1,
 "case": {"name": "bert", "steps": 10, "mode": "eval", "dtype": "float32", "seed": 0},
 "steps_completed": 10,
 "first_divergence": {"step": 1, "kind": "parameter", "torch_name": "fc.bias", "paddle_name": "fc.bias",
                      "index": [3], "torch": 0.1, "paddle": 0.2, "max_abs": 0.1, "max_rel": 0.5, "rel_l2": 0.4,
                      "max_ulp": 12345, "rtol": 1e-5, "atol": 0.0},
 "known_differences": [{"code": "batch_norm_running_variance", "torch_name": "bn.running_var", "evidence": "n = 48"}],
 "causes": [{"category": "weight_decay", "code": "decay_on_bias", "confidence": 0.97, "evidence": "e", "fix": "f"}],
 "sides": {"torch":  {"framework": "torch",  "version": "2.13.0", "python": "3.11.7", "interpreter": "/t/python",
                      "pid": 1, "device": "cpu", "other_frameworks_loaded": [], "libraries": ["libgomp.so"],
                      "batch_digests": ["aa"], "settings": {"threads": 1}},
           "paddle": {"framework": "paddle", "version": "3.3.1", "python": "3.11.7", "interpreter": "/p/python",
                      "pid": 2, "device": "cpu", "other_frameworks_loaded": [], "libraries": [],
                      "batch_digests": ["aa"], "settings": {"threads": 1}}},
 "series": {"loss": {"torch": [0.69], "paddle": [0.69]}, "lr": {"torch": [[3e-5]], "paddle": [[3e-5]]}}}
"""

_CAUSE = Cause(Category.WEIGHT_DECAY, "decay_on_bias", 0.97, "e", "f")


def _side(framework: str, pid: int, libraries: tuple[str, ...] = ()) -> SideFacts:
    version = {"torch": "2.13.0", "paddle": "3.3.1"}[framework]
    return SideFacts(
        framework, version, "3.11.7", f"/{framework[0]}/python", pid, "cpu", (), libraries, ("aa",), {"threads": 1}
    )


def _diverged() -> Result:
    return Result(
        stepalign="0.1.0",
        verdict=Verdict.DIVERGED,
        case=CaseFacts("bert", 10, "eval", "float32", 0),
        steps_completed=10,
        torch=_side("torch", 1, ("libgomp.so",)),
        paddle=_side("paddle", 2),
        series=Series((0.69,), (0.69,), ((3e-5,),), ((3e-5,),)),
        first_divergence=FirstDivergence(
            1, "parameter", "fc.bias", "fc.bias", (3,), 0.1, 0.2, 0.1, 0.5, 0.4, 12345, 1e-5, 0.0
        ),
        known_differences=(KnownDifference("batch_norm_running_variance", "bn.running_var", "n = 48"),),
        causes=(_CAUSE,),
    )


def test_the_written_form_is_exactly_the_contracts() -> None:
    assert to_json(_diverged()) == json.loads(_CONTRACT)
    assert list(to_json(_diverged())) == list(json.loads(_CONTRACT))


def test_the_contracts_form_is_read_to_an_equal_result() -> None:
    assert from_json(json.loads(_CONTRACT)) == _diverged()


def test_every_optional_part_survives_the_way_there_and_back() -> None:
    finding = Finding(_CAUSE, "parameter", "fc.bias", "fc.bias", False, "0.01", "0.0")
    result = dataclasses.replace(
        _diverged(),
        findings=(finding,),
        warnings=("one GPU is shared",),
        compared={"gradient": {"how": "full", "tensors": 12}},
        worst={"loss": {"max_rel": 1e-7, "step": 3}},
        regimes=(RegimeFacts("tiny", 50, False, 0.98, 49, "fc.bias", ("rmsprop_formula",)),),
        first_divergence=FirstDivergence(2, "gradient", "fc.weight", None, reason="missing in paddle"),
        series=Series((0.5, None), (0.5,), ((1.0,), None), ()),
    )
    assert from_json(json.loads(json.dumps(to_json(result), allow_nan=False))) == result


def test_empty_optional_parts_are_left_out() -> None:
    written = to_json(_diverged())
    assert not {"findings", "warnings", "compared", "worst", "regimes", "error"} & set(written)
    assert "reason" not in written["first_divergence"]


def test_numbers_that_are_not_finite_are_strings_and_come_back() -> None:
    place = FirstDivergence(0, "loss", "loss", "loss", (), math.nan, math.inf, math.inf, -math.inf)
    result = dataclasses.replace(_diverged(), first_divergence=place, series=Series((math.nan,), (math.inf,)))
    written = to_json(result)
    assert written["series"]["loss"] == {"torch": ["NaN"], "paddle": ["Infinity"]}
    assert written["first_divergence"]["max_rel"] == "-Infinity"
    read = from_json(json.loads(json.dumps(written, allow_nan=False)))
    assert read.first_divergence is not None and read.first_divergence.torch is not None
    assert math.isnan(read.first_divergence.torch) and read.first_divergence.paddle == math.inf


def test_causes_are_sorted_most_likely_first() -> None:
    causes = tuple(dataclasses.replace(_CAUSE, confidence=value) for value in (0.2, 0.9, 0.5))
    written = to_json(dataclasses.replace(_diverged(), causes=causes))
    assert [cause["confidence"] for cause in written["causes"]] == [0.9, 0.5, 0.2]


@pytest.mark.parametrize(("verdict", "code"), [("aligned", 0), ("diverged", 1), ("failed", 3), ("inconclusive", 4)])
def test_each_verdict_has_its_exit_code(verdict: str, code: int) -> None:
    assert Verdict(verdict).exit_code == code


def test_the_error_of_a_failed_run_may_bring_its_own_exit_code() -> None:
    facts = CaseFacts("bert", 10, "eval", "float32", 0)
    error = ErrorFacts("died", side="paddle", step=3, phase="step", signal="SIGSEGV(-11)")
    failed = Result("0.1.0", Verdict.FAILED, facts, 3, None, None, error=error)
    assert failed.exit_code == 3
    interrupted = dataclasses.replace(failed, error=dataclasses.replace(error, exit_code=130))
    assert to_json(interrupted)["exit_code"] == 130
    assert to_json(interrupted)["sides"] == {"torch": None, "paddle": None}
    assert from_json(to_json(interrupted)) == interrupted


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": Verdict.ALIGNED},
        {"first_divergence": None},
        {"error": ErrorFacts("died")},
        {"verdict": Verdict.FAILED, "first_divergence": None},
    ],
)
def test_a_result_that_contradicts_itself_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="verdict"):
        dataclasses.replace(_diverged(), **changes)


def test_what_a_later_version_adds_to_a_side_is_kept() -> None:
    written = json.loads(_CONTRACT)
    written["sides"]["torch"]["gpu_name"] = "H200"
    read = from_json(written)
    assert read.torch is not None and read.torch.extra == {"gpu_name": "H200"}
    assert to_json(read)["sides"]["torch"]["gpu_name"] == "H200"


def _changed(path: list[Any], value: Any) -> dict[str, Any]:
    written: dict[str, Any] = copy.deepcopy(json.loads(_CONTRACT))
    place: Any = written
    for key in path[:-1]:
        place = place[key]
    if value is KeyError:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return written


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], 2, "schema: expected 1, found 2"),
        (["verdict"], "fine", "verdict: 'fine' is not a valid Verdict"),
        (["verdict"], "aligned", "verdict aligned with first divergence"),
        (["case", "steps"], "10", "case: steps: expected a whole number, found '10'"),
        (["case", "name"], KeyError, "case: expected a key 'name'"),
        (["sides", "torch"], [], "sides: torch: expected an object, found []"),
        (["sides", "torch", "pid"], True, "sides: torch: pid: expected a whole number"),
        (["series", "loss", "torch"], [0.1, "nan"], "series: loss: torch[1]: expected a number"),
        (["series", "lr", "paddle"], [0.1], "series: lr: paddle[0]: expected a list, found 0.1"),
        (["causes", 0, "category"], "magic", "causes[0]: category: 'magic' is not a valid Category"),
        (["known_differences"], "none", "known_differences: expected a list, found 'none'"),
        (["first_divergence", "index"], [1.5], "first_divergence: index[0]: expected a whole number"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(path: list[Any], value: Any, message: str) -> None:
    with pytest.raises(CaseError) as caught:
        from_json(_changed(path, value))
    assert message in str(caught.value)


def test_a_result_is_loaded_from_its_run_folder_and_an_error_names_the_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", to_json(_diverged()))
    assert load_result(tmp_path) == _diverged()
    write_json(tmp_path / "result.json", {"schema": 1})
    with pytest.raises(CaseError, match=f"{tmp_path}: result.json: expected a key"):
        load_result(tmp_path)
