"""What the pre-flight comparison finds in declarations, and what it must not find."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.cases.case import WeightsSection
from stepalign.coordinator.diagnosis.cause import Finding
from stepalign.coordinator.diagnosis.declared.preflight import compare_declarations
from stepalign.coordinator.diagnosis.declared.preflight_decay import is_bias, is_norm
from stepalign.coordinator.diagnosis.declared.relevance import settle_by_data
from stepalign.coordinator.diagnosis.declared.tying import find_untied
from stepalign.coordinator.sessions.naming import match_names
from stepalign.protocol.specs import ModuleSpec, SchedulerSpec, TensorSpec

from .declared_sides import ADAM, ADAMW, SGD, Side, module

DECAYED, SPARED = ("fc.weight",), ("fc.bias", "norm.weight", "norm.bias")


def compare(
    torch: Side, paddle: Side, mode: str = "eval", dropout: str = "own", undeclared: tuple[str, ...] = ()
) -> list[Finding]:
    ours, theirs = torch.build(), paddle.build()
    tensors = [(name, name) for name in torch.names if name in paddle.names]
    paths = {m.path for m in theirs.modules}
    return compare_declarations(
        ours, theirs, tensors, [(m.path, m.path) for m in ours.modules if m.path in paths], mode, dropout, undeclared
    )


def codes(findings: list[Finding], matters: bool = True) -> list[str]:
    return sorted(f"{f.cause.category.value}/{f.cause.code}" for f in findings if f.matters == matters)


def sgd(**changes: Any) -> Side:
    return Side(optimizer="SGD", framework_class="Momentum", values={**SGD, **changes})


def adam(**changes: Any) -> Side:
    return Side(optimizer="Adam", framework_class="Adam", values={**ADAM, **changes})


def test_equal_declarations_have_no_findings() -> None:
    assert compare(Side(), Side()) == []


def test_float32_values_of_paddle_are_no_findings() -> None:
    rounded = {key: float(np.float32(value)) if isinstance(value, float) else value for key, value in ADAMW.items()}
    norm = module("norm", "LayerNorm", eps=1e-5), module("norm", "LayerNorm", eps=float(np.float32(1e-5)))
    assert compare(Side(modules=norm[:1]), Side(values=rounded, modules=norm[1:])) == []


@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.001, 0.003])
def test_batch_norm_momentum_declared_through_a_float32_is_no_finding(momentum: float) -> None:
    theirs = 1.0 - float(np.float32(1.0 - momentum))
    torch = Side(modules=(module("bn", "BatchNorm2d", momentum=momentum),))
    assert compare(torch, Side(modules=(module("bn", "BatchNorm2d", momentum=theirs),))) == []


def test_absent_arguments_mean_their_defaults() -> None:
    paddle = Side(optimizer="SGD", framework_class="SGD", values={"lr": 0.1, "weight_decay": 0.0})
    torch = sgd(momentum=0.0, weight_decay=None, maximize=False)
    assert compare(torch, paddle) == []


def test_nesterov_and_dampening_do_not_count_without_momentum() -> None:
    assert compare(sgd(momentum=0.0, dampening=0.5), sgd(momentum=0.0)) == []


def test_adam_and_adamw_without_decay_are_one_rule() -> None:
    assert compare(adam(weight_decay=0.0), Side(values={**ADAMW, "weight_decay": 0.0})) == []


def test_another_grouping_of_the_same_decay_is_no_finding() -> None:
    torch = Side(groups=[(DECAYED, ADAMW), (SPARED, {**ADAMW, "weight_decay": 0.0})])
    assert compare(torch, Side(effective={name: {"weight_decay": 0.0} for name in SPARED})) == []


def test_rates_that_differ_by_one_factor_are_left_to_the_numbers() -> None:
    assert compare(Side(), Side(values={**ADAMW, "lr": 1.0})) == []


def test_decay_on_biases_and_norms_is_found_by_its_resolved_values() -> None:
    torch = Side(groups=[(DECAYED, ADAMW), (SPARED, {**ADAMW, "weight_decay": 0.0})])
    findings = compare(torch, Side())
    assert codes(findings) == ["weight_decay/decay_on_bias", "weight_decay/decay_on_norm"]
    assert all(finding.kind == "parameter" for finding in findings)
    bias = next(finding for finding in findings if finding.cause.code == "decay_on_bias")
    assert "fc_0.b_0" in bias.cause.evidence
    norm = next(finding for finding in findings if finding.cause.code == "decay_on_norm")
    assert "1 norm weights" in norm.cause.evidence and "norm.bias" not in norm.cause.evidence
    assert "apply_decay_param_fun" in bias.cause.fix


@pytest.mark.parametrize(
    ("torch", "paddle", "code"),
    [
        (Side(), Side(values={**ADAMW, "weight_decay": 0.0}), "weight_decay/no_decay"),
        (sgd(), sgd(weight_decay=5e-4), "weight_decay/decay_added"),
        (Side(), Side(values={**ADAMW, "weight_decay": 0.1}), "weight_decay/decay_value"),
        (Side(), Side(effective={"norm.bias": {"weight_decay": 0.0}}), "weight_decay/decay_missing"),
        (Side(), Side(effective={"fc.weight": {"coupled_weight_decay": 1e-4}}), "weight_decay/extra_regularizer"),
        (sgd(weight_decay=1e-4), sgd(weight_decay=1e-4, l1_decay=1e-4), "weight_decay/l1_decay"),
        (Side(), Side(values={**ADAMW, "beta2": 0.99}), "hyperparameter/beta2"),
        (adam(beta1=0.8), adam(), "hyperparameter/beta1"),
        (Side(), Side(values={**ADAMW, "eps": 1e-6}), "hyperparameter/optimizer_epsilon"),
        (sgd(), sgd(momentum=0.99), "hyperparameter/momentum"),
        (sgd(nesterov=True), sgd(), "optimizer/nesterov_missing"),
        (sgd(), sgd(nesterov=True), "optimizer/nesterov_added"),
        (sgd(), sgd(momentum=0.0), "optimizer/momentum_missing"),
        (sgd(dampening=0.1), sgd(), "hyperparameter/dampening"),
        (adam(amsgrad=True), adam(), "hyperparameter/amsgrad"),
        (adam(maximize=True), adam(), "optimizer/maximize"),
        (sgd(), adam(weight_decay=0.0), "optimizer/other_rule"),
        (Side(), adam(weight_decay=0.01), "optimizer/coupled_decay"),
        (adam(weight_decay=0.1), Side(values={**ADAMW, "weight_decay": 0.1}), "optimizer/decoupled_decay"),
        (Side(), Side(groups=[(DECAYED, ADAMW)]), "frozen_parameter/not_in_optimizer"),
        (Side(groups=[(DECAYED, ADAMW)]), Side(), "frozen_parameter/only_in_paddle_optimizer"),
        (Side(), Side(frozen=("fc.bias",)), "frozen_parameter/frozen"),
        (Side(frozen=("fc.bias",), groups=[(DECAYED + SPARED[1:], ADAMW)]), Side(), "frozen_parameter/not_frozen"),
        (Side(), Side(effective={"fc.weight": {"lr_multiplier": 0.1}}), "hyperparameter/lr_multiplier"),
        (Side(), Side(dtypes={"fc.weight": "float16"}), "precision/dtype"),
    ],
)
def test_a_difference_of_training_is_found_and_matters(torch: Side, paddle: Side, code: str) -> None:
    assert codes(compare(torch, paddle)) == [code]


@pytest.mark.parametrize(
    ("torch", "paddle", "kind"),
    [
        (sgd(), sgd(weight_decay=5e-4), "optimizer_state"),
        (sgd(momentum=0.0), sgd(momentum=0.0, weight_decay=5e-4), "parameter"),
        (adam(weight_decay=0.1), adam(weight_decay=0.2), "optimizer_state"),
        (Side(), Side(values={**ADAMW, "weight_decay": 0.1}), "parameter"),
        (sgd(), adam(weight_decay=0.0), "optimizer_state"),
        (Side(), adam(weight_decay=0.01), "optimizer_state"),
        (Side(), adam(weight_decay=0.0), "parameter"),
        (adam(weight_decay=0.1), Side(values={**ADAMW, "weight_decay": 0.1}), "optimizer_state"),
        (adam(weight_decay=0.0), Side(values={**ADAMW, "weight_decay": 0.1}), "parameter"),
    ],
)
def test_a_difference_of_optimizers_says_where_it_shows_first(torch: Side, paddle: Side, kind: str) -> None:
    assert compare(torch, paddle)[0].kind == kind


def test_a_regularizer_that_both_sides_have_is_no_finding() -> None:
    assert compare(sgd(l1_decay=1e-4), sgd(l1_decay=1e-4)) == []


@pytest.mark.parametrize(("gamma", "found"), [(0.1, []), (0.2, ["hyperparameter/lr_decay"])])
def test_a_decay_of_the_rate_inside_torchs_optimizer_may_be_paddles_schedule(gamma: float, found: list[str]) -> None:
    values = {"lr": 0.1, "eps": 1e-10, "weight_decay": 0.0}
    torch = Side(optimizer="Adagrad", framework_class="Adagrad", values={**values, "lr_decay": 0.1})
    paddle = Side(optimizer="Adagrad", framework_class="Adagrad", values=values)
    paddle.scheduler = SchedulerSpec("InverseTimeDecay", "InverseTimeDecay", {"gamma": gamma})
    assert [code for code in codes(compare(torch, paddle)) if code.endswith("lr_decay")] == found


def test_biases_and_norms_are_known_by_their_role_and_module_whatever_they_are_called() -> None:
    def tensor(name: str, module_type: str, role: str) -> TensorSpec:
        return TensorSpec(name, "parameter", (4,), "float32", True, name.rpartition(".")[0], module_type, role)

    assert is_bias(tensor("attn.bias_k", "MyAttention", "")) and is_bias(tensor("attn.b", "Linear", "bias"))
    assert not is_bias(tensor("bias.weight", "Linear", "weight"))
    assert is_norm(tensor("ln_f.weight", "LayerNorm", "weight")) and not is_norm(tensor("norm.weight", "Linear", "weight"))


def test_whole_numbers_of_another_dtype_are_left_to_the_comparison() -> None:
    assert compare(Side(dtypes={"fc.bias": "int64"}), Side()) == []


def test_what_matters_comes_first_then_the_surest() -> None:
    torch = Side(modules=(module("drop", "Dropout", p=0.1),), scheduler=SchedulerSpec("StepLR", "StepDecay", {"gamma": 0.1}))
    paddle = Side(
        modules=(module("drop", "Dropout", p=0.5),),
        scheduler=SchedulerSpec("StepLR", "StepDecay", {"gamma": 0.5}),
        values={**ADAMW, "beta2": 0.99},
    )
    found = compare(torch, paddle, "eval")
    assert [finding.cause.code for finding in found] == ["beta2", "scheduler_argument", "dropout_rate"]
    step = SchedulerSpec("StepLR", "StepDecay", {})
    torch = Side(modules=(module("norm", "MyNorm", **{"attr.epsilon": 1e-12}),), scheduler=step, metric="loss")
    paddle = Side(modules=(module("norm", "Norm", **{"attr.epsilon": 1e-6}),), scheduler=step)
    matters, hint = compare(torch, paddle)
    assert (matters.cause.code, hint.cause.code) == ("norm_epsilon", "scheduler_metric")
    assert hint.cause.confidence > matters.cause.confidence


def test_group_rates_are_compared_as_proportions() -> None:
    torch = Side(groups=[(DECAYED, ADAMW), (SPARED, {**ADAMW, "lr": 1e-4})])
    same = Side(groups=[(DECAYED, {**ADAMW, "lr": 0.5}), (SPARED, {**ADAMW, "lr": 0.05})])
    other = Side(groups=[(DECAYED, ADAMW), (SPARED, {**ADAMW, "lr": 1e-7})])
    assert compare(torch, same) == []
    assert codes(compare(torch, other)) == ["hyperparameter/lr_multiplier"]


def test_the_rates_that_are_torchs_own_are_the_usual_ones_however_few_they_are() -> None:
    paddle = Side(effective={name: {"lr_multiplier": 0.1} for name in SPARED})
    (finding,) = compare(Side(), paddle)
    assert finding.cause.code == "lr_multiplier"
    assert "the rate of 3 parameters" in finding.cause.evidence and "0.1 times" in finding.cause.evidence


def test_rmsprops_epsilon_is_compared_by_its_square() -> None:
    values = {"lr": 0.01, "alpha": 0.99, "momentum": 0.0, "weight_decay": 0.0}
    torch = Side(optimizer="RMSprop", framework_class="RMSprop", values={**values, "eps": 1e-8})
    squared = Side(optimizer="RMSprop", framework_class="RMSProp", values={**values, "eps_inside_sqrt": 1e-16})
    copied = Side(optimizer="RMSprop", framework_class="RMSProp", values={**values, "eps_inside_sqrt": 1e-8})
    nothing = Side(optimizer="RMSprop", framework_class="RMSProp", values={**values, "eps_inside_sqrt": 1e-20})
    assert compare(torch, squared) == compare(torch, nothing) == []
    assert codes(compare(torch, copied)) == ["hyperparameter/optimizer_epsilon"]


def test_torchs_asgd_as_sgd_with_decay_is_only_a_hint() -> None:
    asgd = {"lr": 0.1, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6, "weight_decay": 0.0}
    torch = Side(optimizer="ASGD", framework_class="ASGD", values=asgd)
    assert (
        codes(compare(torch, Side(optimizer="SGD", framework_class="SGD", values={"lr": 0.1, "weight_decay": 1e-4})))
        == []
    )


def test_many_equal_findings_are_one() -> None:
    torch = Side(modules=tuple(module(f"layers.{i}.norm", "LayerNorm", eps=1e-12) for i in range(24)))
    paddle = Side(modules=tuple(module(f"layers.{i}.norm", "LayerNorm", eps=1e-5) for i in range(24)))
    (finding,) = compare(torch, paddle)
    assert finding.cause.code == "norm_epsilon"
    assert "24 modules" in finding.cause.evidence and "and 21 more" in finding.cause.evidence
    assert "epsilon=1e-12 in paddle.nn.LayerNorm(...)" in finding.cause.fix


@pytest.mark.parametrize(
    ("kind", "torch", "paddle", "code"),
    [
        ("BatchNorm2d", {"momentum": 0.1}, {"momentum": 0.9}, "buffer/batch_norm_momentum"),
        ("GroupNorm", {"eps": 1e-5}, {"eps": 1e-6}, "hyperparameter/norm_epsilon"),
        ("GELU", {"approximate": "none"}, {"approximate": "tanh"}, "forward/gelu_approximation"),
        ("LeakyReLU", {"negative_slope": 0.01}, {"negative_slope": 0.2}, "forward/negative_slope"),
        ("Conv2d", {"padding": (1, 1)}, {"padding": (0, 0)}, "forward/padding"),
        ("Conv2d", {"stride": (2, 2)}, {"stride": (1, 1)}, "forward/stride"),
        (
            "AvgPool2d",
            {"padding": 1, "count_include_pad": True},
            {"padding": 1, "count_include_pad": False},
            "forward/pool_padding",
        ),
        (
            "Upsample",
            {"mode": "bilinear", "align_corners": False},
            {"mode": "bilinear", "align_corners": True},
            "forward/align_corners",
        ),
        ("Embedding", {"padding_idx": None}, {"padding_idx": 0}, "forward/padding_idx"),
        ("MultiheadAttention", {"num_heads": 4}, {"num_heads": 8}, "forward/num_heads"),
        ("TransformerEncoderLayer", {"norm_first": True}, {"norm_first": False}, "forward/norm_first"),
        ("TransformerEncoderLayer", {"activation": "gelu"}, {"activation": "relu"}, "forward/activation_function"),
        ("Softmax", {"dim": 1}, {"dim": 2}, "forward/axis"),
        ("CrossEntropyLoss", {"label_smoothing": 0.1}, {"label_smoothing": 0.0}, "loss/label_smoothing"),
        ("MSELoss", {"reduction": "mean"}, {"reduction": "sum"}, "loss/reduction"),
        ("Dropout", {"p": 0.1}, {"p": 0.1, "paddle.mode": "downscale_in_infer"}, "forward/dropout_mode"),
        ("SmoothL1Loss", {"beta": 0.5}, {"beta": 0.5, "paddle.is_huber": True}, "loss/loss_argument"),
    ],
)
def test_a_module_argument_is_found_and_matters(
    kind: str, torch: dict[str, Any], paddle: dict[str, Any], code: str
) -> None:
    findings = compare(Side(modules=(module("m", kind, **torch),)), Side(modules=(module("m", kind, **paddle),)))
    assert codes(findings) == [code]


@pytest.mark.parametrize(
    ("kind", "torch", "paddle"),
    [
        ("Conv2d", {"kernel_size": 3, "padding": 1}, {"kernel_size": (3, 3), "padding": (1, 1)}),
        ("GELU", {"approximate": "none"}, {"approximate": False}),
        ("MaxPool2d", {"kernel_size": 2, "stride": None}, {"kernel_size": 2, "stride": 2}),
        ("AvgPool2d", {"padding": 0, "count_include_pad": True}, {"padding": 0, "count_include_pad": False}),
        ("Upsample", {"mode": "nearest", "align_corners": None}, {"mode": "nearest", "align_corners": True}),
        ("Embedding", {"padding_idx": None}, {"padding_idx": -1}),
        ("MultiheadAttention", {"batch_first": False}, {"batch_first": True}),
        ("LSTM", {"dropout": 0.5, "num_layers": 1}, {"dropout": 0.0, "num_layers": 1}),
        ("Dropout", {"p": 0.0}, {"p": 0.0, "paddle.mode": "downscale_in_infer"}),
        ("InstanceNorm2d", {"momentum": 0.1}, {"momentum": 0.9}),
        ("LayerNorm", {"eps": 1e-12}, {"eps": 9.999999960041972e-13}),
        ("Softmax", {"dim": -1}, {"dim": 1}),
        ("TransformerEncoderLayer", {"activation": "<function gelu>"}, {"activation": "gelu"}),
    ],
)
def test_values_equal_in_meaning_are_no_findings(kind: str, torch: dict[str, Any], paddle: dict[str, Any]) -> None:
    assert (
        compare(Side(modules=(module("m", kind, **torch),)), Side(modules=(module("m", kind, **paddle),)), "train")
        == []
    )


def test_another_activation_at_the_same_path_is_found() -> None:
    findings = compare(
        Side(modules=(module("act", "ReLU"),)), Side(modules=(module("act", "GELU", approximate="none"),))
    )
    assert codes(findings) == ["forward/activation_function"]


@pytest.mark.parametrize(
    ("torch", "paddle"),
    [
        (module("b", "BertLayer"), module("b", "TransformerEncoderLayer", norm_first=False)),
        (module("b", "ReLU6"), module("b", "Hardtanh", min_val=0.0, max_val=6.0)),
        (module("b", "BatchNorm1d", eps=1e-5), module("b", "SyncBatchNorm", eps=1e-5)),
        (module("b", "Dropout", p=0.0), module("b", "Identity")),
        (module("b", "Identity"), module("b", "MyNorm")),
        (module("b", "ELU", alpha=1.0), module("b", "CELU", alpha=1.0)),
    ],
)
def test_types_that_may_do_the_same_are_no_findings(torch: Any, paddle: Any) -> None:
    assert compare(Side(modules=(torch,)), Side(modules=(paddle,)), "train") == []


ACTIVE = (
    module("drop", "Dropout", training=True, p=0.1),
    module("attention", "MultiheadAttention", training=True, dropout=0.1),
    module("rnn", "LSTM", training=True, dropout=0.1, num_layers=2),
)


@pytest.mark.parametrize("active", ACTIVE)
def test_masks_of_their_own_in_training_are_a_finding(active: ModuleSpec) -> None:
    found = compare(Side(modules=(active,)), Side(modules=(active,)), "train")
    assert codes(found) == ["randomness/dropout_masks"]
    assert 'mode = "eval"' in found[0].cause.fix and 'dropout = "shared"' in found[0].cause.fix
    assert (found[0].kind, found[0].torch_name) == ("activation", active.path)


@pytest.mark.parametrize(
    "quiet",
    [
        module("drop", "Dropout", training=True, p=0.0),
        module("drop", "Dropout", training=False, p=0.1),
        module("rnn", "LSTM", training=True, dropout=0.1, num_layers=1),
        module("encoder", "TransformerEncoderLayer", training=True, norm_first=False),
    ],
)
def test_dropout_that_drops_nothing_is_no_finding(quiet: ModuleSpec) -> None:
    assert compare(Side(modules=(quiet,)), Side(modules=(quiet,)), "train") == []


def test_shared_masks_and_masks_of_one_side_alone_are_no_finding() -> None:
    both = Side(modules=ACTIVE), Side(modules=ACTIVE)
    assert compare(*both, "train", dropout="shared") == []
    assert compare(*both, "eval") == []
    assert "randomness/dropout_masks" not in codes(compare(both[0], Side(), "train"))


def test_dropout_rates_matter_in_training_only() -> None:
    torch = Side(modules=(module("drop", "Dropout", training=True, p=0.1),))
    paddle = Side(modules=(module("drop", "Dropout", training=True, p=0.5),))
    assert codes(compare(torch, paddle, "train")) == ["randomness/dropout_masks", "randomness/dropout_rate"]
    assert compare(torch, paddle, "train")[0].cause.code == "dropout_rate"
    assert codes(compare(torch, paddle, "eval")) == []
    assert codes(compare(torch, paddle, "eval"), matters=False) == ["randomness/dropout_rate"]


def test_a_module_that_one_side_alone_has_is_at_most_a_hint() -> None:
    torch = Side(modules=(module("drop", "Dropout", training=True, p=0.1), module("act", "ReLU")))
    assert codes(compare(torch, Side(), "train")) == []
    assert codes(compare(torch, Side(), "train"), matters=False) == ["randomness/dropout_missing"]
    assert compare(torch, Side(), "eval") == []


def test_an_epsilon_of_a_users_own_module_matters_and_other_attributes_do_not() -> None:
    torch = Side(modules=(module("norm", "MyNorm", **{"attr.variance_epsilon": 1e-12, "attr.size": 4}),))
    paddle = Side(modules=(module("norm", "Norm", **{"attr.epsilon": 1e-6, "attr.size": 8}),))
    findings = compare(torch, paddle)
    assert codes(findings) == ["hyperparameter/norm_epsilon"]
    assert codes(findings, matters=False) == ["forward/module_attribute"]


def test_a_batch_norm_in_another_mode_is_found() -> None:
    torch = Side(modules=(module("bn", "BatchNorm2d", training=False),))
    assert codes(compare(torch, Side(modules=(module("bn", "BatchNorm2d", training=True),)))) == [
        "forward/training_mode"
    ]


def test_schedules_of_one_rule_are_compared_by_their_arguments() -> None:
    def side(**arguments: Any) -> Side:
        return Side(scheduler=SchedulerSpec("StepLR", "StepDecay", arguments))

    assert compare(side(step_size=30, gamma=0.1), side(step_size=30)) == []
    assert compare(side(step_size=30, gamma=0.2), side(step_size=30, gamma=None)) == []
    assert compare(side(step_size=30, gamma=None), side(step_size=30, gamma=0.2)) == []
    assert codes(compare(side(step_size=3000, gamma=0.1), side(step_size=4000, gamma=0.1))) == [
        "schedule/scheduler_argument"
    ]


def test_a_last_rate_that_follows_from_another_peak_is_left_to_the_numbers() -> None:
    def side(peak: float, last: float) -> Side:
        return Side(scheduler=SchedulerSpec("OneCycleLR", "OneCycleLR", {"max_lr": peak, "min_lr": last}))

    assert compare(side(0.1, 4e-7), side(0.2, 8e-7)) == []
    (finding,) = compare(side(0.1, 4e-7), side(0.1, 1e-4))
    assert "min_lr" in finding.cause.evidence


def test_other_schedule_classes_are_left_to_the_numbers() -> None:
    torch = Side(scheduler=SchedulerSpec("CosineAnnealingLR", "CosineAnnealingLR", {"T_max": 10}))
    assert compare(torch, Side(scheduler=SchedulerSpec("LambdaLR", "LambdaDecay", {}))) == []
    assert codes(compare(torch, Side())) == []
    assert codes(compare(torch, Side()), matters=False) == ["schedule/scheduler_missing"]
    step = Side(scheduler=SchedulerSpec("StepLR", "StepDecay", {"gamma": 0.1}))
    assert compare(step, Side(scheduler=SchedulerSpec("ExponentialLR", "ExponentialDecay", {"gamma": 0.9}))) == []


def test_cycled_momentum_and_an_unwatched_plateau_are_found() -> None:
    cycle = Side(scheduler=SchedulerSpec("OneCycleLR", "OneCycleLR", {"cycle_momentum": True}))
    assert codes(compare(cycle, Side(scheduler=SchedulerSpec("OneCycleLR", "OneCycleLR", {})))) == [
        "schedule/momentum_cycling"
    ]
    still = Side(scheduler=SchedulerSpec("OneCycleLR", "OneCycleLR", {"cycle_momentum": False}))
    assert compare(still, Side(scheduler=SchedulerSpec("OneCycleLR", "OneCycleLR", {}))) == []
    step = SchedulerSpec("StepLR", "StepDecay", {})
    watched = compare(Side(scheduler=step, metric="loss"), Side(scheduler=step))
    assert codes(watched) == [] and codes(watched, matters=False) == ["schedule/scheduler_metric"]
    plateau = SchedulerSpec("ReduceLROnPlateau", "ReduceOnPlateau", {})
    assert codes(compare(Side(scheduler=plateau, metric="loss"), Side(scheduler=plateau))) == [
        "schedule/scheduler_metric"
    ]


def test_clipping_that_paddle_alone_declares_is_found_and_what_torch_may_do_is_a_hint() -> None:
    clip = {"type": "global_norm", "clip_norm": 1.0, "scope": "all"}
    assert compare(Side(after_backward=True), Side(clip=clip)) == []
    assert codes(compare(Side(after_backward=True), Side()), matters=False) == ["gradient_clipping/not_clipped"]
    assert codes(compare(Side(), Side(clip=clip))) == ["gradient_clipping/only_paddle_clips"]
    hint = compare(Side(), Side(after_backward=True))
    assert codes(hint) == [] and codes(hint, matters=False) == ["gradient_clipping/only_paddle_clips"]
    grouped = compare(Side(after_backward=True), Side(clip={**clip, "scope": "group"}))
    assert codes(grouped, matters=False) == ["gradient_clipping/norm_per_group"]


def test_what_a_loop_of_its_own_may_do_after_backward_is_no_hint() -> None:
    clip = {"type": "global_norm", "clip_norm": 1.0, "scope": "all"}
    assert compare(Side(after_backward=True), Side(), undeclared=("torch",)) == []
    assert compare(Side(), Side(after_backward=True), undeclared=("paddle",)) == []
    assert codes(compare(Side(), Side(after_backward=True), undeclared=("torch",)), matters=False) != []
    assert codes(compare(Side(after_backward=True), Side(), undeclared=("paddle",)), matters=False) != []
    assert codes(compare(Side(), Side(clip=clip), undeclared=("paddle",))) == ["gradient_clipping/only_paddle_clips"]


def test_a_parameter_that_moves_on_neither_side_is_a_hint() -> None:
    torch = Side(frozen=("fc.bias",))
    paddle = Side(groups=[(("fc.weight", *SPARED[1:]), ADAMW)])
    findings = compare(torch, paddle)
    assert codes(findings) == []
    assert codes(findings, matters=False) == ["frozen_parameter/not_frozen"]


def test_a_fused_projection_is_compared_with_each_of_its_parts() -> None:
    torch, paddle = (
        Side(names=("attn.in_proj_weight",)),
        Side(names=("attn.q.weight", "attn.k.weight", "attn.v.weight")),
    )
    paddle.effective = {"attn.k.weight": {"weight_decay": 0.0}}
    pairs = [("attn.in_proj_weight", name) for name in paddle.names]
    findings = compare_declarations(torch.build(), paddle.build(), pairs, [], "eval")
    assert codes(findings) == ["weight_decay/decay_missing"]
    assert findings[0].paddle_name == "attn.k.weight"


@pytest.mark.parametrize(
    ("ours", "theirs", "held", "matters"),
    [(None, 0, [0, 3], True), (None, 0, [1, 3], False), (2, 0, [2, 3], True), (2, 0, [3, 4], False), (1, None, [1], True)],
)
@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_a_padding_index_matters_where_a_batch_holds_it(
    ours: int | None, theirs: int | None, held: list[int], matters: bool, dtype: str
) -> None:
    sides = [Side(modules=(module("m", "Embedding", padding_idx=index),)) for index in (ours, theirs)]
    findings = compare(*sides)
    batches = [{"ids": np.array([7], dtype), "values": np.array([float(ours or 0)])}, {"ids": np.array(held, dtype)}]
    assert [finding.matters for finding in settle_by_data(findings, batches)] == [matters]


def test_other_findings_and_hints_stay_as_they_are_whatever_the_batches_hold() -> None:
    other = compare(Side(), Side(values={**ADAMW, "beta2": 0.99}))
    (padding,) = compare(*(Side(modules=(module("m", "Embedding", padding_idx=index),)) for index in (None, 0)))
    hint = replace(padding, matters=False)
    batches = [{"ids": np.array([0])}]
    assert settle_by_data([*other, hint, padding], batches) == [*other, hint, padding]
    unknown = replace(padding, torch_value=None, paddle_value="")
    assert settle_by_data([unknown], [{"ids": np.array([5])}]) == [unknown]


def test_a_weight_that_one_side_ties_is_named_with_all_that_it_is_on_the_other() -> None:
    def tensor(name: str, aliases: tuple[str, ...] = ()) -> TensorSpec:
        return TensorSpec(name, "parameter", (5, 4), "float32", True, name.rpartition(".")[0], "", "weight", aliases=aliases)

    tied, apart = [tensor("embed.weight", ("head.weight",))], [tensor("embed.weight"), tensor("head.weight")]
    (finding,) = find_untied(match_names(tied, apart, WeightsSection()))
    assert "embed.weight of torch is embed.weight, head.weight of paddle" in finding.cause.evidence
    (finding,) = find_untied(match_names(apart, tied, WeightsSection()))
    assert "embed.weight, head.weight of torch is embed.weight of paddle" in finding.cause.evidence
    three = [tensor(f"{name}.weight") for name in ("embed", "head", "other")]
    (finding,) = find_untied(match_names(three, [tensor("embed.weight", ("head.weight", "other.weight"))], WeightsSection()))
    assert "embed.weight, head.weight, other.weight of torch is embed.weight of paddle" in finding.cause.evidence
    assert find_untied(match_names(apart, apart, WeightsSection())) == []
