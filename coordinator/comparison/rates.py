"""Compares two sequences of rates: float64, relative, every group and step."""

from __future__ import annotations

from typing import Dict, List, Tuple

import numpy as np

from stepalign.coordinator.comparison.comparison import Comparison, compare_values
from stepalign.coordinator.comparison.tolerances import Tolerance
from stepalign.coordinator.sessions.naming import NameMap
from stepalign.protocol.specs import Declaration

RATE_ATOL_PER_PEAK = 1e-15
"""A rate that decays to nothing is rounding noise below this share of the greatest rate."""


def compare_rates(torch: np.ndarray, paddle: np.ndarray, tolerance: Tolerance) -> List[Comparison]:
    """Return one comparison for each group and step that fails, or one that passes for each group if none does.

    torch, paddle: float64 [steps, groups]. A group that one side lacks is a failure by name. A rate of about zero is
    held against the greatest rate of its group: 1e-15 of it is allowed.
    """
    found: List[Comparison] = []
    for group in range(max(torch.shape[1], paddle.shape[1])):
        name = f"group {group}"
        if group >= torch.shape[1] or group >= paddle.shape[1]:
            lacking = "torch" if group >= torch.shape[1] else "paddle"
            counts = sorted((torch.shape[1], paddle.shape[1]))
            reason = f"the {lacking} side has {counts[0]} groups, the other {counts[1]}"
            found.append(
                Comparison(0, "lr", name, name, False, tolerance.rtol, tolerance.atol, None, reason, exact=True)
            )
            continue
        ours, theirs = torch[:, group], paddle[:, group]
        atol = max(tolerance.atol, RATE_ATOL_PER_PEAK * float(np.max(np.abs(ours[np.isfinite(ours)]), initial=0.0)))
        steps = failing_steps(ours, theirs, tolerance.rtol, atol)
        for step in steps or [len(ours) - 1]:
            found.append(
                compare_values(step, "lr", name, name, ours[step], theirs[step], tolerance.rtol, atol, exact=True)
            )
    return sorted(found, key=lambda item: item.step)


def failing_steps(torch: np.ndarray, paddle: np.ndarray, rtol: float, atol: float) -> List[int]:
    """Return the steps at which two rates differ by more than atol + rtol * |torch|, or are not finite."""
    with np.errstate(invalid="ignore"):
        within = np.isfinite(torch) & (np.abs(paddle - torch) <= atol + rtol * np.abs(torch))
    return [int(step) for step in np.flatnonzero(~within)]


def as_lists(rates: np.ndarray) -> List[List[float]]:
    """Return [steps, groups] as lists of Python floats."""
    return [[float(rate) for rate in row] for row in rates]


def pair_groups(names: NameMap, torch: Declaration, paddle: Declaration) -> List[Tuple[int, int, float]]:
    """Return the groups whose rates belong together: (torch's, paddle's, multiplier on paddle's), each pair once.

    Groups are paired by the parameters that they share; sides that declare none, by their place.
    """
    ours = {name: index for index, group in enumerate(torch.optimizer.groups) for name in group.parameters}
    theirs = {name: index for index, group in enumerate(paddle.optimizer.groups) for name in group.parameters}
    pairs: Dict[Tuple[int, int, float], None] = {}
    for piece in names.pieces:
        if piece.torch.tensor in ours and piece.paddle.tensor in theirs:
            factor = paddle.optimizer.effective.get(piece.paddle.tensor, {}).get("lr_multiplier", 1.0)
            own = torch.optimizer.effective.get(piece.torch.tensor, {}).get("lr_multiplier", 1.0)
            quotient = (
                float(factor) / float(own)
                if isinstance(factor, (int, float)) and isinstance(own, (int, float))
                else 1.0
            )
            pairs[ours[piece.torch.tensor], theirs[piece.paddle.tensor], quotient] = None
    if not pairs:
        count = max(len(torch.optimizer.groups), len(paddle.optimizer.groups), 1)
        return [(index, index, 1.0) for index in range(count)]
    return sorted(pairs)
