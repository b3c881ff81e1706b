"""Clipping of gradients and regularisers: what torch does between backward and the step, and paddle inside its step.

Sources: torch 2.13.0 ``torch/nn/utils/clip_grad.py``, paddle 3.3.1 ``paddle/nn/clip.py``, ``paddle/regularizer.py``.
"""

from __future__ import annotations

from stepalign.coordinator.atlas.calls import Call, Expression
from stepalign.coordinator.atlas.conversions import RATE, torch_execution
from stepalign.coordinator.atlas.pairing import Argument, Configuration, Pairing

_TORCH = "torch.nn.utils."
_SGD = Call("torch.optim.SGD", {"lr": 0.1})
_TWO_GROUPS = (("norm", {"weight_decay": 0.0}), ("", {"weight_decay": 0.01}))
_NONFINITE = Argument(
    torch="error_if_nonfinite", torch_default=False, neutral=False, note="paddle passes NaN and infinity on"
)

GLOBAL_NORM = Pairing(
    "clip",
    _TORCH + "clip_grad_norm_",
    "paddle.nn.ClipGradByGlobalNorm",
    (
        Argument("max_norm", "clip_norm", conversion=RATE),
        Argument(torch="norm_type", torch_default=2.0, neutral=2.0, note="use paddle.nn.utils.clip_grad_norm_"),
        _NONFINITE,
        *torch_execution("foreach"),
        Argument(paddle="group_name", paddle_default="default_group", execution=True),
        Argument(paddle="auto_skip_clip", paddle_default=False, execution=True),
    ),
    "torch multiplies by min(1, max_norm / (norm + 1e-6)), paddle by clip_norm / max(norm, clip_norm): relative difference "
    "1e-6 / norm, at most, of what is clipped; nothing in float32 where norm is about 1. paddle leaves gradients of a smaller "
    "norm as they are, bit by bit.",
    configurations=(
        Configuration("norm 1", {"max_norm": 1.0}),
        Configuration("norm 1, AdamW", {"max_norm": 1.0}, optimizer=Call("torch.optim.AdamW", {"lr": 0.01})),
        Configuration("norm 1, momentum", {"max_norm": 1.0}, optimizer=Call("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9})),
    ),
)

TINY_NORM = Pairing(
    "clip",
    _TORCH + "clip_grad_norm_",
    "paddle.nn.ClipGradByGlobalNorm",
    GLOBAL_NORM.arguments,
    "The 1e-6 of torch's denominator, where the gradients' norm is not far above it.",
    configurations=(Configuration("norm 1e-6", {"max_norm": 1e-6}), Configuration("norm 1e-9", {"max_norm": 1e-9})),
    variant="norms near 1e-6",
)

GROUPED_NORM = Pairing(
    "clip",
    _TORCH + "clip_grad_norm_",
    "paddle.nn.ClipGradByGlobalNorm",
    GLOBAL_NORM.arguments,
    "paddle's grad_clip takes the norm of each parameter group alone, torch that of all parameters. The same only by "
    "paddle.nn.utils.clip_grad_norm_ before the step.",
    configurations=(Configuration("norm 1, two groups", {"max_norm": 1.0}, groups=_TWO_GROUPS),),
    variant="several groups",
)

NORM_FUNCTION = Pairing(
    "clip",
    _TORCH + "clip_grad_norm_",
    "paddle.nn.utils.clip_grad_norm_",
    (
        Argument("max_norm", "max_norm", conversion=RATE),
        Argument("norm_type", "norm_type", 2.0, 2.0),
        Argument("error_if_nonfinite", "error_if_nonfinite", False, False),
        *torch_execution("foreach"),
    ),
    "The same formula with the same 1e-6. paddle raises for a norm_type other than 0, 1, 2 and inf.",
    configurations=(
        Configuration("norm 1", {"max_norm": 1.0}),
        Configuration("norm 1e-6", {"max_norm": 1e-6}),
        Configuration("sum of magnitudes 1", {"max_norm": 1.0, "norm_type": 1.0}),
        Configuration("greatest magnitude 0.1", {"max_norm": 0.1, "norm_type": float("inf")}),
        Configuration("norm 1, two groups", {"max_norm": 1.0}, groups=_TWO_GROUPS),
    ),
)

OLD_NORM_FUNCTION = Pairing(
    "clip",
    _TORCH + "clip_grad_norm",
    "paddle.nn.utils.clip_grad_norm_",
    NORM_FUNCTION.arguments,
    "The deprecated name of clip_grad_norm_.",
    configurations=(Configuration("norm 1", {"max_norm": 1.0}),),
)

VALUE = Pairing(
    "clip",
    _TORCH + "clip_grad_value_",
    "paddle.nn.ClipGradByValue",
    (
        Argument("clip_value", "max", conversion=RATE),
        *torch_execution("foreach"),
        Argument(paddle="min", paddle_default=None, note="torch clips to -clip_value"),
    ),
    configurations=(Configuration("0.5", {"clip_value": 0.5}), Configuration("1e-5", {"clip_value": 1e-5})),
)

VALUE_FUNCTION = Pairing(
    "clip",
    _TORCH + "clip_grad_value_",
    "paddle.nn.utils.clip_grad_value_",
    (Argument("clip_value", "clip_value", conversion=RATE), *torch_execution("foreach")),
    configurations=(Configuration("0.5", {"clip_value": 0.5}), Configuration("1e-5", {"clip_value": 1e-5})),
)


def _each_alone(call: Call) -> Call:
    norm = float(call.arguments["clip_norm"])
    code = f"lambda parameters: [torch.nn.utils.clip_grad_norm_([each], {norm!r}) for each in parameters]"
    return Call(_TORCH + "clip_grad_norm_", {"each": Expression(code)})


NORM_OF_EACH = Pairing(
    "clip",
    _TORCH + "clip_grad_norm_",
    "paddle.nn.ClipGradByNorm",
    (
        Argument(torch="max_norm", execution=True),
        Argument(torch="norm_type", torch_default=2.0, execution=True),
        Argument(torch="error_if_nonfinite", torch_default=False, execution=True),
        *torch_execution("foreach"),
        Argument(paddle="clip_norm", execution=True),
    ),
    "paddle clips each parameter by its own norm: in torch clip_grad_norm_([p], clip_norm) for each p. Without torch's 1e-6. "
    "paddle has no float64 kernel of it on the CPU.",
    to_torch=_each_alone,
    configurations=(Configuration("norm 0.5", {"clip_norm": 0.5}, side="paddle"),),
    variant="each parameter alone",
)

GIVEN_NORM = Pairing(
    "clip",
    _TORCH + "clip_grads_with_norm_",
    "",
    difference="Scales by min(1, max_norm / (total_norm + 1e-6)) with a norm that is given. paddle has no function for the "
    "second half of clip_grad_norm_ alone.",
)

L2 = Pairing(
    "regularizer",
    "weight_decay",
    "paddle.regularizer.L2Decay",
    (Argument("weight_decay", "coeff", 0.0, 0.0),),
    "Both add coeff * p to the gradient, after clipping. On a parameter (ParamAttr) it replaces the optimizer's own decay, but "
    "under AdamW it comes on top of the decoupled decay; AdamW refuses it as weight_decay.",
    configurations=(
        Configuration("0.01, SGD", {"weight_decay": 0.01}),
        Configuration("0.01, momentum", {"weight_decay": 0.01}, optimizer=Call("torch.optim.SGD", {"lr": 0.1, "momentum": 0.9})),
        Configuration("0.1, Adam", {"weight_decay": 0.1}, optimizer=Call("torch.optim.Adam", {"lr": 0.01})),
    ),
)


def _added_sign(call: Call) -> Call:
    coefficient = float(call.arguments["coeff"])
    code = (
        f"lambda parameters: [each.grad.add_(each.detach().sign(), alpha={coefficient!r}) for each in parameters "
        "if each.grad is not None]"
    )
    return Call("", {"each": Expression(code)})


L1 = Pairing(
    "regularizer",
    "",
    "paddle.regularizer.L1Decay",
    (Argument(paddle="coeff", paddle_default=0.0, execution=True),),
    "Adds coeff * sign(p) to the gradient, after clipping. torch has no argument for it: add the term to p.grad before the step.",
    to_torch=_added_sign,
    configurations=(
        Configuration("0.01, SGD", {"coeff": 0.01}, side="paddle"),
        Configuration("0.01, Adam", {"coeff": 0.01}, side="paddle", optimizer=Call("torch.optim.Adam", {"lr": 0.01})),
    ),
)

DECAY_BASE = Pairing(
    "regularizer", "", "paddle.regularizer.WeightDecayRegularizer", difference="The base class.", is_base=True
)

CLIPS = (
    GLOBAL_NORM, TINY_NORM, GROUPED_NORM, NORM_FUNCTION, OLD_NORM_FUNCTION, VALUE, VALUE_FUNCTION, NORM_OF_EACH,
    GIVEN_NORM,
)  # fmt: skip
REGULARIZERS = (L2, L1, DECAY_BASE)
DEFAULT_OPTIMIZER = _SGD
