"""paddle's dropout with shared masks: every function that drops elements is replaced, every layer tells when it runs.

The replacement happens before the user's script is imported, so that ``from paddle.nn.functional import dropout`` gives
it too. Attention with dropout is computed by its formula: paddle's kernels draw masks that nothing outside can give.
What drops inside a kernel, a recurrent layer between its layers for one, is refused by name.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from typing import Any, Callable, Dict, Iterator, Tuple

import numpy as np
import paddle
import paddle.nn.functional

from stepalign.protocol.errors import CaseError
from stepalign.workers.dropout import SharedMasks, channels, refusal
from stepalign.workers.paddle_worker.modules import is_recurrent, walk
from stepalign.workers.paddle_worker.tensors import dtype_name, from_numpy

_REFUSED = {
    "paddle.nn.functional.flash_attention": (
        "flash_attention flash_attn_qkvpacked flash_attn_unpadded flash_attn_varlen_qkvpacked flashmask_attention"
    ),
    "paddle.incubate.nn.functional": (
        "fused_bias_dropout_residual_layer_norm fused_dropout_add fused_feedforward fused_multi_head_attention"
    ),
    "paddle.incubate.nn.memory_efficient_attention": "memory_efficient_attention",
}
"""Functions that drop elements inside a kernel, by the module that has them."""

_RATES = ("p", "dropout", "dropout_p", "dropout_rate", "dropout1_rate", "dropout2_rate", "attn_dropout_rate")


def replace_dropout(masks: SharedMasks) -> None:
    """Make every function of the framework that drops elements, wherever it was imported to, draw from ``masks``."""
    replacements: Dict[int, Tuple[Any, Any]] = {}
    for original, replacement in _replacements(masks):
        replacements[id(original)] = (original, replacement)
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if not isinstance(names, dict):
            continue
        for name, value in list(names.items()):
            if id(value) in replacements:
                names[name] = replacements[id(value)][1]


def follow_modules(model: Any, masks: SharedMasks, places: Dict[str, str]) -> None:
    """Have ``masks`` know which module is running; ``places`` names modules by path.

    Raises CaseError that names a recurrent layer which would drop elements between its layers.
    """
    masks.name_places(places)
    followed = set()
    for path, module in walk(model):
        if id(module) in followed:
            continue
        followed.add(id(module))
        if is_recurrent(module) and module.num_layers > 1 and float(module.dropout) > 0.0:
            raise CaseError(
                f"{path or 'the model'} ({type(module).__name__}) drops elements between its layers, inside a kernel that "
                '[compare] dropout = "shared" cannot reach: set its dropout to 0 on both sides, or use mode = "eval"'
            )
        module.register_forward_pre_hook(_enter(masks, path))
        module.register_forward_post_hook(_leave(masks))


def _enter(masks: SharedMasks, path: str) -> Callable[..., None]:
    """Make the hook that runs before a module."""
    return lambda module, inputs: masks.enter_module(path)


def _leave(masks: SharedMasks) -> Callable[..., None]:
    """Make the hook that runs after a module."""
    return lambda module, inputs, output: masks.leave_module()


def _replacements(masks: SharedMasks) -> Tuple[Tuple[Any, Any], ...]:
    """Pair every function that drops elements with its replacement; dropouts of whole channels call ``dropout``."""
    functional = paddle.nn.functional
    return (
        (functional.dropout, _dropout(masks, functional.dropout)),
        (functional.alpha_dropout, _alpha_dropout(masks, functional.alpha_dropout, False)),
        *(
            (original, _alpha_dropout(masks, original, True))
            for original in (getattr(functional, "feature_alpha_dropout", None),)
            if original is not None
        ),
        (functional.scaled_dot_product_attention, _attention(masks, functional.scaled_dot_product_attention)),
        *((original, _refused(masks, name, original)) for name, original in _kernels()),
    )


def _kernels() -> Iterator[Tuple[str, Any]]:
    """Yield the name and the function of every kernel that draws its own mask, as far as this version has it."""
    for path, names in _REFUSED.items():
        try:
            module = importlib.import_module(path)
        except ImportError:
            continue
        for name in names.split():
            if hasattr(module, name):
                yield f"{path}.{name}", getattr(module, name)


def _dropout(masks: SharedMasks, original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the replacement of ``dropout``; with an axis, what the mask does not have of the shape is dropped
    together.
    """
    signature = inspect.signature(original)

    def dropout(*args: Any, **kwargs: Any) -> Any:
        given = _arguments(signature, args, kwargs)
        x, p, axis = given["x"], float(given["p"]), given["axis"]
        if not given["training"] or not 0.0 < p <= 1.0:
            return original(*args, **kwargs)
        shape = tuple(int(length) for length in x.shape)
        if axis is not None:
            axes = [axis] if isinstance(axis, int) else list(axis)
            shape = tuple(length if number in axes else 1 for number, length in enumerate(shape))
        factors = masks.factors(shape, p, given["mode"] == "upscale_in_train")
        return _put(x, _multiplied(x, factors), bool(given.get("inplace")))

    return dropout


def _alpha_dropout(masks: SharedMasks, original: Callable[..., Any], features: bool) -> Callable[..., Any]:
    """Make the replacement of an alpha dropout, of elements or of whole channels."""
    signature = inspect.signature(original)

    def dropout(*args: Any, **kwargs: Any) -> Any:
        given = _arguments(signature, args, kwargs)
        x, p = given["x"], given["p"]
        if not given["training"] or not 0.0 < p <= 1.0:
            return original(*args, **kwargs)
        shape = tuple(int(length) for length in x.shape)
        factors, terms = masks.alpha_terms(channels(shape, True) if features else shape, p)
        return _multiplied(x, factors) + _like(x, terms)

    return dropout


def _attention(masks: SharedMasks, original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the replacement of ``scaled_dot_product_attention``: [batch, length, heads, size], or without the batch."""
    signature = inspect.signature(original)

    def attention(*args: Any, **kwargs: Any) -> Any:
        given = _arguments(signature, args, kwargs)
        if given["dropout_p"] <= 0.0 or not given["training"]:
            return original(*args, **kwargs)
        query, key, value = (given[name].swapaxes(-3, -2) for name in ("query", "key", "value"))
        if query.shape[-3] != key.shape[-3]:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        scale, mask = given.get("scale"), given["attn_mask"]
        scores = paddle.matmul(query, key, transpose_y=True) * (scale or 1.0 / math.sqrt(query.shape[-1]))
        if given["is_causal"]:
            mask = paddle.ones(scores.shape[-2:], dtype="int32").tril().astype("bool")
        if mask is not None and mask.dtype == paddle.bool:
            mask = paddle.where(
                mask, paddle.zeros_like(mask, scores.dtype), paddle.full_like(mask, -math.inf, scores.dtype)
            )
        weights = paddle.nn.functional.softmax(scores if mask is None else scores + mask)
        shape = tuple(int(length) for length in weights.shape)
        return (_multiplied(weights, masks.factors(shape, given["dropout_p"])) @ value).swapaxes(-3, -2)

    return attention


def _refused(masks: SharedMasks, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the replacement of a kernel that draws its own mask: it raises CaseError where it would drop elements."""
    signature = inspect.signature(original)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        given = _arguments(signature, args, kwargs)
        if given.get("training", True) and any(given.get(rate) or 0.0 for rate in _RATES):
            raise refusal(name, masks)
        return original(*args, **kwargs)

    return refuse


def _arguments(signature: inspect.Signature, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Dict[str, Any]:
    """Give every argument of a call by name; ``input`` is another name of ``x``."""
    if "input" in kwargs and "input" not in signature.parameters:
        kwargs = {**kwargs, "x": kwargs["input"]}
        del kwargs["input"]
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return dict(bound.arguments)


def _multiplied(tensor: Any, factors: np.ndarray) -> Any:
    """Multiply a tensor by constants of its own dtype."""
    return tensor * _like(tensor, factors)


def _like(tensor: Any, constants: np.ndarray) -> Any:
    """Copy float64 constants into a tensor of another's dtype and device."""
    wide = dtype_name(tensor) == "float64"
    made = from_numpy(constants if wide else constants.astype(np.float32))
    return made if made.dtype == tensor.dtype else made.astype(tensor.dtype)


def _put(tensor: Any, result: Any, inplace: bool) -> Any:
    """Return a result, written over the input if the caller asked for that."""
    return paddle.assign(result, tensor) if inplace else result
