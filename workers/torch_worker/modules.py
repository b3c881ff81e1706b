"""A torch model's modules: their common types, and the arguments that change numbers, in torch's terms.

Equal meaning reads equal on both sides: sizes of n-dimensional layers are tuples of n, a pool's stride is its kernel
where none was given, ``count_include_pad`` is None where nothing is padded. An argument that only one framework has is
reported where it is not at the value that makes it vanish, under ``torch.`` or ``paddle.``. Of user-defined modules
the plain scalar attributes are reported as ``attr.<name>``: a hint, not a rule.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, Optional, Tuple

import torch

from stepalign.protocol.specs import ModuleSpec, Scalar

_FRAMEWORK_MODULES = ("torch.nn.", "torch.ao.nn.")
_RENAMED = {
    "NonDynamicallyQuantizableLinear": "Linear",
    "UpsamplingBilinear2d": "Upsample",
    "UpsamplingNearest2d": "Upsample",
}
_POOL = "kernel_size stride padding ceil_mode"
_CONV = "kernel_size stride padding dilation groups padding_mode"
_FIELDS = {
    "AdaptiveAvgPool": "output_size",
    "AdaptiveLogSoftmaxWithLoss": "n_classes cutoffs div_value",
    "AdaptiveMaxPool": "output_size",
    "AlphaDropout": "p",
    "AvgPool": f"{_POOL} count_include_pad divisor_override",
    "BCELoss": "reduction",
    "BCEWithLogitsLoss": "reduction",
    "BatchNorm": "eps momentum track_running_stats",
    "CELU": "alpha",
    "CTCLoss": "blank reduction zero_infinity",
    "ChannelShuffle": "groups",
    "CircularPad": "padding",
    "ConstantPad": "padding value",
    "Conv": _CONV,
    "ConvTranspose": f"{_CONV} output_padding",
    "CosineEmbeddingLoss": "margin reduction",
    "CosineSimilarity": "dim eps",
    "CrossEntropyLoss": "ignore_index label_smoothing reduction",
    "Dropout": "p",
    "ELU": "alpha",
    "Embedding": "padding_idx max_norm norm_type scale_grad_by_freq sparse",
    "FeatureAlphaDropout": "p",
    "Flatten": "start_dim end_dim",
    "Fold": "output_size kernel_size dilation padding stride",
    "GELU": "approximate",
    "GLU": "dim",
    "GRU": "num_layers bidirectional dropout batch_first",
    "GaussianNLLLoss": "full eps reduction",
    "GroupNorm": "num_groups eps",
    "Hardshrink": "lambd",
    "Hardtanh": "min_val max_val",
    "HingeEmbeddingLoss": "margin reduction",
    "HuberLoss": "delta reduction",
    "InstanceNorm": "eps momentum track_running_stats",
    "KLDivLoss": "reduction log_target",
    "L1Loss": "reduction",
    "LPPool": "norm_type kernel_size stride ceil_mode",
    "LSTM": "num_layers bidirectional dropout batch_first proj_size",
    "LayerNorm": "normalized_shape eps",
    "LeakyReLU": "negative_slope",
    "LocalResponseNorm": "size alpha beta k",
    "LogSoftmax": "dim",
    "MSELoss": "reduction",
    "MarginRankingLoss": "margin reduction",
    "MaxPool": f"{_POOL} dilation",
    "MaxUnpool": "kernel_size stride padding",
    "MultiLabelMarginLoss": "reduction",
    "MultiLabelSoftMarginLoss": "reduction",
    "MultiMarginLoss": "p margin reduction",
    "MultiheadAttention": "embed_dim num_heads dropout batch_first add_zero_attn",
    "NLLLoss": "ignore_index reduction",
    "PReLU": "num_parameters",
    "PairwiseDistance": "p=norm eps keepdim",
    "PixelShuffle": "upscale_factor",
    "PixelUnshuffle": "downscale_factor",
    "PoissonNLLLoss": "log_input full eps reduction",
    "RMSNorm": "normalized_shape eps",
    "RNN": "num_layers bidirectional dropout batch_first nonlinearity",
    "RNNCell": "nonlinearity",
    "RReLU": "lower upper",
    "ReflectionPad": "padding",
    "ReplicationPad": "padding",
    "SELU": "",
    "SmoothL1Loss": "beta reduction",
    "SoftMarginLoss": "reduction",
    "Softmax": "dim",
    "Softmax2d": "",
    "Softplus": "beta threshold",
    "Softshrink": "lambd",
    "SyncBatchNorm": "eps momentum track_running_stats",
    "Threshold": "threshold value",
    "TransformerDecoderLayer": "activation norm_first",
    "TransformerEncoderLayer": "activation norm_first",
    "TripletMarginLoss": "margin p eps swap reduction",
    "TripletMarginWithDistanceLoss": "margin swap reduction",
    "Unflatten": "dim unflattened_size",
    "Unfold": "kernel_size dilation padding stride",
    "Upsample": "size scale_factor mode align_corners recompute_scale_factor",
    "ZeroPad": "padding",
}
_SPATIAL = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")
_NORMS = ("BatchNorm", "SyncBatchNorm", "InstanceNorm", "LayerNorm", "GroupNorm", "RMSNorm")
_WEIGHTED = ("CrossEntropyLoss", "NLLLoss", "BCELoss", "BCEWithLogitsLoss")


def walk(model: Any, path: str = "") -> Iterator[Tuple[str, Any]]:
    """Yield every module with its dotted path, parents first, one that has several paths under each of them."""
    yield path, model
    for name, child in model._modules.items():
        if child is not None:
            yield from walk(child, f"{path}.{name}" if path else name)


def is_recurrent(module: Any) -> bool:
    """Tell whether a module is a multi-layer RNN, GRU or LSTM."""
    return isinstance(module, torch.nn.RNNBase)


def module_type(module: Any) -> str:
    """Name a module's type: torch's class name of the same thing, or the class name of a user's own module."""
    if not _is_framework_class(type(module)):
        return type(module).__name__
    return _common_type(type(module), module)


def describe_modules(model: Any) -> Tuple[ModuleSpec, ...]:
    """Describe every module once, in the order of definition, without what is inside a recurrent layer."""
    seen: Dict[int, str] = {}
    specs = []
    for path, module in walk(model):
        if id(module) not in seen and not _is_internal(path, model):
            seen[id(module)] = path
            specs.append(
                ModuleSpec(
                    path=path,
                    type=module_type(module),
                    framework_class=f"{type(module).__module__}.{type(module).__qualname__}",
                    training=bool(module.training),
                    hyperparameters=_hyperparameters(module),
                )
            )
    return tuple(specs)


def _hyperparameters(module: Any) -> Dict[str, Scalar]:
    """Collect the arguments of the framework class that a module is or derives from, and a user class's scalars."""
    values: Dict[str, Scalar] = {}
    base = next((each for each in type(module).__mro__ if _is_framework_class(each)), None)
    if base is not None:
        kind = _common_type(base, module)
        family, dimensions = _split_dimensions(kind)
        for field in _FIELDS.get(kind, _FIELDS.get(family, "")).split():
            key, _, attributes = field.partition("=")
            values[key] = _plain(_attribute(module, attributes or key))
        values.update(_converted(family, module))
        _normalise(values, family, dimensions)
    if not _is_framework_class(type(module)):
        for name, value in vars(module).items():
            if isinstance(value, (bool, int, float, str)) and name != "training" and not name.startswith("_"):
                values[f"attr.{name}"] = value
    return values


def _converted(family: str, module: Any) -> Dict[str, Scalar]:
    """Convert what has another meaning or another form than torch's argument of that name."""
    values: Dict[str, Scalar] = {}
    if family in _NORMS:
        values["affine"] = module.weight is not None
    if family == "InstanceNorm" and not module.track_running_stats:
        values["momentum"] = None
    if family in _WEIGHTED:
        values["weighted"] = module.weight is not None
    if family == "Embedding" and module.max_norm is None:
        values["norm_type"] = None
    if is_recurrent(module):
        values["dropout"] = float(getattr(module, "_stepalign_dropout", module.dropout))
    if family == "Upsample":
        values["align_corners"] = bool(module.align_corners)
        values["recompute_scale_factor"] = bool(module.recompute_scale_factor)
    return values


def _normalise(values: Dict[str, Scalar], family: str, dimensions: int) -> None:
    """Give equal meanings equal values, in place."""
    if "stride" in values and values["stride"] is None:
        values["stride"] = values["kernel_size"]
    for key in _SPATIAL:
        if key in values and family not in ("ReflectionPad", "ReplicationPad", "ConstantPad", "ZeroPad", "CircularPad"):
            values[key] = _spread(values[key], dimensions or (2 if family in ("Fold", "Unfold") else 0))
    if isinstance(values.get("padding"), int):
        values["padding"] = (values["padding"],) * (2 * dimensions)  # type: ignore[assignment]
    if "count_include_pad" in values and not any(values["padding"] or ()):  # type: ignore[arg-type]
        values["count_include_pad"] = None
    for key in ("size", "scale_factor"):
        value = values.get(key)
        if isinstance(value, tuple) and len(set(value)) == 1:
            values[key] = value[0]
    if family == "Upsample" and values["mode"] == "nearest":
        values["align_corners"] = False


def _spread(value: Scalar, dimensions: int) -> Scalar:
    """Give a size one number for each dimension; ``"valid"`` is no padding, equal paddings of both ends are one."""
    if isinstance(value, str):
        return (0,) * dimensions if value.lower() == "valid" else value.lower()
    if isinstance(value, tuple):
        if len(value) == 2 * dimensions + 4 and not any(value[:4]):
            value = value[4:]
        if len(value) == 2 * dimensions and dimensions and value[0::2] == value[1::2]:
            return value[0::2]
        return value * dimensions if len(value) == 1 and dimensions else value
    return (value,) * dimensions if dimensions and value is not None else value


def _plain(value: Any) -> Scalar:
    """Reduce an attribute to a plain value: numbers, text, None, flat tuples of numbers; a function is its name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        flat: Tuple[Any, ...] = ()
        for each in value:
            plain = _plain(each)
            flat += plain if isinstance(plain, tuple) else (plain,)
        return flat
    if hasattr(value, "item") and getattr(value, "size", 2) == 1:
        return _plain(value.item())
    return str(getattr(value, "__name__", type(value).__name__)).lstrip("_")


def _attribute(module: Any, alternatives: str) -> Any:
    """Read the first attribute that exists of several names joined by ``|``."""
    return next((getattr(module, name) for name in alternatives.split("|") if hasattr(module, name)), None)


def _split_dimensions(kind: str) -> Tuple[str, int]:
    """Split ``"Conv2d"`` into its family and its number of dimensions."""
    match = re.fullmatch(r"(.+)([123])d", kind)
    return (match.group(1), int(match.group(2))) if match else (kind, 0)


def _is_framework_class(cls: type) -> bool:
    """Tell whether a class is one of the framework's layers."""
    return f"{cls.__module__}.".startswith(_FRAMEWORK_MODULES) and cls is not torch.nn.Module


def _is_internal(path: str, model: Any) -> bool:
    """Tell whether a module is a part of a recurrent layer: torch's have none."""
    return False


def _common_type(cls: type, module: Any) -> str:
    """Give torch's class name of what a framework class does, in its simplest form."""
    kind = _RENAMED.get(cls.__name__, cls.__name__)
    family, dimensions = _split_dimensions(kind)
    constant: Optional[Any] = getattr(module, "value", None)
    return f"ZeroPad{dimensions}d" if family == "ConstantPad" and constant == 0 else kind
