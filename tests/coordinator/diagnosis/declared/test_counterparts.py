"""What the pre-flight comparison and the causes take from the atlas: names, conversions, defaults, known differences."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from stepalign.coordinator.atlas.layers import LAYERS, layer_of
from stepalign.coordinator.diagnosis.declared.common_terms import (
    MODULE_TERMS,
    OPTIMIZER_TERMS,
    PADDLE_TERMS,
    SCHEDULER_ARGUMENTS,
)
from stepalign.coordinator.diagnosis.declared.counterparts import (
    both_defaults,
    module_argument,
    neutral,
    optimizer_argument,
    schedule_argument,
    torch_default,
    write,
)
from stepalign.coordinator.diagnosis.declared.layer_differences import layer_differences
from stepalign.coordinator.diagnosis.declared.preflight_modules import compare_modules
from tests.coordinator.diagnosis.declared.declared_sides import Side, module

WORKERS = Path(__file__).resolve().parents[4] / "workers"


@pytest.mark.parametrize(
    ("kind", "key", "value", "written"),
    [
        ("LayerNorm", "eps", 1e-12, "epsilon=1e-12"),
        ("BatchNorm2d", "momentum", 0.1, "momentum=0.9"),
        ("GELU", "approximate", "tanh", "approximate=True"),
        ("AvgPool2d", "count_include_pad", True, "exclusive=False"),
        ("LSTM", "bidirectional", True, "direction='bidirect'"),
        ("TransformerEncoderLayer", "norm_first", True, "normalize_before=True"),
        ("Hardtanh", "min_val", -2.0, "min=-2"),
        ("Unfold", "kernel_size", (3, 3), "kernel_sizes=3"),
        ("SmoothL1Loss", "beta", 0.5, "delta=0.5"),
        ("CrossEntropyLoss", "label_smoothing", 0.1, "label_smoothing=0.1"),
    ],
)
def test_a_layers_argument_is_written_as_paddle_takes_it(kind: str, key: str, value: object, written: str) -> None:
    assert write(module_argument(kind, key), key, value) == written  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "key", "value", "written"),
    [
        ("AdamW", "beta1", 0.9, "beta1=0.9"),
        ("AdamW", "eps", 1e-6, "epsilon=1e-06"),
        ("RMSprop", "eps", 1e-8, "epsilon=1e-16"),
        ("RMSprop", "alpha", 0.99, "rho=0.99"),
        ("SGD", "nesterov", True, "use_nesterov=True"),
        ("SGD", "momentum", 0.9, "momentum=0.9"),
        ("Rprop", "step_sizes", (1e-6, 50.0), "learning_rate_range=(1e-06, 50.0)"),
    ],
)
def test_an_optimizers_argument_is_written_as_paddle_takes_it(rule: str, key: str, value: object, written: str) -> None:
    assert write(optimizer_argument(rule, key), key, value) == written  # type: ignore[arg-type]


def test_what_paddle_lacks_is_said_in_place_of_an_argument() -> None:
    assert "no argument gives it" in write(optimizer_argument("SGD", "dampening", "Momentum"), "dampening", 0.5)
    assert "InverseTimeDecay" in write(optimizer_argument("Adagrad", "lr_decay"), "lr_decay", 0.1)


def test_schedules_go_by_the_atlas_too() -> None:
    assert write(schedule_argument("LinearLR", "total_iters"), "total_iters", 5) == "total_steps=5"
    assert write(schedule_argument("PolynomialLR", "total_iters"), "total_iters", 5) == "decay_steps=5"
    assert neutral(schedule_argument("PolynomialLR", "paddle.end_lr")) == 0.0
    assert torch_default(schedule_argument("StepLR", "gamma")) == 0.1
    for rule, keys in SCHEDULER_ARGUMENTS.items():
        for key in keys:
            assert (rule, key) == ("OneCycleLR", "min_lr") or schedule_argument(rule, key) is not None, (rule, key)


def test_a_difference_of_two_defaults_is_said_to_be_one() -> None:
    clause = both_defaults(optimizer_argument("Adagrad", "eps"), 1e-10, 1e-6)
    assert clause == "; each is its framework's default (eps=1e-10 in torch, epsilon=1e-06 in paddle)"
    assert both_defaults(optimizer_argument("Adagrad", "eps"), 1e-10, 1e-5) == ""
    assert both_defaults(module_argument("LayerNorm", "eps"), 1e-5, 1e-5) == ""
    assert "alpha=0.99 in torch, rho=0.95 in paddle" in both_defaults(
        optimizer_argument("RMSprop", "alpha"), 0.99, 0.95
    )


def test_average_pools_left_at_their_defaults_are_told_apart_with_both_names() -> None:
    torch = module("pool", "AvgPool2d", kernel_size=3, padding=1, count_include_pad=True)
    paddle = module("pool", "AvgPool2d", kernel_size=3, padding=1, count_include_pad=False)
    (finding,) = compare_modules(
        Side(modules=(torch,)).build(), Side(modules=(paddle,)).build(), [("pool", "pool")], "eval"
    )
    assert finding.matters and finding.cause.code == "pool_padding"
    assert "count_include_pad=True in torch, exclusive=True in paddle" in finding.cause.evidence
    assert finding.cause.fix.startswith("exclusive=False in ")


def test_every_term_is_an_argument_that_some_row_of_the_atlas_has() -> None:
    arguments = {argument.torch for pair in LAYERS for argument in pair.arguments}
    paddle_only = {f"paddle.{each.paddle}" for pair in LAYERS for each in pair.arguments if not each.torch}
    unknown = set(MODULE_TERMS) - arguments - {"weighted", "attn_dropout", "act_dropout"}
    assert unknown == set()
    assert set(PADDLE_TERMS) - paddle_only == {"paddle.use_global_stats", "paddle.trainable_statistics"}
    rules = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "Rprop", "ASGD")
    assert {key for key in OPTIMIZER_TERMS if not any(optimizer_argument(rule, key) for rule in rules)} == set()


@pytest.mark.parametrize("side", ["torch_worker", "paddle_worker"])
def test_what_workers_declare_of_a_layer_is_in_its_row(side: str) -> None:
    """The workers know where a layer keeps an argument, under torch's name; what that name means is the atlas's."""
    tree = ast.parse((WORKERS / side / "modules.py").read_text(encoding="utf-8"))
    values = {
        node.targets[0].id: node.value  # type: ignore[attr-defined]
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    names = {
        name: ast.literal_eval(value) for name, value in values.items() if name in ("_POOL", "_CONV", "_RECURRENT")
    }
    fields = eval(compile(ast.Expression(values["_FIELDS"]), side, "eval"), {"__builtins__": {}}, names)  # noqa: S307
    without_row = {"RMSNorm"}
    for family, listed in fields.items():
        rows = [row for suffix in ("", "1d", "2d", "3d") if (row := layer_of(family + suffix)) is not None]
        assert rows or family in without_row, family
        for key in (field.partition("=")[0] for field in listed.split()):
            assert not rows or any(row.argument(key) for row in rows), (family, key)


def test_a_layer_that_paddle_computes_otherwise_is_a_hint() -> None:
    plain, bare = (module("norm", "GroupNorm", num_groups=2, affine=affine) for affine in (True, False))
    assert list(layer_differences([(plain, plain)])) == []
    (finding,) = layer_differences([(bare, dataclasses.replace(bare, path="body.norm"))])
    assert not finding.matters and finding.kind == "gradient"
    assert (finding.cause.category, finding.cause.code) == ("backward", "layer_difference")
    assert "weights of 1" in finding.cause.fix and "body.norm" in finding.cause.evidence
