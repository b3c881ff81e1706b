"""What an optimizer rule makes of one parameter in one step, in float64, from the side's own gradient and state.

Comparing two sides' updates directly is misleading: Adam-like rules turn rounding noise in a gradient into a move of
O(lr). Judging each side's update *given its own inputs* is free of that noise. The formulas are torch's
(torch 2.13, ``torch/optim/<rule>.py``, ``_single_tensor_<rule>``); keys that torch has no name for describe how
another framework differs from them:

- ``eps_inside_sqrt`` (True, or the epsilon there in place of ``eps``), ``lr_in_velocity`` (RMSprop): paddle's kernel;
- ``eps_on_norm`` (Adamax): paddle's ``max(|g|, beta2 * u + eps)``;
- ``bias_correction`` False, ``eps_before_correction`` (eps added to sqrt(v) before its correction, the old
  transformers AdamW), ``correction_offset`` (steps that the correction runs ahead) for the Adam family;
- ``correction_beta1``, ``correction_beta2``: betas of the bias correction where they differ from the moments';
- ``float32_scalars``: scalar slots that the state lacks as yet are float32 (torch keeps ``mu_product``, ``eta`` so);
- ``gradient_scale``, ``maximize``, ``coupled_weight_decay`` (L2 beside decoupled decay), ``l1_decay`` for every rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from stepalign.coordinator.comparison.rule_inputs import (
    Float64Array,
    Hyperparameters,
    Inputs,
    Prediction,
    betas,
    bias_corrections,
    canonical_slots,
    prepare,
)
from stepalign.protocol.specs import Scalar


def predict(
    rule: str,
    hyper: Mapping[str, Scalar],
    parameter: np.ndarray,
    gradient: np.ndarray,
    state: Mapping[str, np.ndarray],
    lr: float,
    step: int,
) -> Prediction | None:
    """Return the parameter and state after one step of torch's ``rule``, or None where the rule is unknown.

    parameter, gradient: the same shape, any float dtype, before the step; the gradient as the optimizer used it.
    state: slots before the step under common names, in the parameter's shape. lr: with any per-parameter multiplier.
    step: how many updates the parameter has had, used where the state keeps no count itself.
    Raises ValueError when shapes differ, TypeError when a hyper-parameter is not a number.
    """
    formula = _FORMULAS.get(rule)
    if formula is None:
        return None
    if parameter.shape != gradient.shape:
        raise ValueError(f"expected a gradient of shape {parameter.shape}, got {gradient.shape}")
    with np.errstate(all="ignore"):
        return formula(prepare(rule, Hyperparameters(hyper), parameter, gradient, canonical_slots(state), lr, step))


def known_rules() -> tuple[str, ...]:
    """Return the names of the rules that `predict` knows."""
    return tuple(_FORMULAS)


def _sgd(x: Inputs) -> Prediction:
    momentum, dampening = x.hyper.number("momentum", 0.0), x.hyper.number("dampening", 0.0)
    if momentum == 0.0:
        return x.finish(x.lr * x.gradient, x.lr * x.gradient_scale, {})
    if "velocity" in x.state:
        old = x.slot("velocity")
        velocity = momentum * old + (1.0 - dampening) * x.gradient
        size = np.abs(momentum * old) + abs(1.0 - dampening) * x.gradient_scale
    else:
        velocity, size = x.gradient, x.gradient_scale
    state = {"velocity": (velocity, size)}
    if x.hyper.flag("nesterov"):
        return x.finish(
            x.lr * (x.gradient + momentum * velocity), x.lr * (x.gradient_scale + abs(momentum) * size), state
        )
    return x.finish(x.lr * velocity, x.lr * size, state)


def _betas(x: Inputs) -> tuple[float, float]:
    return betas(x.hyper)


def _corrections(x: Inputs, beta1: float, beta2: float) -> tuple[np.float64, np.float64]:
    return bias_corrections(x.hyper, x.count, beta1, beta2)


@dataclass(frozen=True)
class _Moments:
    first: Float64Array
    first_scale: Float64Array
    second: Float64Array
    second_scale: Float64Array

    def state(self) -> dict[str, tuple[Float64Array, Float64Array]]:
        return {"moment1": (self.first, self.first_scale), "moment2": (self.second, self.second_scale)}


def _average(
    old: Float64Array, new: Float64Array, size: Float64Array, beta: float
) -> tuple[Float64Array, Float64Array]:
    """Return beta * old + (1 - beta) * new and the sum of the absolute terms, ``size`` being the terms behind new."""
    return beta * old + (1.0 - beta) * new, np.abs(beta * old) + (1.0 - beta) * size


def _moments(x: Inputs, beta1: float, beta2: float) -> _Moments:
    first, first_scale = _average(x.slot("moment1"), x.gradient, x.gradient_scale, beta1)
    second, second_scale = _average(
        x.slot("moment2"), np.square(x.gradient), np.abs(x.gradient) * x.gradient_scale, beta2
    )
    return _Moments(first, first_scale, second, second_scale)


def _with_uncertain_root(scale: Float64Array, square: Float64Array, square_scale: Float64Array) -> Float64Array:
    """Enlarge an update's scale by what cancellation inside the square under its root adds relatively."""
    ratio = np.divide(square_scale, np.abs(square), out=np.ones_like(square), where=square != 0.0)
    return scale * np.maximum(1.0, ratio)


def _known(direction: Float64Array) -> Float64Array:
    return np.where(np.isfinite(direction), direction, 0.0)


def _adam(x: Inputs) -> Prediction:
    beta1, beta2 = _betas(x)
    eps = x.hyper.number("eps", 1e-8)
    moments = _moments(x, beta1, beta2)
    state = moments.state()
    square, square_scale = moments.second, moments.second_scale
    if x.hyper.flag("amsgrad"):
        square = np.maximum(x.slot("moment2_max"), square)
        state["moment2_max"] = (square, np.maximum(square, square_scale))
    first, second = _corrections(x, beta1, beta2)
    if x.hyper.flag("eps_before_correction"):
        denominator = (np.sqrt(square) + eps) / np.sqrt(second)
    else:
        denominator = np.sqrt(square) / np.sqrt(second) + eps
    rate = x.lr / first
    scale = _with_uncertain_root(rate * moments.first_scale / denominator, square, square_scale)
    update = rate * moments.first / denominator
    share = np.sqrt(square / second) / denominator
    return x.finish(update, scale, state, correction=_known(update * share), step=x.count + 1)


def _nadam(x: Inputs) -> Prediction:
    beta1, beta2 = _betas(x)
    eps, decay = x.hyper.number("eps", 1e-8), x.hyper.number("momentum_decay", 4e-3)

    def schedule(t: int) -> float:
        return float(beta1 * (1.0 - 0.5 * 0.96 ** (t * decay)))

    t = x.count + 1
    past = float(np.prod([schedule(i) for i in range(1, t)])) if x.count < 10_000 else 0.0
    product = x.kept("mu_product", x.scalar("mu_product", past) * x.kept("mu_product", schedule(t)))
    moments = _moments(x, beta1, beta2)
    _, correction = _corrections(x, beta1, beta2)
    root = np.sqrt(moments.second / correction)
    denominator = root + eps
    of_gradient = x.lr * (1.0 - schedule(t)) / (1.0 - product)
    of_moment = x.lr * schedule(t + 1) / (1.0 - product * schedule(t + 1))
    update = (of_gradient * x.gradient + of_moment * moments.first) / denominator
    scale = (of_gradient * x.gradient_scale + of_moment * moments.first_scale) / denominator
    scale = _with_uncertain_root(scale, moments.second, moments.second_scale)
    direction = _known(update * root / denominator)
    return x.finish(update, scale, moments.state(), roundings=2, correction=direction, mu_product=product, step=t)


def _radam(x: Inputs) -> Prediction:
    beta1, beta2 = _betas(x)
    eps, t = x.hyper.number("eps", 1e-8), x.count + 1
    moments = _moments(x, beta1, beta2)
    first, second = _corrections(x, beta1, beta2)
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * t * beta2**t / (1.0 - beta2**t)
    update, scale = x.lr * moments.first / first, x.lr * moments.first_scale / first
    if length > 5.0:
        rectifier = np.sqrt((length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length))
        factor = rectifier * np.sqrt(second) / (np.sqrt(moments.second) + eps)
        update, scale = update * factor, scale * factor
        scale = _with_uncertain_root(scale, moments.second, moments.second_scale)
    return x.finish(update, scale, moments.state(), correction=_known(update), step=t)


def _adamax(x: Inputs) -> Prediction:
    beta1, beta2 = _betas(x)
    eps = x.hyper.number("eps", 1e-8)
    moment, moment_scale = _average(x.slot("moment1"), x.gradient, x.gradient_scale, beta1)
    old = beta2 * x.slot("inf_norm")
    if x.hyper.flag("eps_on_norm"):
        norm = np.maximum(np.abs(x.gradient), old + eps)
    else:
        norm = np.maximum(old, np.abs(x.gradient) + eps)
    norm_scale = np.maximum(norm, x.gradient_scale)
    first, _ = _corrections(x, beta1, beta2)
    rate = x.lr / first
    scale = _with_uncertain_root(rate * moment_scale / norm, norm, norm_scale)
    state = {"moment1": (moment, moment_scale), "inf_norm": (norm, norm_scale)}
    update = rate * moment / norm
    return x.finish(update, scale, state, correction=_known(update), step=x.count + 1)


def _adagrad(x: Inputs) -> Prediction:
    eps = x.hyper.number("eps", 1e-10)
    old = x.slot("sum_of_squares", x.hyper.number("initial_accumulator_value", 0.0))
    total, total_scale = old + np.square(x.gradient), old + np.abs(x.gradient) * x.gradient_scale
    rate = x.lr / (1.0 + x.count * x.hyper.number("lr_decay", 0.0))
    root = np.sqrt(total) + eps
    scale = _with_uncertain_root(rate * x.gradient_scale / root, total, total_scale)
    return x.finish(rate * x.gradient / root, scale, {"sum_of_squares": (total, total_scale)}, step=x.count + 1)


def _rmsprop(x: Inputs) -> Prediction:
    alpha, eps = x.hyper.number("alpha", 0.99), x.hyper.number("eps", 1e-8)
    momentum = x.hyper.number("momentum", 0.0)
    square, square_scale = _average(
        x.slot("mean_square"), np.square(x.gradient), np.abs(x.gradient) * x.gradient_scale, alpha
    )
    state = {"mean_square": (square, square_scale)}
    spread, spread_scale = square, square_scale
    if x.hyper.flag("centered"):
        mean, mean_scale = _average(x.slot("mean_gradient"), x.gradient, x.gradient_scale, alpha)
        state["mean_gradient"] = (mean, mean_scale)
        spread, spread_scale = square - np.square(mean), square_scale + 3.0 * np.abs(mean) * mean_scale
    if x.hyper.flag("eps_inside_sqrt"):
        inside = x.hyper.number("eps_inside_sqrt", eps)
        spread = spread + (eps if inside == 1.0 else inside)
        root = np.sqrt(spread)
    else:
        root = np.sqrt(spread) + eps
    move, scale = x.gradient / root, _with_uncertain_root(x.gradient_scale / root, spread, spread_scale)
    inside = x.hyper.flag("lr_in_velocity")
    if inside:
        move, scale = x.lr * move, x.lr * scale
    if momentum > 0.0:
        old = momentum * x.slot("velocity")
        move, scale = old + move, np.abs(old) + scale
        state["velocity"] = (move, scale)
    rate = 1.0 if inside else x.lr
    return x.finish(rate * move, rate * scale, state, step=x.count + 1)


def _adadelta(x: Inputs) -> Prediction:
    rho, eps = x.hyper.number("rho", 0.9), x.hyper.number("eps", 1e-6)
    square, square_scale = _average(
        x.slot("mean_square"), np.square(x.gradient), np.abs(x.gradient) * x.gradient_scale, rho
    )
    past = x.slot("mean_update_square")
    factor = np.sqrt(past + eps) / np.sqrt(square + eps)
    move = factor * x.gradient
    scale = _with_uncertain_root(factor * x.gradient_scale, square + eps, square_scale + eps)
    updates, updates_scale = _average(past, np.square(move), np.abs(move) * scale, rho)
    state = {"mean_square": (square, square_scale), "mean_update_square": (updates, updates_scale)}
    return x.finish(x.lr * move, x.lr * scale, state, step=x.count + 1)


def _asgd(x: Inputs) -> Prediction:
    decay, alpha = x.hyper.number("lambd", 1e-4), x.hyper.number("alpha", 0.75)
    eta = x.scalar("eta", x.lr / (1.0 + decay * x.lr * x.count) ** alpha)
    later = x.kept("eta", x.lr / (1.0 + decay * x.lr * (x.count + 1)) ** alpha)
    shrink = decay * eta * x.parameter
    update, scale = shrink + eta * x.gradient, np.abs(shrink) + eta * x.gradient_scale
    return x.finish(update, scale, {}, roundings=3, eta=later, step=x.count + 1)


def _rprop(x: Inputs) -> Prediction:
    slower, faster = x.hyper.pair("etaminus", "etaplus", "etas", (0.5, 1.2))
    least, greatest = x.hyper.pair("step_size_min", "step_size_max", "step_sizes", (1e-6, 50.0))
    agreement = np.sign(x.gradient * x.slot("prev"))
    factor = np.where(agreement > 0, faster, np.where(agreement < 0, slower, 1.0))
    size = np.clip(x.slot("step_size", x.lr) * factor, least, greatest)
    gradient = np.where(agreement < 0, 0.0, x.gradient)
    state = {"prev": (gradient, np.abs(gradient)), "step_size": (size, size)}
    return x.finish(np.sign(gradient) * size, size, state, step=x.count + 1)


_FORMULAS: dict[str, Callable[[Inputs], Prediction]] = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adam,
    "NAdam": _nadam,
    "RAdam": _radam,
    "Adamax": _adamax,
    "Adagrad": _adagrad,
    "RMSprop": _rmsprop,
    "Adadelta": _adadelta,
    "ASGD": _asgd,
    "Rprop": _rprop,
}
