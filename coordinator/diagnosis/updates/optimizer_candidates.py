"""The ways in which a port's optimizer can differ from torch's: knobs to fit and switches to flip.

Each is a change to torch's rule and hyper-parameters; `optimizer_fit` tries them on paddle's numbers. Keys that begin
with ``_`` are read by the fit itself: ``_rate`` scales the rate of a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stepalign.coordinator.comparison.rule_inputs import Hyperparameters
from stepalign.coordinator.diagnosis.cause import Category
from stepalign.coordinator.diagnosis.declared.common_terms import as_float
from stepalign.coordinator.diagnosis.declared.counterparts import optimizer_argument, torch_default, write
from stepalign.protocol.specs import Scalar

Hyper = Mapping[str, Scalar]
_ADAM_LIKE = frozenset({"Adam", "AdamW", "NAdam", "RAdam", "Adamax"})
_DECADES = tuple(10.0**power for power in range(-16, 1))
_COMPLEMENTS = (0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.08, 0.05, 0.04, 0.03, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)
_BETAS = (0.0, *(1.0 - value for value in _COMPLEMENTS))
_DECAYS = (0.0, 1e-6, 1e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0)
_FACTORS = (-1.0, 0.01, 0.05, 0.1, 0.2, 0.25, 1 / 3, 0.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0, 16.0, 100.0)


_WITHOUT_ARGUMENT = {"_rate": 1.0, "gradient_scale": 1.0}


def torch_value(rule: str, hyper: Hyper, key: str) -> float:
    """Return what torch's side has for a knob: the declared value, else torch's default."""
    if key in _WITHOUT_ARGUMENT:
        return Hyperparameters(hyper).number(key, _WITHOUT_ARGUMENT[key])
    default = as_float(torch_default(optimizer_argument(rule, key)))
    reader = Hyperparameters(hyper)
    if key in ("beta1", "beta2"):
        return reader.pair("beta1", "beta2", "betas", (0.9, 0.999))[key == "beta2"]
    return reader.number(key, default)


@dataclass(frozen=True)
class Knob:
    """A number to solve for: ``grid`` holds first guesses, ``apply`` sets a value, ``code`` names what it means.

    ``decays`` marks weight decay in any form. ``cost`` ranks explanations that fit equally well, the simpler first.
    """

    name: str
    grid: tuple[float, ...]
    category: Category
    code: str
    apply: Callable[[Hyper, float], Hyper]
    cost: float = 2.0
    decays: bool = False
    complement: bool = False
    least: float = -math.inf
    greatest: float = math.inf


@dataclass(frozen=True)
class Switch:
    """A change without a number: another rule, a flag, a form of the formula. ``rule`` is empty where it stays."""

    name: str
    category: Category
    code: str
    apply: Callable[[Hyper], Hyper]
    evidence: str
    fix: str
    rule: str = ""
    cost: float = 1.0
    decays: bool = False


def knobs(rule: str, hyper: Hyper, decays_in_use: Sequence[float]) -> list[Knob]:
    """Return the numbers that ``rule`` depends on; ``decays_in_use`` are torch's weight decays, good first guesses."""
    reader = Hyperparameters(hyper)
    decay_grid = tuple(dict.fromkeys((*decays_in_use, *_DECAYS)))
    found = [_setting("weight_decay", decay_grid, Category.WEIGHT_DECAY, "decay_value", decays=True, cost=1.5)]
    if reader.flag("decoupled_weight_decay", rule == "AdamW"):
        found.append(
            _setting(
                "coupled_weight_decay", decay_grid, Category.WEIGHT_DECAY, "extra_regularizer", decays=True, cost=2.5
            )
        )
    found.append(_setting("l1_decay", decay_grid, Category.WEIGHT_DECAY, "l1_decay", decays=True, cost=2.5))
    found.append(_setting("_rate", _FACTORS, Category.HYPERPARAMETER, "lr_multiplier", cost=2.5))
    found.append(_setting("gradient_scale", _FACTORS, Category.OPTIMIZER, "gradient_scale", cost=2.6))
    if rule in _ADAM_LIKE:
        for beta in ("beta1", "beta2"):
            found.append(
                _setting(beta, _BETAS, Category.HYPERPARAMETER, beta, complement=True, least=0.0, greatest=1 - 1e-9)
            )
    if rule in (*_ADAM_LIKE, "RMSprop", "Adadelta", "Adagrad"):
        found.append(_setting("eps", (0.0, *_DECADES), Category.HYPERPARAMETER, "optimizer_epsilon", least=0.0))
    if rule in ("SGD", "RMSprop") and reader.number("momentum", 0.0):
        found.append(_setting("momentum", _BETAS, Category.HYPERPARAMETER, "momentum", complement=True, least=0.0))
    if rule == "SGD" and reader.number("momentum", 0.0):
        found.append(_setting("dampening", _BETAS, Category.HYPERPARAMETER, "dampening"))
    smoothing = {"RMSprop": "alpha", "Adadelta": "rho"}.get(rule)
    if smoothing:
        found.append(
            _setting(smoothing, _BETAS, Category.HYPERPARAMETER, "smoothing_constant", complement=True, least=0.0)
        )
    if rule == "NAdam":
        found.append(_setting("momentum_decay", (0.0, *_DECAYS), Category.HYPERPARAMETER, "momentum_decay"))
    if rule == "Adagrad":
        found.append(_setting("lr_decay", (0.0, *_DECAYS), Category.HYPERPARAMETER, "lr_decay"))
        found.append(
            _setting("initial_accumulator_value", (0.0, *_DECAYS), Category.HYPERPARAMETER, "initial_accumulator")
        )
    return found


def _setting(
    key: str,
    grid: tuple[float, ...],
    category: Category,
    code: str,
    cost: float = 2.0,
    decays: bool = False,
    complement: bool = False,
    least: float = -math.inf,
    greatest: float = math.inf,
) -> Knob:
    def apply(hyper: Hyper, value: float) -> Hyper:
        return {**hyper, "eps_inside_sqrt" if key == "eps" and "eps_inside_sqrt" in hyper else key: value}

    return Knob(key, grid, category, code, apply, cost, decays, complement, least, greatest)


def switches(rule: str, hyper: Hyper) -> list[Switch]:
    """Return the changes of form that a port of ``rule`` can suffer."""
    reader = Hyperparameters(hyper)
    momentum = reader.number("momentum", 0.0)
    decoupled = reader.flag("decoupled_weight_decay", rule == "AdamW")
    found = [
        Switch(
            "maximize",
            Category.OPTIMIZER,
            "maximize",
            _with(maximize=not reader.flag("maximize")),
            "paddle steps along the gradient where torch steps against it",
            "negate the loss as torch's maximize does: paddle's optimizers have no maximize",
        )
    ]
    if rule in ("Adam", "AdamW", "NAdam", "RAdam"):
        found.append(_coupling(decoupled))
    if rule == "SGD" and momentum:
        nesterov = reader.flag("nesterov")
        found += [
            Switch(
                "nesterov",
                Category.OPTIMIZER,
                "nesterov_missing" if nesterov else "nesterov_added",
                _with(nesterov=not nesterov),
                f"paddle's updates fit momentum {'without' if nesterov else 'with'} Nesterov's step",
                f"{write(optimizer_argument('SGD', 'nesterov'), 'nesterov', nesterov)} in paddle.optimizer.Momentum(...)",
            ),
            Switch(
                "plain",
                Category.OPTIMIZER,
                "momentum_missing",
                _with(momentum=0.0, nesterov=False),
                "paddle's updates are -lr * gradient: plain SGD, no velocity",
                f"use paddle.optimizer.Momentum(momentum={momentum:g}, ...) in place of paddle.optimizer.SGD",
            ),
        ]
        if reader.number("dampening", 0.0):
            found.append(
                Switch(
                    "dampening",
                    Category.HYPERPARAMETER,
                    "dampening",
                    _with(dampening=0.0),
                    f"paddle's velocity takes the whole gradient, torch {1 - reader.number('dampening', 0.0):g} of it",
                    "paddle.optimizer.Momentum has no dampening: scale the gradients, or drop it in torch too",
                )
            )
    if rule in ("Adam", "AdamW"):
        found += _adam_forms(reader)
    if rule == "RMSprop":
        centered = reader.flag("centered")
        found.append(
            Switch(
                "centered",
                Category.HYPERPARAMETER,
                "centered",
                _with(centered=not centered),
                f"paddle's updates fit RMSprop with centered={not centered}",
                f"centered={centered} in paddle.optimizer.RMSProp(...)",
            )
        )
        found.append(
            Switch(
                "verbatim epsilon",
                Category.HYPERPARAMETER,
                "optimizer_epsilon",
                _with(eps_inside_sqrt=reader.number("eps", 1e-8), lr_in_velocity=True),
                "paddle adds torch's epsilon below the root, where it stands for its square root",
                f"{write(optimizer_argument('RMSprop', 'eps'), 'eps', reader.number('eps', 1e-8))} in "
                "paddle.optimizer.RMSProp(...): the square of torch's",
            )
        )
    found += [_other_rule(rule, other, hyper) for other in _RELATIVES.get(rule, ())]
    return found


_RELATIVES = {
    "SGD": ("Adam", "Adagrad", "RMSprop"),
    "Adam": ("NAdam", "RAdam", "Adamax", "SGD"),
    "AdamW": ("NAdam", "RAdam", "Adamax", "SGD"),
    "NAdam": ("Adam", "RAdam"),
    "RAdam": ("Adam", "NAdam"),
    "Adamax": ("Adam",),
    "Adagrad": ("SGD", "RMSprop", "Adadelta"),
    "RMSprop": ("Adam", "Adagrad", "Adadelta"),
    "Adadelta": ("RMSprop", "Adagrad"),
}


def _with(**values: Scalar) -> Callable[[Hyper], Hyper]:
    return lambda hyper: {**hyper, **values}


def _coupling(decoupled: bool) -> Switch:
    if decoupled:
        evidence = "paddle's decay is added to the gradient and passes through the moments (Adam with L2)"
        fix = "use paddle.optimizer.AdamW(...): paddle.optimizer.Adam(weight_decay=...) adds the decay to the gradient"
    else:
        evidence = "paddle's decay shrinks the parameter and bypasses the moments (AdamW)"
        fix = (
            "use paddle.optimizer.Adam(weight_decay=...): paddle.optimizer.AdamW decays the parameter, not the gradient"
        )
    return Switch(
        "coupling",
        Category.OPTIMIZER,
        "coupled_decay" if decoupled else "decoupled_decay",
        _with(decoupled_weight_decay=not decoupled),
        evidence,
        fix,
        decays=True,
    )


def _adam_forms(reader: Hyperparameters) -> list[Switch]:
    amsgrad = reader.flag("amsgrad")
    return [
        Switch(
            "amsgrad",
            Category.HYPERPARAMETER,
            "amsgrad",
            _with(amsgrad=not amsgrad),
            f"paddle's updates fit amsgrad={not amsgrad}",
            f"amsgrad={amsgrad} in the paddle optimizer",
        ),
        Switch(
            "no bias correction",
            Category.OPTIMIZER,
            "bias_correction",
            _with(bias_correction=False),
            "paddle's updates use the moments as they are, without dividing by 1 - beta^t",
            "divide the moments by 1 - beta^t, or use paddle.optimizer.Adam / AdamW, which do",
        ),
        Switch(
            "eps before correction",
            Category.OPTIMIZER,
            "epsilon_placement",
            _with(eps_before_correction=True),
            "paddle's updates add epsilon to sqrt(v) before its bias correction (as the old transformers AdamW did)",
            "use paddle.optimizer.AdamW, which adds epsilon after the correction as torch does",
            cost=1.2,
        ),
        *(
            Switch(
                f"offset {offset:+d}",
                Category.OPTIMIZER,
                "step_count",
                _with(correction_offset=offset),
                f"paddle's bias correction is that of step t{offset:+d}",
                "a sparse (SelectedRows) gradient makes paddle count one step too many: Embedding(sparse=False); "
                "otherwise load the optimizer's step count (beta powers) with its moments",
                cost=1.3,
            )
            for offset in (1, -1)
        ),
    ]


def _other_rule(rule: str, other: str, hyper: Hyper) -> Switch:
    kept = {key: value for key, value in hyper.items() if key not in ("eps", "eps_inside_sqrt", "eps_on_norm")}
    return Switch(
        f"rule {other}",
        Category.OPTIMIZER,
        "other_rule",
        lambda _: {**kept, **({"momentum": 0.0} if other == "SGD" else {})},
        f"paddle's updates follow {other} where torch's follow {rule}",
        f"use the paddle optimizer with torch's rule, {rule}",
        rule=other,
        cost=4.0,
    )
