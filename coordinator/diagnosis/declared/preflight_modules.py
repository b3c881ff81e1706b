"""Declared differences between two models' modules: types, number-changing arguments, modules without a twin.

A user's class may be named as it likes and may call a function where the other side has a module: neither is a finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.declared.common_terms import (
    MODULE_TERMS,
    PADDLE_TERMS,
    SILENT_MODULE_KEYS,
    as_float,
    plain,
    same_value,
    words,
)
from stepalign.coordinator.diagnosis.declared.counterparts import both_defaults, module_argument, neutral, write
from stepalign.coordinator.diagnosis.declared.layer_differences import layer_differences
from stepalign.coordinator.diagnosis.wording import count, names, number
from stepalign.protocol.specs import Declaration, ModuleSpec, Scalar

ModulePair = tuple[ModuleSpec, ModuleSpec]

ACTIVATIONS = words(
    "ReLU GELU SiLU Tanh Sigmoid LeakyReLU ELU CELU SELU Mish Hardswish Hardsigmoid Softplus Softsign LogSigmoid "
    "ReLU6 Hardtanh PReLU RReLU Threshold Tanhshrink Softshrink Hardshrink GLU Softmax LogSoftmax Softmin Softmax2d"
)
_FAMILIES = (
    ACTIVATIONS,
    words("MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d"),
    words(
        "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d"
    ),
    words("BatchNorm LayerNorm RMSNorm GroupNorm InstanceNorm LocalResponseNorm"),
    words("LSTM GRU RNN"),
    words("L1Loss MSELoss SmoothL1Loss HuberLoss CrossEntropyLoss NLLLoss BCELoss BCEWithLogitsLoss KLDivLoss"),
)
_SAME_TYPES = {
    "SyncBatchNorm": "BatchNorm",
    "BatchNorm1d": "BatchNorm",
    "BatchNorm2d": "BatchNorm",
    "BatchNorm3d": "BatchNorm",
    "InstanceNorm1d": "InstanceNorm",
    "InstanceNorm2d": "InstanceNorm",
    "InstanceNorm3d": "InstanceNorm",
    "Swish": "SiLU",
    "SimpleRNN": "RNN",
}
_EPSILON_NAMES = words("eps epsilon variance_epsilon layer_norm_eps layer_norm_epsilon rms_norm_eps norm_eps")
_DROPOUT_KEYS = words("p dropout attn_dropout act_dropout")
_LINEAR_MODES = words("linear bilinear bicubic trilinear")
_RECURRENT = words("LSTM GRU RNN")
_ABSOLUTE_EPSILON = 2e-12


def compare_modules(
    torch: Declaration,
    paddle: Declaration,
    module_pairs: Sequence[tuple[str, str]],
    mode: str,
    dropout: str = "own",
) -> list[Finding]:
    """Return the differences between the modules of ``module_pairs`` (torch path, paddle path), equal ones grouped."""
    torch_by_path = {module.path: module for module in torch.modules}
    paddle_by_path = {module.path: module for module in paddle.modules}
    pairs = [
        (torch_by_path[t], paddle_by_path[p]) for t, p in module_pairs if t in torch_by_path and p in paddle_by_path
    ]
    findings = [
        *_types(pairs),
        *_arguments(pairs, mode),
        *_paddle_arguments(pairs, mode),
        *_own_attributes(pairs),
        *_training_flags(pairs),
        *layer_differences(pairs),
    ]
    paired = {t.path for t, _ in pairs}, {p.path for _, p in pairs}
    findings.extend(_lone_dropouts(torch.modules, paired[0], "torch", mode))
    findings.extend(_lone_dropouts(paddle.modules, paired[1], "paddle", mode))
    if mode == "train" and dropout == "own":
        findings.extend(_own_masks(torch, paddle))
    return findings


def is_dropout(module: ModuleSpec) -> bool:
    """Return whether a module is one of the dropout classes."""
    return "Dropout" in module.type


def drops(module: ModuleSpec) -> bool:
    """Return whether a module itself drops elements as it stands: in training mode, at a rate above zero."""
    values = module.hyperparameters
    if not module.training:
        return False
    if is_dropout(module):
        return as_float(values.get("p"), 0.0) > 0.0
    if module.type in _RECURRENT and as_float(values.get("num_layers"), 1.0) < 2.0:
        return False
    return module.type in ("MultiheadAttention", *_RECURRENT) and as_float(values.get("dropout"), 0.0) > 0.0


def _own_masks(torch: Declaration, paddle: Declaration) -> Iterator[Finding]:
    """Find dropout that is active on both sides, each with random masks of its own: no step can agree."""
    ours, theirs = ([module for module in side.modules if drops(module)] for side in (torch, paddle))
    if ours and theirs:
        cause = Cause(
            Category.RANDOMNESS,
            "dropout_masks",
            0.94,
            f"dropout is active on both sides ({names(m.path or m.type for m in ours)} in torch, "
            f"{names(m.path or m.type for m in theirs)} in paddle) and each draws masks of its own: the same seed gives other "
            "masks, so that no step can agree",
            'mode = "eval", or [compare] dropout = "shared" to give both sides the same masks',
        )
        yield Finding(cause, "activation", ours[0].path, theirs[0].path, True)


def _common(name: str) -> str:
    return _SAME_TYPES.get(name, name)


def _other_function(torch: ModuleSpec, paddle: ModuleSpec) -> bool:
    """Return whether two types of one family compute different functions."""
    ours, theirs = _common(torch.type), _common(paddle.type)
    if ours == theirs or not any(ours in family and theirs in family for family in _FAMILIES):
        return False
    if {ours, theirs} == {"ReLU6", "Hardtanh"}:
        tanh = torch if ours == "Hardtanh" else paddle
        return not (
            same_value(tanh.hyperparameters.get("min_val"), 0) and same_value(tanh.hyperparameters.get("max_val"), 6)
        )
    if {ours, theirs} == {"ReLU", "LeakyReLU"}:
        leaky = torch if ours == "LeakyReLU" else paddle
        return as_float(leaky.hyperparameters.get("negative_slope"), 1.0) != 0.0
    if {ours, theirs} == {"ELU", "CELU"}:
        alphas = [as_float(module.hyperparameters.get("alpha"), 1.0) for module in (torch, paddle)]
        return alphas != [1.0, 1.0]
    if {ours, theirs} == {"SmoothL1Loss", "HuberLoss"}:
        return False
    if {ours, theirs} == {"InstanceNorm", "GroupNorm"} or {ours, theirs} == {"LayerNorm", "GroupNorm"}:
        return False
    return {ours, theirs} != {"Softmax", "Softmax2d"}


def _types(pairs: Sequence[ModulePair]) -> Iterator[Finding]:
    differing: dict[tuple[str, str], list[ModulePair]] = {}
    for torch, paddle in pairs:
        if _other_function(torch, paddle):
            differing.setdefault((torch.type, paddle.type), []).append((torch, paddle))
    for (ours, theirs), found in differing.items():
        evidence = (
            f"{ours} in torch, {theirs} in paddle at {count(len(found), 'module')}: {names(p.path for _, p in found)}"
        )
        fix = f"use paddle's counterpart of torch.nn.{ours} at {names(p.path for _, p in found)}"
        if ours in ACTIVATIONS:
            cause = Cause(Category.FORWARD, "activation_function", 0.95, evidence, fix)
        else:
            cause = Cause(Category.FORWARD, "module_type", 0.95, evidence, fix)
        yield Finding(cause, "activation", found[0][0].path, found[0][1].path, True, ours, theirs)


def _arguments(pairs: Sequence[ModulePair], mode: str) -> Iterator[Finding]:
    differing: dict[tuple[str, str, str, Scalar, Scalar, bool], list[ModulePair]] = {}
    for torch, paddle in pairs:
        if _other_function(torch, paddle):
            continue
        for key, ours, theirs in _differing(torch, paddle):
            matters = _matters(key, torch, paddle, mode)
            group = (_common(torch.type), paddle.type, key, ours, theirs, matters)
            differing.setdefault(group, []).append((torch, paddle))
    for (_, _, key, ours, theirs, matters), found in differing.items():
        yield _argument(key, ours, theirs, matters, found)


def _differing(torch: ModuleSpec, paddle: ModuleSpec) -> Iterator[tuple[str, Scalar, Scalar]]:
    """Yield (key, torch's value, paddle's value) for each argument whose difference means other numbers."""
    for key in {**torch.hyperparameters, **paddle.hyperparameters}:
        term = MODULE_TERMS.get(key)
        default = term.absent if term else None
        declared = key in torch.hyperparameters and key in paddle.hyperparameters
        if key.startswith(("attr.", "paddle.", "torch.")) or key in SILENT_MODULE_KEYS:
            continue
        if not declared and default is None and key != "padding_idx":
            continue
        ours, theirs = (_readable(key, module, default) for module in (torch, paddle))
        if same_value(ours, theirs, term.atol if term else 0.0):
            continue
        if not _equal_in_meaning(key, ours, theirs, torch, paddle):
            yield key, ours, theirs


def _readable(key: str, module: ModuleSpec, default: Scalar) -> Scalar:
    value = plain(module.hyperparameters.get(key, default))
    if value is None and key == "stride":
        value = plain(module.hyperparameters.get("kernel_size"))
    if value is None:
        return default
    if key == "approximate" and isinstance(value, bool):
        return "tanh" if value else "none"
    return None if key == "padding_idx" and value == -1 else value


def _equal_in_meaning(key: str, ours: Scalar, theirs: Scalar, torch: ModuleSpec, paddle: ModuleSpec) -> bool:
    """Return whether two different values give the same numbers, or cannot be told apart from such."""
    both = (torch.hyperparameters, paddle.hyperparameters)
    if key == "eps":
        return abs(as_float(ours) - as_float(theirs)) <= _ABSOLUTE_EPSILON
    if key == "p":
        return not (is_dropout(torch) or is_dropout(paddle))
    if key == "dropout":
        return any(values.get("num_layers") == 1 and torch.type in _RECURRENT for values in both)
    if key in ("count_include_pad", "padding_mode"):
        return not any(_nonzero(values.get("padding")) for values in both)
    if key == "align_corners":
        return not any(values.get("mode") in _LINEAR_MODES for values in both)
    if key == "momentum":
        return "BatchNorm" not in torch.type or False in (values.get("track_running_stats") for values in both)
    if key in ("activation", "nonlinearity"):
        return not all(isinstance(value, str) and value.isidentifier() for value in (ours, theirs))
    if key == "dim":
        return ours is None or theirs is None or as_float(ours) * as_float(theirs) < 0
    if key == "padding" and isinstance(ours, tuple) != isinstance(theirs, tuple):
        return True
    return (ours is None or theirs is None) and key not in ("padding_idx", "max_norm", "momentum")


def _nonzero(padding: Scalar) -> bool:
    if isinstance(padding, (tuple, list)):
        return any(as_float(entry) for entry in padding)
    return bool(padding) and padding != "valid"


def _matters(key: str, torch: ModuleSpec, paddle: ModuleSpec, mode: str) -> bool:
    if key in _DROPOUT_KEYS:
        return mode == "train" and (torch.training or paddle.training)
    return key in MODULE_TERMS or torch.type.endswith("Loss")


def _argument(key: str, ours: Scalar, theirs: Scalar, matters: bool, found: Sequence[ModulePair]) -> Finding:
    torch, paddle = found[0]
    paths = names(p.path for _, p in found)
    call = f"paddle.nn.{paddle.framework_class.rsplit('.', 1)[-1]}(...) of {paths}"
    evidence = (
        f"{key} of {torch.type} is {number(ours)} in torch and {number(theirs)} in paddle "
        f"at {count(len(found), 'module')}: {paths}"
    )
    if key == "momentum":
        evidence += f" (in paddle's own terms {number(1.0 - as_float(theirs))}, the share that is kept)"
    if key in _DROPOUT_KEYS and not matters:
        evidence += "; no effect while dropout is off"
    term = MODULE_TERMS.get(key)
    argument = module_argument(torch.type, key)
    evidence += both_defaults(argument, ours, theirs)
    if torch.type.endswith("Loss") and key not in ("reduction", "label_smoothing", "ignore_index", "weighted"):
        cause = Cause(Category.LOSS, "loss_argument", 0.9, evidence, f"{write(argument, key, ours)} in {call}")
    elif term is None:
        cause = Cause(Category.FORWARD, "module_argument", 0.3, evidence, f"{write(argument, key, ours)} in {call}")
    else:
        confidence = 0.95 if matters else 0.3
        cause = Cause(term.category, term.code, confidence, evidence, f"{write(argument, key, ours)} in {call}")
    kind = term.kind if term else "activation"
    return Finding(cause, kind, torch.path, paddle.path, matters, number(ours), number(theirs))


def _paddle_arguments(pairs: Sequence[ModulePair], mode: str) -> Iterator[Finding]:
    """Find arguments that torch does not have, where they change numbers."""
    differing: dict[tuple[str, Scalar], list[ModulePair]] = {}
    for torch, paddle in pairs:
        for key in PADDLE_TERMS.keys() & paddle.hyperparameters.keys():
            vanishes = is_dropout(paddle) and not as_float(paddle.hyperparameters.get("p"))
            if not vanishes and not (key == "paddle.use_global_stats" and mode == "eval"):
                differing.setdefault((key, paddle.hyperparameters[key]), []).append((torch, paddle))
    for (key, value), found in sorted(differing.items(), key=lambda item: item[0][0]):
        term = PADDLE_TERMS[key]
        torch, paddle = found[0]
        argument = module_argument(torch.type, key) or module_argument(paddle.type, key)
        name = key.removeprefix("paddle.")
        paths = names(p.path for _, p in found)
        evidence = (
            f"{name} is {number(value)} in paddle at {count(len(found), 'module')}; torch has no such rule: {paths}"
        )
        if argument is not None and argument.paddle_default == value:
            evidence += f"; {number(value)} is paddle's default"
        fix = f"{name}={neutral(argument)!r} in paddle.nn.{paddle.framework_class.rsplit('.', 1)[-1]}(...) of {paths}"
        cause = Cause(term.category, term.code, 0.95, evidence, fix)
        yield Finding(cause, term.kind, torch.path, paddle.path, True, None, number(value))


def _own_attributes(pairs: Sequence[ModulePair]) -> Iterator[Finding]:
    """Compare the plain attributes of users' own modules: an epsilon counts, anything else is a hint."""
    differing: dict[tuple[str, Scalar, Scalar], list[ModulePair]] = {}
    for torch, paddle in pairs:
        ours, theirs = _attributes(torch), _attributes(paddle)
        for key in ours.keys() & theirs.keys():
            if not same_value(ours[key], theirs[key]) and type(ours[key]) is type(theirs[key]):
                differing.setdefault((key, ours[key], theirs[key]), []).append((torch, paddle))
    for (key, ours_value, theirs_value), found in sorted(differing.items(), key=lambda item: item[0][0]):
        paths = names(p.path or "the model itself" for _, p in found)
        evidence = f"attribute {key} is {number(ours_value)} in torch and {number(theirs_value)} in paddle at {paths}"
        fix = f"give {paths} of the paddle model the value {number(ours_value)}"
        epsilon = key == "eps" and abs(as_float(ours_value) - as_float(theirs_value)) > _ABSOLUTE_EPSILON
        if epsilon:
            cause = Cause(Category.HYPERPARAMETER, "norm_epsilon", 0.85, evidence, fix)
        else:
            cause = Cause(Category.FORWARD, "module_attribute", 0.3, evidence, fix)
        first = found[0]
        yield Finding(
            cause, "activation", first[0].path, first[1].path, epsilon, number(ours_value), number(theirs_value)
        )


def _attributes(module: ModuleSpec) -> dict[str, Scalar]:
    """Return a module's ``attr.*`` values; the one epsilon, whatever its name, as ``eps``."""
    values = {key[len("attr.") :]: value for key, value in module.hyperparameters.items() if key.startswith("attr.")}
    epsilons = [key for key in values if key in _EPSILON_NAMES and isinstance(values[key], float)]
    if len(epsilons) == 1:
        values["eps"] = values.pop(epsilons[0])
    return {key: value for key, value in values.items() if isinstance(value, (bool, int, float, str))}


def _training_flags(pairs: Sequence[ModulePair]) -> Iterator[Finding]:
    def acts(module: ModuleSpec) -> bool:
        return "BatchNorm" in module.type or (is_dropout(module) and as_float(module.hyperparameters.get("p")) > 0)

    found = [(t, p) for t, p in pairs if t.training != p.training and acts(t) and acts(p)]
    if found:
        torch, paddle = found[0]
        ours, theirs = ("train" if module.training else "eval" for module in (torch, paddle))
        cause = Cause(
            Category.FORWARD,
            "training_mode",
            0.95,
            f"{count(len(found), 'module')} in {ours} mode in torch and in {theirs} mode in paddle: "
            f"{names(p.path for _, p in found)}",
            f"call {'.train()' if torch.training else '.eval()'} on {names(p.path for _, p in found)} of the paddle "
            "model",
        )
        yield Finding(cause, "activation", torch.path, paddle.path, True, ours, theirs)


def _lone_dropouts(modules: Sequence[ModuleSpec], paired: set[str], side: str, mode: str) -> Iterator[Finding]:
    """Hint at active dropout modules without a twin: no more than a hint, as the other side may call the function."""
    rates = [(m, as_float(m.hyperparameters.get("p"))) for m in modules if is_dropout(m) and m.path not in paired]
    lone = [m for m, rate in rates if rate > 0.0 and m.training and mode == "train"]
    if lone:
        other = "paddle" if side == "torch" else "torch"
        first = lone[0]
        rate = number(as_float(first.hyperparameters.get("p")))
        cause = Cause(
            Category.RANDOMNESS,
            "dropout_missing",
            0.5,
            f"{count(len(lone), 'dropout module')} of {side} (rate {rate}) without a twin in {other}: "
            f"{names(m.path for m in lone)}",
            f"add the dropout of rate {rate} to the paddle model"
            if side == "torch"
            else "remove it from the paddle model",
        )
        named = (first.path, "") if side == "torch" else ("", first.path)
        values = (rate, None) if side == "torch" else (None, rate)
        yield Finding(cause, "activation", named[0], named[1], False, values[0], values[1])
