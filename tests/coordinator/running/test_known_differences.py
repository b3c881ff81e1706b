"""What the frameworks themselves do differently is recognised in real runs of both, and is not the port's fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.ports.catalogue import select
from benchmarks.ports.writing import write_case as write_port

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, Ended, run, write_case


def _run_port(name: str, folder: Path, *arguments: str) -> Ended:
    (port,) = select(name, False)
    return run(write_port(port, folder / name), *arguments)


def _codes(ended: Ended) -> set[str]:
    return {difference["code"] for difference in ended.result["known_differences"]}


@pytest.mark.parametrize(
    ("port", "codes"),
    [
        (
            "conv_bias_before_batch_norm",
            {"batch_norm_running_variance", "noise_driven_running_mean", "rounding_noise_update"},
        ),
        ("mlp_clip_in_the_optimizer", {"clip_norm_epsilon"}),
        ("mlp_saturated_logits", {"softmax_clipping"}),
        ("mlp_momentum_float64", {"float32_hyperparameters"}),
    ],
)
def test_a_correct_port_with_a_known_difference_is_aligned_and_the_difference_is_listed(
    tmp_path: Path, port: str, codes: set[str]
) -> None:
    ended = _run_port(port, tmp_path)
    assert ended.code == 0, json.dumps(ended.result.get("first_divergence"))
    assert codes <= _codes(ended)


def test_the_biased_batch_variance_names_the_number_of_elements_and_counts_when_strict(tmp_path: Path) -> None:
    ended = _run_port("conv_train_momentum", tmp_path)
    variance = next(item for item in ended.result["known_differences"] if item["code"] == "batch_norm_running_variance")
    assert "paddle / torch = (n-1)/n, n = " in variance["evidence"] and "residual" in variance["evidence"]
    strict = _run_port("conv_train_momentum", tmp_path / "strict", "--set", "compare.strict=true")
    assert strict.code == 1
    assert strict.result["first_divergence"]["kind"] == "buffer"


@pytest.mark.parametrize(
    ("torch", "paddle", "code"),
    [
        ("torch.optim.RMSprop(parameters, lr=1e-3)",
         "paddle.optimizer.RMSProp(1e-3, 0.99, 1e-16, parameters=parameters)", "rmsprop_formula"),
        ("torch.optim.Adamax(parameters, lr=1e-3)", "paddle.optimizer.Adamax(1e-3, parameters=parameters)", "adamax_formula"),
    ],
)  # fmt: skip
def test_a_rule_that_paddle_writes_otherwise_is_known_and_not_blamed(
    tmp_path: Path, torch: str, paddle: str, code: str
) -> None:
    ours = TORCH_SIDE.replace("torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)", torch)
    theirs = PADDLE_SIDE.replace("paddle.optimizer.AdamW(rate, parameters=parameters, weight_decay=0.01)", paddle)
    ours = ours.replace("scheduler=make_scheduler(optimizer)", "scheduler=None")
    theirs = theirs.replace("scheduler=scheduler", "scheduler=None").replace(
        "scheduler = make_scheduler()", "scheduler = None"
    )
    ended = run(write_case(tmp_path / "rule", "steps = 3\n", torch=ours, paddle=theirs))
    assert ended.code == 0, json.dumps(ended.result.get("first_divergence"))
    assert code in _codes(ended)
