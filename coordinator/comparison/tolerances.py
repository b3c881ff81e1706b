"""The one table of tolerances: by kind and dtype, from measured noise of correct ports, overridable in the case.

Measured on correct ports of five models by two optimizers (torch 2.13.0 and paddle 3.3.1 on CPU): at the initial
weights losses agree to 1e-7 and gradients to 4e-6 of each tensor's greatest element in float32; in float64, where
paddle keeps some constants in float32, to 4e-7. Each value here is five or more times above what was seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping

from stepalign.coordinator.cases.case import ToleranceEntry


@dataclass(frozen=True)
class Tolerance:
    """What is allowed between two values of one kind.

    rtol, atol: |torch - paddle| <= atol + rtol * |torch|, element by element.
    of_tensor: a further allowance as a part of the tensor's greatest magnitude.
    of_model: a further allowance as a part of the greatest magnitude among all tensors of the kind: what is smaller is
    rounding noise of sums that cancel (a bias whose exact gradient is zero).
    per_drift: a further allowance, as a part of the tensor's greatest magnitude, for each unit of relative drift that
    the parameters have already had when the step began.
    """

    rtol: float
    atol: float
    of_tensor: float = 0.0
    of_model: float = 0.0
    per_drift: float = 0.0


_EXACT = Tolerance(0.0, 0.0)

_TABLE: Dict[str, Dict[str, Tolerance]] = {
    "float32": {
        "batch": _EXACT,
        "initial_parameter": _EXACT,
        "lr": Tolerance(1e-11, 1e-18),
        "activation": Tolerance(0.0, 0.0, of_tensor=1e-5, per_drift=50.0),
        "loss": Tolerance(1e-5, 0.0, per_drift=5.0),
        "gradient": Tolerance(0.0, 0.0, of_tensor=2e-5, of_model=1e-6, per_drift=50.0),
        "optimizer_state": Tolerance(0.0, 0.0, of_tensor=1e-4, of_model=2e-6, per_drift=100.0),
        "parameter": Tolerance(2.5e-7, 0.0, of_tensor=2e-4, per_drift=100.0),
        "buffer": Tolerance(1e-5, 0.0, of_tensor=1e-5, per_drift=50.0),
    },
    "float64": {
        "batch": _EXACT,
        "initial_parameter": _EXACT,
        "lr": Tolerance(1e-11, 1e-18),
        "activation": Tolerance(0.0, 0.0, of_tensor=1e-6, per_drift=50.0),
        "loss": Tolerance(1e-6, 0.0, per_drift=5.0),
        "gradient": Tolerance(0.0, 0.0, of_tensor=2e-6, of_model=1e-8, per_drift=50.0),
        "optimizer_state": Tolerance(0.0, 0.0, of_tensor=1e-5, of_model=2e-8, per_drift=100.0),
        "parameter": Tolerance(5e-16, 0.0, of_tensor=2e-5, per_drift=100.0),
        "buffer": Tolerance(1e-7, 0.0, of_tensor=1e-6, per_drift=50.0),
    },
}


def tolerances(dtype: str, overrides: Mapping[str, ToleranceEntry]) -> Dict[str, Tolerance]:
    """Return the tolerance of each kind. What a case sets for a kind replaces the whole entry of that kind."""
    table = dict(_TABLE[dtype])
    for kind, entry in overrides.items():
        default = table[kind]
        table[kind] = Tolerance(
            rtol=default.rtol if entry.rtol is None else entry.rtol,
            atol=default.atol if entry.atol is None else entry.atol,
        )
    return table
