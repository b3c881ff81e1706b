"""What every optimizer rule starts from and gives back: hyper-parameters by torch's names, state slots, terms of decay.

A slot that the state lacks has its initial value. A prediction bears the size of its terms before they cancel, from
which `update_residual` derives what rounding may do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stepalign.protocol.specs import Scalar

Float64Array = npt.NDArray[np.float64]

_SLOT_ALIASES = {"prevs": "prev", "learning_rates": "step_size"}


@dataclass(frozen=True)
class Prediction:
    """A parameter and its state after one step, float64, in the parameter's shape (step counts and products are 0-d).

    ``scale`` and ``state_scale`` hold the sum of the absolute terms that made the update and each slot.
    ``parameter_roundings`` is how many times the parameter itself is rounded on the way. ``correction`` is what the
    update gains where the second moment's bias correction is relatively larger (its logarithmic derivative); a power of
    beta kept in low precision moves the whole tensor along it.
    """

    parameter: Float64Array
    state: dict[str, Float64Array]
    scale: Float64Array
    state_scale: dict[str, Float64Array] = field(default_factory=dict)
    parameter_roundings: int = 1
    correction: Float64Array | None = None


class Hyperparameters:
    """Read torch-named hyper-parameters with torch's defaults."""

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        self._values = values

    def number(self, name: str, default: float) -> float:
        """Return a number; a missing or None entry gives the default. Raises TypeError for text or a tuple."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, (str, tuple)):
            raise TypeError(f"hyper-parameter {name}: expected a number, got {value!r}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a truth value; a missing or None entry gives the default."""
        value = self._values.get(name)
        return default if value is None else bool(value)

    def pair(self, first: str, second: str, together: str, default: tuple[float, float]) -> tuple[float, float]:
        """Return two numbers declared apart or as one tuple (``betas``, ``etas``, ``step_sizes``)."""
        both = self._values.get(together)
        if isinstance(both, tuple) and len(both) == 2:
            default = (float(both[0]), float(both[1]))
        return self.number(first, default[0]), self.number(second, default[1])


@dataclass(frozen=True)
class Inputs:
    """One step's inputs after weight decay: ``parameter`` decayed where decoupled, ``gradient`` with coupled terms."""

    hyper: Hyperparameters
    parameter: Float64Array
    gradient: Float64Array
    gradient_scale: Float64Array
    decay_scale: Float64Array
    decayed: bool
    state: Mapping[str, np.ndarray]
    lr: float
    count: int

    def slot(self, name: str, initial: float = 0.0) -> Float64Array:
        """Return an array slot before the step, ``initial`` where the state lacks it."""
        if name in self.state:
            return _float64(self.state[name], self.parameter.shape)
        return np.full(self.parameter.shape, initial)

    def scalar(self, name: str, initial: float) -> float:
        """Return a scalar slot before the step, ``initial`` where the state lacks it."""
        return float(np.ravel(self.state[name])[0]) if name in self.state else self.kept(name, initial)

    def kept(self, name: str, value: float) -> float:
        """Round a scalar slot to the precision that the state keeps it in."""
        known = self.state.get(name)
        narrow = self.hyper.flag("float32_scalars") if known is None else known.dtype == np.float32
        return float(np.float32(value)) if narrow else value

    def finish(
        self,
        update: Float64Array,
        scale: Float64Array,
        state: Mapping[str, tuple[Float64Array, Float64Array]],
        roundings: int = 1,
        correction: Float64Array | None = None,
        **counts: float,
    ) -> Prediction:
        """Return the prediction: ``update`` is subtracted, ``state`` holds (value, scale), ``counts`` scalar slots."""
        values = {name: value for name, (value, _) in state.items()}
        values.update({name: np.asarray(value, dtype=np.float64) for name, value in counts.items()})
        scales = {name: size for name, (_, size) in state.items()}
        scales.update({name: np.asarray(abs(value), dtype=np.float64) for name, value in counts.items()})
        roundings += 2 if self.decayed else 0
        return Prediction(self.parameter - update, values, scale + self.decay_scale, scales, roundings, correction)


def canonical_slots(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename slots that paddle calls differently (Rprop's ``prevs``, ``learning_rates``) to torch's names."""
    return {_SLOT_ALIASES.get(slot, slot): value for slot, value in state.items()}


def _float64(array: np.ndarray, shape: tuple[int, ...]) -> Float64Array:
    values = np.asarray(array, dtype=np.float64)
    return values if values.shape == shape else np.broadcast_to(values.reshape(-1)[:1], shape).reshape(shape)


def decay_terms(rule: str, hyper: Hyperparameters, lr: float) -> tuple[float, float, float]:
    """Return the factors of coupled (L2) decay and of L1 decay, and the share that decoupled decay takes off a
    parameter.
    """
    decay = hyper.number("weight_decay", 0.01 if rule == "AdamW" else 0.0)
    decoupled = hyper.flag("decoupled_weight_decay", rule == "AdamW")
    coupled = hyper.number("coupled_weight_decay", 0.0) + (0.0 if decoupled else decay)
    return coupled, hyper.number("l1_decay", 0.0), lr * decay if decoupled else 0.0


def betas(hyper: Hyperparameters) -> tuple[float, float]:
    """Return the decay rates of the first and the second moment."""
    return hyper.pair("beta1", "beta2", "betas", (0.9, 0.999))


def bias_corrections(hyper: Hyperparameters, count: int, beta1: float, beta2: float) -> tuple[np.float64, np.float64]:
    """Return 1 - beta^t of both moments for the bias correction; numpy's numbers, as a candidate may ask for t = 0."""
    if not hyper.flag("bias_correction", True):
        return np.float64(1.0), np.float64(1.0)
    t = count + 1 + hyper.number("correction_offset", 0.0)
    first, second = hyper.number("correction_beta1", beta1), hyper.number("correction_beta2", beta2)
    return np.float64(1.0 - first**t), np.float64(1.0 - second**t)


def updates_before(state: Mapping[str, np.ndarray], step: int) -> int:
    """Return how many updates a parameter has had: what its state counts, else ``step``."""
    return round(float(np.ravel(state["step"])[0])) if "step" in state else step


def prepare(
    rule: str,
    hyper: Hyperparameters,
    parameter: np.ndarray,
    gradient: np.ndarray,
    state: Mapping[str, np.ndarray],
    lr: float,
    step: int,
) -> Inputs:
    """Apply maximize, scaling and weight decay, so that a formula sees the gradient it works on."""
    p = np.asarray(parameter, dtype=np.float64)
    g = np.asarray(gradient, dtype=np.float64) * hyper.number("gradient_scale", 1.0)
    if hyper.flag("maximize"):
        g = -g
    coupled, l1, shrink = decay_terms(rule, hyper, lr)
    size = np.abs(g)
    if coupled != 0.0:
        g, size = g + coupled * p, size + np.abs(coupled * p)
    if l1 != 0.0:
        g, size = g + l1 * np.sign(p), size + abs(l1)
    count = updates_before(state, step)
    return Inputs(hyper, p * (1.0 - shrink), g, size, np.abs(shrink * p), shrink != 0.0, state, lr, count)
