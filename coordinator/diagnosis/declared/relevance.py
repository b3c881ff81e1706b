"""Settles declared differences that matter only with certain data, by the data of the run."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterable, List, Mapping, Sequence, Set

import numpy as np

from stepalign.coordinator.diagnosis.cause import Finding


def settle_by_data(findings: Sequence[Finding], batches: Iterable[Mapping[str, np.ndarray]]) -> List[Finding]:
    """Return the findings; a padding index that differs does not matter to a run whose whole numbers never hold it.

    ``batches`` are those that the run uses. Where any integer array holds the index, its row is forced or frozen on one
    side only, and the finding stands.
    """
    padding = [finding for finding in findings if finding.cause.code == "padding_idx" and finding.matters]
    if not padding:
        return list(findings)
    held: Set[int] = set()
    for batch in batches:
        for array in batch.values():
            if array.dtype.kind in "iu":
                held.update(int(value) for value in np.unique(array))
    return [
        replace(finding, matters=_is_held(finding, held)) if finding in padding else finding for finding in findings
    ]


def _is_held(finding: Finding, held: Set[int]) -> bool:
    values = [value for value in (finding.torch_value, finding.paddle_value) if value and value.lstrip("-").isdigit()]
    return not values or any(int(value) in held for value in values)
