"""Results that no run gave, one of each verdict, for the tests of what people see."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.results.records import StepsLog
from stepalign.coordinator.results.result import (
    CaseFacts,
    ErrorFacts,
    FirstDivergence,
    KnownDifference,
    Result,
    Series,
    SideFacts,
    Verdict,
)

HOSTILE_NAME = "encoder.<script>alert(1)</script>.bias"


def side(framework: str, threads: int = 1) -> SideFacts:
    version = {"torch": "2.13.0", "paddle": "3.3.1"}[framework]
    digests = tuple(f"{step:032x}" for step in range(10))
    interpreter = f"/envs/{framework}/bin/python"
    return SideFacts(
        framework, version, "3.11.7", interpreter, 7, "cpu", (), ("libgomp.so.1",), digests, {"threads": threads}
    )


def aligned(steps: int = 10) -> Result:
    losses = tuple(0.7 * math.exp(-step / 20) for step in range(steps))
    rates = tuple((3e-5 * (1 - step / steps), 3e-4) for step in range(steps))
    return Result(
        stepalign="0.1.0",
        verdict=Verdict.ALIGNED,
        case=CaseFacts("bert", steps, "eval", "float32", 0),
        steps_completed=steps,
        torch=side("torch"),
        paddle=side("paddle"),
        series=Series(losses, tuple(loss * (1 + 1e-8) for loss in losses), rates, rates),
        compared={"tensors": "every kind at every step", "rates and losses": "every step"},
        worst={"loss": {**entry("loss", "loss", 0.5, True), "step": 3}},
    )


def diverged(steps: int = 10, at: int = 2) -> Result:
    causes = (
        Cause(Category.OPTIMIZER, "epsilon", 0.3, "the least update differs", "set epsilon=1e-6"),
        Cause(
            Category.WEIGHT_DECAY, "decay_on_bias", 0.97, "12 of 24 parameters moved more", "pass apply_decay_param_fun"
        ),
        Cause(Category.HYPERPARAMETER, "betas", 0.2, "evidence of betas", "set beta2=0.999"),
        Cause(Category.PRECISION, "rounding", 0.1, "evidence of rounding", "set nothing"),
    )
    place = FirstDivergence(
        at,
        "parameter",
        HOSTILE_NAME,
        "encoders.0.bias",
        (3,),
        0.125,
        0.25,
        0.125,
        1.0,
        0.5,
        12345,
        2.5e-7,
        1e-9,
        "1 of 8 out",
    )
    return dataclasses.replace(
        aligned(steps),
        verdict=Verdict.DIVERGED,
        paddle=side("paddle", threads=2),
        first_divergence=place,
        causes=causes,
        findings=(Finding(causes[1], "parameter", "a.bias", "b.bias", True, "0.01", "0.0"),),
        known_differences=tuple(
            KnownDifference("batch_norm_running_variance", f"bn{number}.running_var", "n = 48") for number in range(20)
        ),
        warnings=("one GPU is shared by both sides",),
    )


def inconclusive() -> Result:
    return dataclasses.replace(aligned(), verdict=Verdict.INCONCLUSIVE, warnings=("the noise is larger",))


def failed() -> Result:
    error = ErrorFacts(
        "the torch worker died: SIGKILL(-9)\n  \x1b[31m<b>last</b> line\x1b[0m", "torch", 3, "step", "SIGKILL"
    )
    facts = CaseFacts("bert", 10, "eval", "float32", 0)
    return Result("0.1.0", Verdict.FAILED, facts, 0, side("torch"), None, error=error)


def schedule_only(steps: int = 5000) -> Result:
    torch = tuple((1e-3 * min(1.0, step / 500),) for step in range(steps))
    paddle = tuple((rates[0] * (1.001 if step >= 4000 else 1.0),) for step, rates in enumerate(torch))
    return Result(
        "0.1.0",
        Verdict.DIVERGED,
        CaseFacts("bert", steps, "eval", "float32", 0),
        steps,
        side("torch"),
        side("paddle"),
        Series(lr_torch=torch, lr_paddle=paddle),
        FirstDivergence(4000, "lr", "group 0", "group 0", (0,), 1e-3, 1.001e-3, 1e-6, 1e-3, 1e-3, 9, 1e-10, 1e-18),
    )


def every_result() -> dict[str, Result]:
    not_finite = Series((0.7, math.nan, math.inf), (0.7, math.nan), ((math.nan,), None, (1e-3,)), ((1e-3,),))
    return {
        "aligned": aligned(),
        "diverged": diverged(),
        "inconclusive": inconclusive(),
        "failed": failed(),
        "schedule only": schedule_only(),
        "no steps": dataclasses.replace(diverged(), series=Series(), steps_completed=0),
        "not finite": dataclasses.replace(diverged(), series=not_finite),
    }


def entry(kind: str, name: str, ratio: float, passed: bool) -> dict[str, Any]:
    """A comparison as steps.jsonl has it, ``ratio`` times what is allowed."""
    difference = ratio * 1e-5 * 0.5
    measures = {"max_abs": difference, "max_rel": difference / 0.5, "rel_l2": difference, "max_ulp": 7, "index": [1]}
    described = {"kind": kind, "torch_name": name, "paddle_name": name, "passed": passed, "rtol": 1e-5, "atol": 0.0}
    return {
        **described,
        **measures,
        "torch": 0.5,
        "paddle": 0.5 + difference,
        **({} if passed else {"reason": "<i>out</i>"}),
    }


def write_steps(folder: Path, steps: int, first_failure: int) -> None:
    """Write a steps.jsonl whose gradients fail from ``first_failure`` on, one tensor more at each step."""
    with StepsLog(folder / "steps.jsonl") as log:
        for step in range(steps):
            count = min(20, max(0, step - first_failure + 1))
            failures = [entry("gradient", f"{HOSTILE_NAME}.{number}", 2.0 + number, False) for number in range(count)]
            worst = {kind: entry(kind, kind, 0.1, True) for kind in ("lr", "loss", "gradient")}
            if failures:
                worst["gradient"] = failures[-1]
            log.append({"step": step, "passed": not failures, "drift": 1e-8, "worst": worst, "failures": failures})


def details() -> dict[str, Any]:
    """Return what details.json of `diverged` might hold: three steps, the second the first that failed."""
    rows = [
        ["gradient", HOSTILE_NAME, "encoders.0.bias"],
        ["gradient", "encoder.0.norm.bias", "encoder.0.norm.bias"],
        ["gradient", "embed.weight", "embed.weight"],
        ["optimizer_state", "embed.weight/moment1", "embed.weight/moment1"],
        ["lr", "group 0", "group 0"],
        ["loss", "loss", "loss"],
        ["activation", "encoder.0", "encoder.0"],
        ["activation", "embed", "embed"],
    ]
    tensor = {
        "kind": "gradient",
        "torch_name": HOSTILE_NAME,
        "paddle_name": "encoders.0.bias",
        "shape": [8],
        "dtype": "float32",
        "elements": 8,
        "looked_at": 8,
        "equal": 1,
        "not_finite": 0,
        "counts": [0] * 20 + [3, 2, 1, 1] + [0] * 16,
        "worst": [{"index": [3], "torch": 0.125, "paddle": "NaN", "difference": "NaN"}],
    }
    modules = [("", "Net"), ("embed", "Embedding"), ("encoder", "ModuleList"), ("encoder.0", "Layer")]
    return {
        "schema": 1,
        "case_folder": "/my cases/bert",
        "map": {
            "steps": [0, 1, 2],
            "rows": rows,
            "levels": [[-1.0, 2.0, 3.0], *([[-2.0, -1.5, -1.0]] * 7)],
            "left_out": 0,
        },
        "tensors": ["embed.weight", "encoder.0.norm.bias", HOSTILE_NAME],
        "modules": [
            {"path": path, "type": kind, "paddle_path": path, "paddle_type": kind}
            for path, kind in (*modules, ("encoder.0.norm", "LayerNorm"))
        ],
        "bad_module": "encoder.0.norm",
        "noise": {"loss": [[0, 0.0], [1, 1e-8], [2, 2e-8]]},
        "first_failure": {"step": 1, "tensors": [tensor], "edges": [round(-4 + 0.25 * n, 2) for n in range(41)]},
    }
