"""Finds values that went through a narrower dtype on one side: they are exactly the numbers which that dtype has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stepalign.coordinator.diagnosis.cause import Category, Cause

_ALL = 0.99
_FEW = 0.5
_LEAST_ELEMENTS = 16


def explain_precision(where: str, torch: np.ndarray, paddle: np.ndarray) -> Iterator[Cause]:
    """Yield the narrower dtype whose numbers one side's output consists of while the other's does not."""
    if torch.dtype.kind != "f" or torch.dtype != paddle.dtype or torch.size < _LEAST_ELEMENTS:
        return
    for name in ("bfloat16", "float16", "float32"):
        if name == "float32" and torch.dtype.itemsize <= 4:
            continue
        shares = {"torch": exact_share(torch, name), "paddle": exact_share(paddle, name)}
        narrow = [side for side, share in shares.items() if share >= _ALL]
        if len(narrow) != 1:
            continue
        side = narrow[0]
        other = "paddle" if side == "torch" else "torch"
        if shares[other] > _FEW:
            continue
        evidence = f"{where}: {shares[side]:.0%} of {side}'s values are exactly {name} numbers, {shares[other]:.0%} of {other}'s"
        fix = f"remove the cast to {name} (astype, auto_cast, a half() left behind) in {where} of the {side} model"
        yield Cause(Category.PRECISION, "narrower_dtype", 0.95, evidence, fix)
        return


def exact_share(array: np.ndarray, name: str) -> float:
    """Return the share of the non-zero elements that are unchanged by a trip through the dtype ``name``."""
    values = array[array != 0.0]
    if not values.size:
        return 0.0
    with np.errstate(over="ignore"):
        if name == "bfloat16":
            kept = (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        else:
            kept = values.astype(name)
    return float(np.mean(kept.astype(np.float64) == values.astype(np.float64)))
