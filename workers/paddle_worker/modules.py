"""A paddle model's modules: their common types, and the arguments that change numbers, in torch's terms.

Equal meaning reads equal on both sides: sizes of n-dimensional layers are tuples of n, a pool's stride is its kernel
where none was given, ``count_include_pad`` is None where nothing is padded. An argument that only one framework has is
reported where it is not at the value that makes it vanish, under ``torch.`` or ``paddle.``. Of user-defined modules
the plain scalar attributes are reported as ``attr.<name>``: a hint, not a rule.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, Tuple

import paddle

from stepalign.protocol.specs import ModuleSpec, Scalar

_FRAMEWORK_MODULES = ("paddle.nn.", "paddle.compat.nn.", "paddle.incubate.nn.")
_RENAMED = {
    "Conv1DTranspose": "ConvTranspose1d",
    "Conv2DTranspose": "ConvTranspose2d",
    "Conv3DTranspose": "ConvTranspose3d",
    "LayerDict": "ModuleDict",
    "LayerList": "ModuleList",
    "MaxUnPool1D": "MaxUnpool1d",
    "MaxUnPool2D": "MaxUnpool2d",
    "MaxUnPool3D": "MaxUnpool3d",
    "MultiHeadAttention": "MultiheadAttention",
    "Silu": "SiLU",
    "SimpleRNN": "RNN",
    "SimpleRNNCell": "RNNCell",
    "Swish": "SiLU",
    "ThresholdedReLU": "Threshold",
    "UpsamplingBilinear2D": "Upsample",
    "UpsamplingNearest2D": "Upsample",
}
_PADS = {"reflect": "ReflectionPad", "replicate": "ReplicationPad", "circular": "CircularPad"}
_POOL = "kernel_size=ksize|kernel_size stride padding ceil_mode"
_CONV = (
    "kernel_size=_kernel_size stride=_stride padding=_padding dilation=_dilation groups=_groups "
    "padding_mode=_padding_mode"
)
_RECURRENT = "num_layers bidirectional=num_directions dropout batch_first=time_major"
_FIELDS = {
    "AdaptiveAvgPool": "output_size=_output_size|output_size",
    "AdaptiveLogSoftmaxWithLoss": "n_classes cutoffs div_value",
    "AdaptiveMaxPool": "output_size=_output_size|output_size",
    "AlphaDropout": "p",
    "AvgPool": f"{_POOL} count_include_pad divisor_override=divisor|divisor_override",
    "BCELoss": "reduction",
    "BCEWithLogitsLoss": "reduction",
    "BatchNorm": "eps=_epsilon momentum=_momentum track_running_stats",
    "CELU": "alpha=_alpha",
    "CTCLoss": "blank reduction zero_infinity",
    "ChannelShuffle": "groups=_groups",
    "CircularPad": "padding",
    "ConstantPad": "padding value",
    "Conv": _CONV,
    "ConvTranspose": f"{_CONV} output_padding",
    "CosineEmbeddingLoss": "margin reduction",
    "CosineSimilarity": "dim=_axis eps=_eps",
    "CrossEntropyLoss": "ignore_index label_smoothing reduction",
    "Dropout": "p",
    "ELU": "alpha=_alpha",
    "Embedding": (
        "padding_idx=_padding_idx max_norm=_max_norm norm_type=_norm_type scale_grad_by_freq=_scale_grad_by_freq "
        "sparse=_sparse"
    ),
    "FeatureAlphaDropout": "p",
    "Flatten": "start_dim=start_axis end_dim=stop_axis",
    "Fold": "output_size=output_sizes kernel_size=kernel_sizes dilation=dilations padding=paddings stride=strides",
    "GELU": "approximate=_approximate",
    "GLU": "dim=_axis",
    "GRU": _RECURRENT,
    "GaussianNLLLoss": "full eps=epsilon reduction",
    "GroupNorm": "num_groups=_num_groups eps=_epsilon",
    "Hardshrink": "lambd=_threshold",
    "Hardtanh": "min_val=_min max_val=_max",
    "HingeEmbeddingLoss": "margin reduction",
    "HuberLoss": "delta reduction",
    "InstanceNorm": "eps=_epsilon momentum track_running_stats",
    "KLDivLoss": "reduction log_target",
    "L1Loss": "reduction",
    "LPPool": "norm_type kernel_size=ksize|kernel_size stride ceil_mode",
    "LSTM": f"{_RECURRENT} proj_size",
    "LayerNorm": "normalized_shape=_normalized_shape eps=_epsilon",
    "LeakyReLU": "negative_slope=_negative_slope",
    "LocalResponseNorm": "size alpha beta k",
    "LogSoftmax": "dim=_axis",
    "MSELoss": "reduction",
    "MarginRankingLoss": "margin reduction",
    "MaxPool": f"{_POOL} dilation",
    "MaxUnpool": "kernel_size=ksize stride padding",
    "MultiLabelMarginLoss": "reduction",
    "MultiLabelSoftMarginLoss": "reduction",
    "MultiMarginLoss": "p margin reduction",
    "MultiheadAttention": "embed_dim num_heads dropout batch_first add_zero_attn",
    "NLLLoss": "ignore_index=_ignore_index reduction=_reduction",
    "PReLU": "num_parameters=_num_parameters",
    "PairwiseDistance": "p eps=epsilon keepdim",
    "PixelShuffle": "upscale_factor=_upscale_factor",
    "PixelUnshuffle": "downscale_factor=_downscale_factor",
    "PoissonNLLLoss": "log_input=_log_input full=_full eps=_epsilon reduction=_reduction",
    "RMSNorm": "normalized_shape=_normalized_shape|normalized_shape eps=_epsilon|epsilon",
    "RNN": f"{_RECURRENT} nonlinearity=activation",
    "RNNCell": "nonlinearity=activation",
    "RReLU": "lower=_lower upper=_upper",
    "ReflectionPad": "padding",
    "ReplicationPad": "padding",
    "SELU": "",
    "SmoothL1Loss": "beta=delta reduction",
    "SoftMarginLoss": "reduction",
    "Softmax": "dim=_axis|_dim",
    "Softmax2d": "",
    "Softplus": "beta=_beta threshold=_threshold",
    "Softshrink": "lambd=_threshold",
    "SyncBatchNorm": "eps=_epsilon momentum=_momentum track_running_stats",
    "Threshold": "threshold=_threshold value=_value",
    "TransformerDecoderLayer": "activation norm_first=normalize_before",
    "TransformerEncoderLayer": "activation norm_first=normalize_before",
    "TripletMarginLoss": "margin p eps=epsilon swap reduction",
    "TripletMarginWithDistanceLoss": "margin swap reduction",
    "Unflatten": "dim=axis unflattened_size=shape",
    "Unfold": "kernel_size=kernel_sizes dilation=dilations padding=paddings stride=strides",
    "Upsample": "size scale_factor mode align_corners recompute_scale_factor",
    "ZeroPad": "padding",
}
_SPATIAL = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")
_NORMS = ("BatchNorm", "SyncBatchNorm", "InstanceNorm", "LayerNorm", "GroupNorm", "RMSNorm")
_WEIGHTED = ("CrossEntropyLoss", "NLLLoss", "BCELoss", "BCEWithLogitsLoss")


def walk(model: Any, path: str = "") -> Iterator[Tuple[str, Any]]:
    """Yield every module with its dotted path, parents first, one that has several paths under each of them."""
    yield path, model
    for name, child in model._sub_layers.items():
        if child is not None:
            yield from walk(child, f"{path}.{name}" if path else name)


def is_recurrent(module: Any) -> bool:
    """Tell whether a module is a multi-layer RNN, GRU or LSTM."""
    return isinstance(module, paddle.nn.layer.rnn.RNNBase)


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
        values["affine"] = _attribute(module, "scale|weight") is not None
    if family in ("BatchNorm", "SyncBatchNorm"):
        values.update(_batch_norm(module))
    if family == "InstanceNorm":
        values.update(momentum=None, track_running_stats=False)
    if family in _WEIGHTED:
        values["weighted"] = _attribute(module, "_weight|weight") is not None
    if family == "CrossEntropyLoss":
        values.update(_unlike(module, "soft_label", False), **_unlike(module, "use_softmax", True))
        values.update(_unlike(module, "axis", 1))
    if family == "SmoothL1Loss" and module.delta != 1.0:
        values.update(_unlike(module, "is_huber", False))
    if family == "HuberLoss":
        values.update(_unlike(module, "is_huber", True))
    if family == "Embedding":
        padding = module._padding_idx
        values["padding_idx"] = padding + module._num_embeddings if padding is not None and padding < 0 else padding
        values["norm_type"] = None if module._max_norm is None else float(module._norm_type)
    if family == "Dropout":
        values.update(_unlike(module, "mode", "upscale_in_train"), **_unlike(module, "axis", None))
    if family == "GELU":
        values["approximate"] = {True: "tanh", False: "none"}.get(module._approximate, module._approximate)
    if family == "SELU":
        values.update(_unlike(module, "_scale", 1.0507009873554805), **_unlike(module, "_alpha", 1.6732632423543772))
    if family == "AvgPool":
        values["count_include_pad"] = bool(getattr(module, "count_include_pad", not _attribute(module, "exclusive")))
    if family == "MaxPool":
        values["dilation"] = 1
    if family == "MultiheadAttention":
        values.update(batch_first=getattr(module, "batch_first", True), add_zero_attn=False)
    if is_recurrent(module):
        values["dropout"] = float(getattr(module, "_stepalign_dropout", module.dropout))
        values.update(bidirectional=module.num_directions == 2, batch_first=not module.time_major)
    if family == "Upsample":
        bilinear, nearest = (f"Upsampling{each}2D" in type(module).__name__ for each in ("Bilinear", "Nearest"))
        values["mode"] = "bilinear" if bilinear else "nearest" if nearest else module.mode
        values["align_corners"] = bilinear or bool(_attribute(module, "align_corners"))
        values["recompute_scale_factor"] = bool(_attribute(module, "recompute_scale_factor"))
        values.update(_unlike(module, "align_mode", 0))
    layout = _attribute(module, "_data_format|data_format|_data_layout")
    if isinstance(layout, str) and layout.endswith("C") and layout != "NC":
        values["paddle.data_format"] = layout
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
    return f"{cls.__module__}.".startswith(_FRAMEWORK_MODULES) and cls is not paddle.nn.Layer


def _is_internal(path: str, model: Any) -> bool:
    """Tell whether a module is a part of a recurrent layer: the cells, which torch does not have as modules."""
    module = model
    for name in path.split(".") if path else []:
        if is_recurrent(module):
            return True
        module = module._sub_layers[name]
    return False


def _common_type(cls: type, module: Any) -> str:
    """Give torch's class name of what a framework class does, in its simplest form."""
    kind = _RENAMED.get(cls.__name__, re.sub(r"([123])D$", r"\1d", cls.__name__))
    family, dimensions = _split_dimensions(kind)
    if family in ("Pad", "ConstantPad", "ZeroPad"):
        constant = "ZeroPad" if module.value == 0 else "ConstantPad"
        return f"{_PADS.get(module._mode, constant)}{dimensions}d"
    return kind


def _batch_norm(module: Any) -> Dict[str, Scalar]:
    """Give momentum as the weight of the new statistics, as torch means it, and which statistics are used."""
    values: Dict[str, Scalar] = {"momentum": float(f"{1 - module._momentum:.12g}"), "track_running_stats": True}
    if type(module).__name__ == "BatchNorm":
        values.update(_unlike(module, "_use_global_stats", False), **_unlike(module, "_trainable_statistics", False))
        return values
    if module._use_global_stats is False:
        values["track_running_stats"] = False
    elif module._use_global_stats:
        values["paddle.use_global_stats"] = True
    return values


def _unlike(module: Any, attribute: str, neutral: Any) -> Dict[str, Scalar]:
    """Report an argument that only paddle has, where it is not at the value that makes it vanish."""
    value = getattr(module, attribute, neutral)
    return {} if value == neutral else {f"paddle.{attribute.lstrip('_')}": _plain(value)}
