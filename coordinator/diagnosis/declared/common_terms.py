"""The hyper-parameters that both frameworks share: which cause a difference is, and where it shows.

The tables hold only what is known to change numbers. What paddle calls an argument, and both defaults, stand in the
atlas (`counterparts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepalign.coordinator.diagnosis.cause import Category
from stepalign.protocol.specs import Scalar

FLOAT32_ROUNDING = 1e-6
"""Relative difference below which two declared numbers are the same: paddle keeps float attributes as float32."""


def words(text: str) -> frozenset[str]:
    """Return the set of the words of ``text``."""
    return frozenset(text.split())


@dataclass(frozen=True)
class Term:
    """One hyper-parameter: its cause and the kind that shows it first.

    ``absent`` is what a module that does not declare it does; None where that is unknown. ``atol`` is the absolute
    rounding of the declared value (batch norm's momentum is declared as one minus a float32). What paddle calls it and
    what its default is, the atlas says.
    """

    category: Category
    code: str
    kind: str
    absent: Scalar = None
    atol: float = 0.0


OPTIMIZER_TERMS: Mapping[str, Term] = {
    "beta1": Term(Category.HYPERPARAMETER, "beta1", "optimizer_state"),
    "beta2": Term(Category.HYPERPARAMETER, "beta2", "optimizer_state"),
    "eps": Term(Category.HYPERPARAMETER, "optimizer_epsilon", "parameter"),
    "momentum": Term(Category.HYPERPARAMETER, "momentum", "optimizer_state", 0.0),
    "dampening": Term(Category.HYPERPARAMETER, "dampening", "optimizer_state", 0.0),
    "nesterov": Term(Category.OPTIMIZER, "nesterov_missing", "parameter", False),
    "amsgrad": Term(Category.HYPERPARAMETER, "amsgrad", "optimizer_state", False),
    "maximize": Term(Category.OPTIMIZER, "maximize", "parameter", False),
    "alpha": Term(Category.HYPERPARAMETER, "smoothing_constant", "optimizer_state"),
    "rho": Term(Category.HYPERPARAMETER, "smoothing_constant", "optimizer_state"),
    "centered": Term(Category.HYPERPARAMETER, "centered", "optimizer_state", False),
    "lr_decay": Term(Category.HYPERPARAMETER, "lr_decay", "parameter", 0.0),
    "initial_accumulator_value": Term(Category.HYPERPARAMETER, "initial_accumulator", "optimizer_state", 0.0),
    "momentum_decay": Term(Category.HYPERPARAMETER, "momentum_decay", "parameter"),
    "etas": Term(Category.HYPERPARAMETER, "step_factors", "parameter"),
    "step_sizes": Term(Category.HYPERPARAMETER, "step_limits", "parameter"),
    "lambd": Term(Category.HYPERPARAMETER, "lambd", "parameter"),
}
"""By torch's name, ``betas`` split in two. ``weight_decay`` and ``lr`` have rules of their own."""

_EPS = Term(Category.HYPERPARAMETER, "norm_epsilon", "activation")
_FORWARD = "activation"

MODULE_TERMS: Mapping[str, Term] = {
    "eps": _EPS,
    "momentum": Term(Category.BUFFER, "batch_norm_momentum", "buffer", None, 2e-7),
    "track_running_stats": Term(Category.BUFFER, "track_running_stats", _FORWARD),
    "p": Term(Category.RANDOMNESS, "dropout_rate", _FORWARD, 0.0),
    "dropout": Term(Category.RANDOMNESS, "dropout_rate", _FORWARD, 0.0),
    "attn_dropout": Term(Category.RANDOMNESS, "dropout_rate", _FORWARD),
    "act_dropout": Term(Category.RANDOMNESS, "dropout_rate", _FORWARD),
    "approximate": Term(Category.FORWARD, "gelu_approximation", _FORWARD, "none"),
    "negative_slope": Term(Category.FORWARD, "negative_slope", _FORWARD),
    "alpha": Term(Category.FORWARD, "activation_constant", _FORWARD),
    "beta": Term(Category.FORWARD, "activation_constant", _FORWARD),
    "threshold": Term(Category.FORWARD, "activation_constant", _FORWARD),
    "lambd": Term(Category.FORWARD, "activation_constant", _FORWARD),
    "min_val": Term(Category.FORWARD, "activation_constant", _FORWARD),
    "max_val": Term(Category.FORWARD, "activation_constant", _FORWARD),
    "kernel_size": Term(Category.FORWARD, "kernel_size", _FORWARD),
    "stride": Term(Category.FORWARD, "stride", _FORWARD),
    "padding": Term(Category.FORWARD, "padding", _FORWARD, 0),
    "padding_mode": Term(Category.FORWARD, "padding_mode", _FORWARD, "zeros"),
    "output_padding": Term(Category.FORWARD, "output_padding", _FORWARD, 0),
    "dilation": Term(Category.FORWARD, "dilation", _FORWARD, 1),
    "groups": Term(Category.FORWARD, "groups", _FORWARD, 1),
    "num_groups": Term(Category.FORWARD, "groups", _FORWARD),
    "ceil_mode": Term(Category.FORWARD, "ceil_mode", _FORWARD, False),
    "count_include_pad": Term(Category.FORWARD, "pool_padding", _FORWARD, True),
    "divisor_override": Term(Category.FORWARD, "pool_divisor", _FORWARD),
    "output_size": Term(Category.FORWARD, "output_size", _FORWARD),
    "align_corners": Term(Category.FORWARD, "align_corners", _FORWARD, False),
    "mode": Term(Category.FORWARD, "mode", _FORWARD),
    "scale_factor": Term(Category.FORWARD, "scale_factor", _FORWARD),
    "padding_idx": Term(Category.FORWARD, "padding_idx", _FORWARD),
    "max_norm": Term(Category.FORWARD, "max_norm", _FORWARD),
    "scale_grad_by_freq": Term(Category.BACKWARD, "scale_grad_by_freq", "gradient", False),
    "dim": Term(Category.FORWARD, "axis", _FORWARD),
    "num_heads": Term(Category.FORWARD, "num_heads", _FORWARD),
    "norm_first": Term(Category.FORWARD, "norm_first", _FORWARD, False),
    "activation": Term(Category.FORWARD, "activation_function", _FORWARD),
    "nonlinearity": Term(Category.FORWARD, "activation_function", _FORWARD),
    "num_layers": Term(Category.FORWARD, "num_layers", _FORWARD),
    "bidirectional": Term(Category.FORWARD, "bidirectional", _FORWARD, False),
    "upscale_factor": Term(Category.FORWARD, "scale_factor", _FORWARD),
    "reduction": Term(Category.LOSS, "reduction", _FORWARD, "mean"),
    "delta": Term(Category.LOSS, "loss_argument", _FORWARD),
    "weighted": Term(Category.LOSS, "class_weights", _FORWARD, False),
    "value": Term(Category.FORWARD, "padding_value", _FORWARD),
    "lower": Term(Category.FORWARD, "activation_constant", _FORWARD),
    "upper": Term(Category.FORWARD, "activation_constant", _FORWARD),
    "norm_type": Term(Category.FORWARD, "norm_type", _FORWARD),
    "label_smoothing": Term(Category.LOSS, "label_smoothing", _FORWARD, 0.0),
    "ignore_index": Term(Category.LOSS, "ignore_index", _FORWARD, -100),
    "size": Term(Category.FORWARD, "output_size", _FORWARD),
}
"""By torch's name. Dropout rates matter in training only; `preflight_modules` knows the other conditions."""


PADDLE_TERMS: Mapping[str, Term] = {
    "paddle.mode": Term(Category.FORWARD, "dropout_mode", _FORWARD),
    "paddle.use_global_stats": MODULE_TERMS["track_running_stats"],
    "paddle.trainable_statistics": MODULE_TERMS["track_running_stats"],
    "paddle.soft_label": Term(Category.LOSS, "loss_argument", _FORWARD),
    "paddle.use_softmax": Term(Category.LOSS, "loss_argument", _FORWARD),
    "paddle.is_huber": Term(Category.LOSS, "loss_argument", _FORWARD),
    "paddle.align_mode": MODULE_TERMS["align_corners"],
    "paddle.scale": MODULE_TERMS["alpha"],
    "paddle.alpha": MODULE_TERMS["alpha"],
}
"""Arguments that only paddle has, declared where they change numbers."""

SILENT_MODULE_KEYS = words(
    "inplace batch_first bias in_features out_features in_channels out_channels num_features normalized_shape "
    "num_embeddings embedding_dim embed_dim kdim vdim affine elementwise_affine input_size hidden_size proj_size "
    "return_indices device dtype sparse d_model nhead dim_feedforward add_bias_kv add_zero_attn data_format "
    "num_parameters num_channels recompute_scale_factor"
)
"""What shows in shapes, in names or not at all."""

SCHEDULER_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "StepLR": ("step_size", "gamma"),
    "MultiStepLR": ("milestones", "gamma"),
    "ExponentialLR": ("gamma",),
    "ConstantLR": ("factor", "total_iters"),
    "LinearLR": ("start_factor", "end_factor", "total_iters"),
    "PolynomialLR": ("total_iters", "power", "paddle.end_lr", "paddle.cycle"),
    "CosineAnnealingLR": ("T_max", "eta_min"),
    "CosineAnnealingWarmRestarts": ("T_0", "T_mult", "eta_min"),
    "OneCycleLR": ("total_steps", "pct_start", "anneal_strategy", "three_phase", "min_lr"),
    "CyclicLR": ("max_lr", "step_size_up", "step_size_down", "mode"),
    "ReduceLROnPlateau": ("mode", "factor", "patience", "threshold", "threshold_mode", "cooldown"),
}
"""Arguments of a schedule that mean the same on both sides once declared; one that is not declared is at its default."""


def same_value(torch: Scalar, paddle: Scalar, atol: float = 0.0) -> bool:
    """Return whether two declared values mean the same: ``3`` and ``(3, 3)``, 1e-5 and its float32, ``False`` and 0."""
    torch, paddle = plain(torch), plain(paddle)
    if isinstance(torch, tuple) and isinstance(paddle, tuple):
        return len(torch) == len(paddle) and all(same_value(a, b, atol) for a, b in zip(torch, paddle, strict=True))
    if isinstance(torch, (int, float)) and isinstance(paddle, (int, float)):
        if torch == paddle:
            return True
        allowed = atol + FLOAT32_ROUNDING * max(abs(torch), abs(paddle))
        return abs(torch - paddle) <= allowed
    return torch == paddle


def plain(value: Scalar) -> Scalar:
    """Return a tuple of equal entries as one entry, and a string in lower case."""
    if isinstance(value, (tuple, list)):
        entries = tuple(value)
        if entries and all(entry == entries[0] for entry in entries):
            return entries[0]
        return entries
    if isinstance(value, str):
        return value.strip().lower()
    return value


def flat(hyperparameters: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return an optimizer's hyper-parameters with ``betas`` as ``beta1`` and ``beta2``."""
    result = dict(hyperparameters)
    betas = result.pop("betas", None)
    if isinstance(betas, (tuple, list)):
        for position, beta in enumerate(betas):
            result[f"beta{position + 1}"] = beta
    return result


def as_float(value: Scalar, default: float = 0.0) -> float:
    """Return a number, or ``default`` for what is not one."""
    return float(value) if isinstance(value, (int, float)) else default
