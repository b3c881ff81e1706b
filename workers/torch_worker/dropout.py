"""torch's dropout with shared masks: every function that drops elements is replaced, every module tells when it runs.

The replacement happens before the user's script is imported, so that ``from torch.nn.functional import dropout`` gives
it too. Attention with dropout is computed by its formula: torch's kernels draw masks that nothing outside can give.
What drops inside a kernel, a recurrent layer between its layers for one, is refused by name.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Callable, Dict, Tuple

import numpy as np
import torch
import torch.nn.functional

from stepalign.protocol.errors import CaseError
from stepalign.workers.dropout import SharedMasks, channels, refusal
from stepalign.workers.torch_worker.modules import is_recurrent, walk
from stepalign.workers.torch_worker.tensors import dtype_name, from_numpy


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
        module.register_forward_hook(_leave(masks))


def _enter(masks: SharedMasks, path: str) -> Callable[..., None]:
    """Make the hook that runs before a module."""
    return lambda module, inputs: masks.enter_module(path)


def _leave(masks: SharedMasks) -> Callable[..., None]:
    """Make the hook that runs after a module."""
    return lambda module, inputs, output: masks.leave_module()


def _replacements(masks: SharedMasks) -> Tuple[Tuple[Any, Any], ...]:
    """Pair every function that drops elements with its replacement."""
    functional = torch.nn.functional
    kernels = ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
    refused = ("native_dropout", *kernels, *(f"{name}_" for name in kernels))
    return (
        (functional.dropout, _dropout(masks, functional.dropout)),
        (functional.dropout1d, _channel_dropout(masks, functional.dropout1d, 3)),
        (functional.dropout2d, _channel_dropout(masks, functional.dropout2d, 0)),
        (functional.dropout3d, _channel_dropout(masks, functional.dropout3d, 5)),
        (functional.alpha_dropout, _alpha_dropout(masks, functional.alpha_dropout, False)),
        (functional.feature_alpha_dropout, _alpha_dropout(masks, functional.feature_alpha_dropout, True)),
        (functional.scaled_dot_product_attention, _attention(masks, functional.scaled_dot_product_attention)),
        *((getattr(torch, name), _refused(masks, f"torch.{name}", getattr(torch, name))) for name in refused),
    )


def _dropout(masks: SharedMasks, original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the replacement of ``dropout``."""

    def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or not 0.0 < p <= 1.0:
            return original(input, p, training, inplace)
        return _put(input, _multiplied(input, masks.factors(tuple(input.shape), p)), inplace)

    return dropout


def _channel_dropout(masks: SharedMasks, original: Callable[..., Any], batched: int) -> Callable[..., Any]:
    """Make the replacement of a dropout of whole channels, batched at ``batched`` dimensions (0: always)."""

    def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or not 0.0 < p <= 1.0:
            return original(input, p, training, inplace)
        shape = channels(tuple(input.shape), not batched or input.ndim == batched)
        return _put(input, _multiplied(input, masks.factors(shape, p)), inplace)

    return dropout


def _alpha_dropout(masks: SharedMasks, original: Callable[..., Any], features: bool) -> Callable[..., Any]:
    """Make the replacement of an alpha dropout, of elements or of whole channels."""

    def dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
        if not training or not 0.0 < p <= 1.0:
            return original(input, p, training, inplace)
        shape = channels(tuple(input.shape), True) if features else tuple(input.shape)
        factors, terms = masks.alpha_terms(shape, p)
        return _put(input, _multiplied(input, factors) + _like(input, terms), inplace)

    return dropout


def _attention(masks: SharedMasks, original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the replacement of ``scaled_dot_product_attention``: [..., heads, length, size], the formula of its page."""

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: Any = None,
        enable_gqa: bool = False,
    ) -> Any:
        if dropout_p <= 0.0:
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if enable_gqa:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(attn_mask.logical_not(), float("-inf"))
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = torch.softmax(scores, -1)
        return _multiplied(weights, masks.factors(tuple(weights.shape), dropout_p)) @ value

    return attention


def _refused(masks: SharedMasks, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Make the replacement of a kernel that draws its own mask: it raises CaseError where it would drop elements."""

    def refuse(input: Any, p: float, train: bool) -> Any:
        if train and p > 0.0:
            raise refusal(name, masks)
        return original(input, p, train)

    return refuse


def _multiplied(tensor: Any, factors: np.ndarray) -> Any:
    """Multiply a tensor by constants of its own dtype."""
    return tensor * _like(tensor, factors)


def _like(tensor: Any, constants: np.ndarray) -> Any:
    """Copy float64 constants into a tensor of another's dtype and device."""
    wide = dtype_name(tensor) == "float64"
    return from_numpy(constants if wide else constants.astype(np.float32)).to(device=tensor.device, dtype=tensor.dtype)


def _put(tensor: Any, result: Any, inplace: bool) -> Any:
    """Return a result, written over the input if the caller asked for that."""
    return tensor.copy_(result) if inplace else result
