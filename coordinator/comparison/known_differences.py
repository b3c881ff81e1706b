"""What the frameworks themselves do differently, recognised by its formula; seen with torch 2.13.0 and paddle 3.3.1.

Each function returns None unless the formula explains the difference and says what is left without it.
"""

from __future__ import annotations

import math
from typing import Mapping, Optional, Sequence, Tuple

import numpy as np

from stepalign.coordinator.comparison.blocks import dot
from stepalign.coordinator.results.result import KnownDifference

Arrays = Mapping[str, np.ndarray]

MOST_CALLS = 8
"""How often one module may run in a step: siamese and adversarial training call it twice or more."""

_COUNT_UNCERTAINTY = 1e-7
"""The relative error of the quotient, by which n is known to n^2 times as much: paddle keeps the momentum in float32."""


def batch_norm_running_variance(
    name: str,
    torch_before: np.ndarray,
    torch_after: np.ndarray,
    paddle_before: np.ndarray,
    paddle_after: np.ndarray,
    momentum: float,
    atol: float,
) -> Optional[KnownDifference]:
    """Recognise paddle's biased batch variance: its running variance takes var * (n - 1) / n where torch's takes var.

    From after = (1 - momentum) * before + momentum * variance each side's batch variance follows; their quotient must
    be one number (n - 1) / n for all channels, with a whole n >= 2. Arrays [channels]; ``momentum`` in torch's meaning.
    """
    if not 0.0 < momentum <= 1.0:
        return None
    wide = [np.asarray(item, np.float64).ravel() for item in (torch_before, torch_after, paddle_before, paddle_after)]
    for calls in range(1, MOST_CALLS + 1):
        found = _biased_variance(wide, 1.0 - (1.0 - momentum) ** calls, atol)
        if found is not None:
            count, residual = found
            about = "about " if calls > 1 or count * count * _COUNT_UNCERTAINTY > 0.5 else ""
            times = f", {calls} calls a step" if calls > 1 else ""
            return KnownDifference(
                "batch_norm_running_variance",
                name,
                f"paddle keeps the biased batch variance: paddle / torch = (n-1)/n, n = {about}{count}{times}; "
                f"residual {residual:.1g}",
            )
    return None


def _biased_variance(wide: Sequence[np.ndarray], share: float, atol: float) -> Optional[Tuple[int, float]]:
    """Return n and what is left of paddle's running variance, if after = (1 - share) * before + share * variance fits it."""
    torch_variance = (wide[1] - (1 - share) * wide[0]) / share
    paddle_variance = (wide[3] - (1 - share) * wide[2]) / share
    weight = dot(torch_variance, torch_variance)
    if not weight or not math.isfinite(weight):
        return None
    quotient = dot(torch_variance, paddle_variance) / weight
    if not 0.4 < quotient < 1.0:
        return None
    count = round(1.0 / (1.0 - quotient))
    expected = (1 - share) * wide[2] + share * torch_variance * (count - 1) / max(count, 1)
    residual = float(np.max(np.abs(wide[3] - expected), initial=0.0))
    explained = float(np.max(np.abs(share * torch_variance), initial=0.0)) / max(count, 1)
    return (count, residual) if count >= 2 and residual <= min(atol, 0.5 * explained) else None


def noise_driven_running_mean(
    name: str,
    before: Tuple[np.ndarray, np.ndarray],
    after: Tuple[np.ndarray, np.ndarray],
    biases: Mapping[str, Tuple[np.ndarray, np.ndarray]],
    momentum: float,
    atol: float,
) -> Optional[KnownDifference]:
    """Recognise a running mean that follows a bias before it, which rounding noise alone moves.

    A batch norm takes the bias of the layer before it away again, so the bias has no gradient but noise, and under Adam it
    wanders; the running mean keeps the trace: its difference d becomes (1 - momentum) d + momentum (difference of biases).
    Pairs are (torch, paddle); ``biases`` are those that only noise moves, as the step's forward used them.
    """
    wide = [np.asarray(item, np.float64) for item in (*before, *after)]
    if not 0.0 < momentum <= 1.0:
        return None
    apart = wide[3] - wide[2]
    for bias, (torch, paddle) in biases.items():
        if torch.shape != apart.shape:
            continue
        moved = np.asarray(paddle, np.float64) - np.asarray(torch, np.float64)
        for calls in range(1, MOST_CALLS + 1):
            share = 1.0 - (1.0 - momentum) ** calls
            residual = float(np.max(np.abs(apart - (1 - share) * (wide[1] - wide[0]) - share * moved), initial=0.0))
            if residual <= atol:
                times = f", {calls} calls a step" if calls > 1 else ""
                return KnownDifference(
                    "noise_driven_running_mean",
                    name,
                    f"follows {bias}, whose gradient is rounding noise: d' = {1 - share:g} d + {share:g} (difference of the "
                    f"biases){times}; residual {residual:.1g}",
                )
    return None


def clip_norm_epsilon(
    torch_raw: Arrays, torch_used: Arrays, paddle_raw: Arrays, paddle_used: Arrays
) -> Tuple[Optional[KnownDifference], float]:
    """Recognise clipping by global norm without torch's 1e-6: torch scales by c / (norm + 1e-6), paddle by c / norm.

    Returns the known difference and the factor paddle / torch of the used gradients that it explains (1.0 if none).
    """
    torch_factor, norm = _clip_factor(torch_raw, torch_used)
    paddle_factor, _ = _clip_factor(paddle_raw, paddle_used)
    if not torch_factor or not paddle_factor or not norm or torch_factor == 1.0:
        return None, 1.0
    found, expected = paddle_factor / torch_factor, (norm + 1e-6) / norm
    if abs(found - expected) > 0.1 * (expected - 1.0):
        return None, 1.0
    return (
        KnownDifference(
            "clip_norm_epsilon",
            "",
            f"paddle clips by c / norm, torch by c / (norm + 1e-6): factor {expected - 1.0:.3g} apart at norm {norm:.6g}; "
            f"residual {abs(found - expected):.1g}",
        ),
        expected,
    )


def _clip_factor(raw: Arrays, used: Arrays) -> Tuple[float, float]:
    """Return the quotient of the global L2 norms of used and raw gradients, and the raw norm."""
    names = [name for name in raw if name in used]
    before = math.sqrt(math.fsum(_square(raw[name]) for name in names))
    after = math.sqrt(math.fsum(_square(used[name]) for name in names))
    return (after / before if before else 0.0), before


def _square(array: np.ndarray) -> float:
    wide = np.asarray(array, np.float64).ravel()
    return dot(wide, wide)
