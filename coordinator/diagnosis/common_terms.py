"""The hyper-parameters that both frameworks share: which cause a difference is, where it shows, what paddle calls it.

The tables hold only what is known to change numbers. Sources: the measured sections B, C and D on optimizers,
regularisation and layers, and the argument names of paddle 3.3.1.
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
    """One hyper-parameter: its cause, the kind that shows it first, torch's default, and how paddle writes it.

    ``paddle`` is a template: ``{torch}`` is torch's value. ``atol`` is the absolute rounding of the declared value
    (batch norm's momentum is declared as one minus a float32).
    """

    category: Category
    code: str
    kind: str
    paddle: str
    default: Scalar = None
    atol: float = 0.0


OPTIMIZER_TERMS: Mapping[str, Term] = {
    "beta1": Term(Category.HYPERPARAMETER, "beta1", "optimizer_state", "beta1={torch}"),
    "beta2": Term(Category.HYPERPARAMETER, "beta2", "optimizer_state", "beta2={torch}"),
    "eps": Term(Category.HYPERPARAMETER, "optimizer_epsilon", "parameter", "epsilon={torch}"),
    "momentum": Term(Category.HYPERPARAMETER, "momentum", "optimizer_state", "momentum={torch}", 0.0),
    "dampening": Term(Category.HYPERPARAMETER, "dampening", "optimizer_state", "no dampening (paddle has none)", 0.0),
    "nesterov": Term(Category.OPTIMIZER, "nesterov_missing", "parameter", "use_nesterov={torch}", False),
    "amsgrad": Term(Category.HYPERPARAMETER, "amsgrad", "optimizer_state", "amsgrad={torch}", False),
    "maximize": Term(
        Category.OPTIMIZER, "maximize", "parameter", "a loss of the other sign (paddle has no maximize)", False
    ),
    "alpha": Term(Category.HYPERPARAMETER, "smoothing_constant", "optimizer_state", "rho={torch}"),
    "rho": Term(Category.HYPERPARAMETER, "smoothing_constant", "optimizer_state", "rho={torch}"),
    "centered": Term(Category.HYPERPARAMETER, "centered", "optimizer_state", "centered={torch}", False),
    "lr_decay": Term(
        Category.HYPERPARAMETER, "lr_decay", "parameter", "learning_rate=InverseTimeDecay(lr, gamma={torch})", 0.0
    ),
    "initial_accumulator_value": Term(
        Category.HYPERPARAMETER, "initial_accumulator", "optimizer_state", "initial_accumulator_value={torch}", 0.0
    ),
    "momentum_decay": Term(Category.HYPERPARAMETER, "momentum_decay", "parameter", "momentum_decay={torch}"),
    "etas": Term(Category.HYPERPARAMETER, "step_factors", "parameter", "etas={torch}"),
    "step_sizes": Term(Category.HYPERPARAMETER, "step_limits", "parameter", "learning_rate_range={torch}"),
    "lambd": Term(
        Category.HYPERPARAMETER, "lambd", "parameter", "weight_decay={torch} in SGD (paddle's ASGD is another rule)"
    ),
}
"""By torch's name, ``betas`` split in two. ``weight_decay`` and ``lr`` have rules of their own."""

_EPS = Term(Category.HYPERPARAMETER, "norm_epsilon", "activation", "epsilon={torch}")
_FORWARD = "activation"

MODULE_TERMS: Mapping[str, Term] = {
    "eps": _EPS,
    "momentum": Term(Category.BUFFER, "batch_norm_momentum", "buffer", "momentum={inverse}", None, 2e-7),
    "track_running_stats": Term(Category.BUFFER, "track_running_stats", _FORWARD, "use_global_stats=..."),
    "p": Term(Category.RANDOMNESS, "dropout_rate", _FORWARD, "p={torch}", 0.0),
    "dropout": Term(Category.RANDOMNESS, "dropout_rate", _FORWARD, "dropout={torch}", 0.0),
    "attn_dropout": Term(Category.RANDOMNESS, "dropout_rate", _FORWARD, "attn_dropout={torch}"),
    "act_dropout": Term(Category.RANDOMNESS, "dropout_rate", _FORWARD, "act_dropout={torch}"),
    "approximate": Term(Category.FORWARD, "gelu_approximation", _FORWARD, "approximate={torch}", "none"),
    "negative_slope": Term(Category.FORWARD, "negative_slope", _FORWARD, "negative_slope={torch}"),
    "alpha": Term(Category.FORWARD, "activation_constant", _FORWARD, "alpha={torch}"),
    "beta": Term(Category.FORWARD, "activation_constant", _FORWARD, "beta={torch}"),
    "threshold": Term(Category.FORWARD, "activation_constant", _FORWARD, "threshold={torch}"),
    "lambd": Term(Category.FORWARD, "activation_constant", _FORWARD, "threshold={torch}"),
    "min_val": Term(Category.FORWARD, "activation_constant", _FORWARD, "min={torch}"),
    "max_val": Term(Category.FORWARD, "activation_constant", _FORWARD, "max={torch}"),
    "kernel_size": Term(Category.FORWARD, "kernel_size", _FORWARD, "kernel_size={torch}"),
    "stride": Term(Category.FORWARD, "stride", _FORWARD, "stride={torch}"),
    "padding": Term(Category.FORWARD, "padding", _FORWARD, "padding={torch}", 0),
    "padding_mode": Term(Category.FORWARD, "padding_mode", _FORWARD, "padding_mode='{torch}'", "zeros"),
    "output_padding": Term(Category.FORWARD, "output_padding", _FORWARD, "output_padding={torch}", 0),
    "dilation": Term(Category.FORWARD, "dilation", _FORWARD, "dilation={torch}", 1),
    "groups": Term(Category.FORWARD, "groups", _FORWARD, "groups={torch}", 1),
    "num_groups": Term(Category.FORWARD, "groups", _FORWARD, "num_groups={torch}"),
    "ceil_mode": Term(Category.FORWARD, "ceil_mode", _FORWARD, "ceil_mode={torch}", False),
    "count_include_pad": Term(Category.FORWARD, "pool_padding", _FORWARD, "exclusive={not_torch}", True),
    "divisor_override": Term(Category.FORWARD, "pool_divisor", _FORWARD, "divisor_override={torch}"),
    "output_size": Term(Category.FORWARD, "output_size", _FORWARD, "output_size={torch}"),
    "align_corners": Term(Category.FORWARD, "align_corners", _FORWARD, "align_corners={torch}", False),
    "mode": Term(Category.FORWARD, "mode", _FORWARD, "mode='{torch}'"),
    "scale_factor": Term(Category.FORWARD, "scale_factor", _FORWARD, "scale_factor={torch}"),
    "padding_idx": Term(Category.FORWARD, "padding_idx", _FORWARD, "padding_idx={torch}"),
    "max_norm": Term(Category.FORWARD, "max_norm", _FORWARD, "max_norm={torch}"),
    "scale_grad_by_freq": Term(
        Category.BACKWARD, "scale_grad_by_freq", "gradient", "scale_grad_by_freq={torch}", False
    ),
    "dim": Term(Category.FORWARD, "axis", _FORWARD, "axis={torch}"),
    "num_heads": Term(Category.FORWARD, "num_heads", _FORWARD, "num_heads={torch}"),
    "norm_first": Term(Category.FORWARD, "norm_first", _FORWARD, "normalize_before={torch}", False),
    "activation": Term(Category.FORWARD, "activation_function", _FORWARD, "activation='{torch}'"),
    "nonlinearity": Term(Category.FORWARD, "activation_function", _FORWARD, "activation='{torch}'"),
    "num_layers": Term(Category.FORWARD, "num_layers", _FORWARD, "num_layers={torch}"),
    "bidirectional": Term(
        Category.FORWARD, "bidirectional", _FORWARD, "direction='bidirect' for bidirectional={torch}", False
    ),
    "upscale_factor": Term(Category.FORWARD, "scale_factor", _FORWARD, "upscale_factor={torch}"),
    "reduction": Term(Category.LOSS, "reduction", _FORWARD, "reduction='{torch}'", "mean"),
    "delta": Term(Category.LOSS, "loss_argument", _FORWARD, "delta={torch}"),
    "weighted": Term(Category.LOSS, "class_weights", _FORWARD, "weight=... for weighted={torch}", False),
    "value": Term(Category.FORWARD, "padding_value", _FORWARD, "value={torch}"),
    "lower": Term(Category.FORWARD, "activation_constant", _FORWARD, "lower={torch}"),
    "upper": Term(Category.FORWARD, "activation_constant", _FORWARD, "upper={torch}"),
    "norm_type": Term(Category.FORWARD, "norm_type", _FORWARD, "norm_type={torch}"),
    "label_smoothing": Term(Category.LOSS, "label_smoothing", _FORWARD, "label_smoothing={torch}", 0.0),
    "ignore_index": Term(Category.LOSS, "ignore_index", _FORWARD, "ignore_index={torch}", -100),
    "size": Term(Category.FORWARD, "output_size", _FORWARD, "size={torch}"),
}
"""By torch's name. Dropout rates matter in training only; `preflight_modules` knows the other conditions."""

_DROPOUT_MODE = Term(Category.FORWARD, "dropout_mode", _FORWARD, "mode='upscale_in_train'")
_LOSS_ARGUMENT = Term(Category.LOSS, "loss_argument", _FORWARD, "torch's meaning")

PADDLE_TERMS: Mapping[str, tuple[Term, str]] = {
    "paddle.mode": (_DROPOUT_MODE, "mode='upscale_in_train'"),
    "paddle.use_global_stats": (MODULE_TERMS["track_running_stats"], "use_global_stats=None"),
    "paddle.trainable_statistics": (MODULE_TERMS["track_running_stats"], "trainable_statistics=False"),
    "paddle.soft_label": (_LOSS_ARGUMENT, "soft_label=False"),
    "paddle.use_softmax": (_LOSS_ARGUMENT, "use_softmax=True"),
    "paddle.is_huber": (_LOSS_ARGUMENT, "is_huber=False for SmoothL1Loss, True for HuberLoss"),
    "paddle.align_mode": (MODULE_TERMS["align_corners"], "align_mode=0"),
    "paddle.scale": (MODULE_TERMS["alpha"], "scale=1.0507009873554805"),
    "paddle.alpha": (MODULE_TERMS["alpha"], "alpha=1.6732632423543772"),
}
"""Arguments that only paddle has, declared where they change numbers, with the value that makes them vanish."""

SILENT_MODULE_KEYS = words(
    "inplace batch_first bias in_features out_features in_channels out_channels num_features normalized_shape "
    "num_embeddings embedding_dim embed_dim kdim vdim affine elementwise_affine input_size hidden_size proj_size "
    "return_indices device dtype sparse d_model nhead dim_feedforward add_bias_kv add_zero_attn data_format "
    "num_parameters num_channels recompute_scale_factor"
)
"""What shows in shapes, in names or not at all."""

SCHEDULER_ARGUMENTS: Mapping[str, Mapping[str, Scalar]] = {
    "StepLR": {"step_size": None, "gamma": 0.1},
    "MultiStepLR": {"milestones": None, "gamma": 0.1},
    "ExponentialLR": {"gamma": None},
    "ConstantLR": {"factor": None, "total_iters": None},
    "LinearLR": {"start_factor": None, "end_factor": None, "total_iters": None},
    "PolynomialLR": {"total_iters": None, "power": None, "paddle.end_lr": 0.0, "paddle.cycle": False},
    "CosineAnnealingLR": {"T_max": None, "eta_min": 0.0},
    "CosineAnnealingWarmRestarts": {"T_0": None, "T_mult": 1, "eta_min": 0.0},
    "OneCycleLR": {
        "total_steps": None,
        "pct_start": None,
        "anneal_strategy": None,
        "three_phase": None,
        "min_lr": None,
    },
    "CyclicLR": {"max_lr": None, "step_size_up": None, "step_size_down": None, "mode": None},
    "ReduceLROnPlateau": {
        "mode": None,
        "factor": None,
        "patience": None,
        "threshold": None,
        "threshold_mode": None,
        "cooldown": None,
    },
}
"""Arguments that mean the same on both sides, with what an absent one stands for (None: unknown, not compared)."""


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


def paddle_argument(term: Term, torch: Scalar) -> str:
    """Return how paddle's constructor writes torch's value, as in ``epsilon=1e-12``."""
    inverse = f"{1.0 - as_float(torch):.6g}" if isinstance(torch, (int, float)) else "1 - torch's momentum"
    shown: object = f"{torch:.7g}" if isinstance(torch, float) else torch
    return term.paddle.format(torch=shown, inverse=inverse, not_torch=not torch)
