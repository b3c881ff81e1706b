"""What frameworks are known to do to hyper-parameters: paddle's kernels keep them in float32, in float64 models too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from stepalign.coordinator.comparison.rule_inputs import Hyperparameters
from stepalign.protocol.specs import Scalar

_NEGLIGIBLE_FACTOR = 1e-11


def rounded_hyperparameters(rule: str, hyper: Mapping[str, Scalar]) -> Iterator[tuple[str, Mapping[str, Scalar]]]:
    """Yield the hyper-parameters as declared, then as float32 kernels' attributes keep them, by the variant's name."""
    yield "", hyper
    full: dict[str, Scalar] = {**_DEFAULTS.get(rule, {}), **hyper}
    if isinstance(hyper.get("betas"), tuple):
        full["beta1"], full["beta2"] = Hyperparameters(hyper).pair("beta1", "beta2", "betas", (0.9, 0.999))
    every = {name: _as_float32(value) for name, value in full.items()}
    if every != full:
        yield "float32_hyperparameters", every
    decays = dict(full)
    decays.update({name: every[name] for name in ("weight_decay", "coupled_weight_decay", "l1_decay") if name in every})
    if decays not in (full, every):
        yield "float32_weight_decay", decays
    if rule in ("NAdam", "ASGD"):
        yield "float32_scalars", {**full, "float32_scalars": True}
    if "beta2" in _DEFAULTS.get(rule, {}) and every != full:
        exact = {"correction_beta1": full["beta1"], "correction_beta2": full["beta2"]}
        yield "float32_betas", {**every, **exact}


_ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
_DEFAULTS: dict[str, dict[str, Scalar]] = {
    "Adam": {**_ADAM},
    "AdamW": {**_ADAM, "weight_decay": 0.01},
    "NAdam": {**_ADAM, "momentum_decay": 4e-3},
    "RAdam": {**_ADAM},
    "Adamax": {**_ADAM},
    "Adagrad": {"eps": 1e-10},
    "RMSprop": {"alpha": 0.99, "eps": 1e-8},
    "Adadelta": {"rho": 0.9, "eps": 1e-6},
}


def _as_float32(value: Scalar) -> Scalar:
    return float(np.float32(value)) if isinstance(value, float) else value


def correction_slack(rule: str, hyper: Mapping[str, Scalar], dtype: str) -> float:
    """Return the relative error of a whole update that powers of the betas kept in ``dtype`` can make.

    1 - beta^t with beta^t rounded to half an ULP below 1, eps / 4, is wrong by eps / 4 / (1 - beta) at worst,
    at t = 1; the second moment's counts by half, under the root. RAdam's rho loses more, measured 3e-12 in float64.
    """
    if "beta2" not in _DEFAULTS.get(rule, {}):
        return 0.0
    beta1, beta2 = Hyperparameters(hyper).pair("beta1", "beta2", "betas", (0.9, 0.999))
    eps = float(np.finfo(dtype).eps)
    return max(0.25 * eps / max(1.0 - beta1, eps) + 0.25 * eps / max(1.0 - beta2, eps), _NEGLIGIBLE_FACTOR)
