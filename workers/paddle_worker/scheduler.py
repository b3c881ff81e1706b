"""paddle's learning-rate schedules: described in common terms, stepped, and read without a model."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import Scalar, SchedulerSpec
from stepalign.workers.paddle_worker.optimizer import learning_rates

_TORCH_RULES = {
    "StepDecay": "StepLR",
    "MultiStepDecay": "MultiStepLR",
    "ExponentialDecay": "ExponentialLR",
    "PolynomialDecay": "PolynomialLR",
    "CosineAnnealingDecay": "CosineAnnealingLR",
    "LambdaDecay": "LambdaLR",
    "MultiplicativeDecay": "MultiplicativeLR",
    "ReduceOnPlateau": "ReduceLROnPlateau",
}
_FIELDS = {
    "StepLR": "step_size gamma",
    "MultiStepLR": "milestones gamma",
    "PiecewiseDecay": "boundaries values",
    "LinearLR": "start_factor end_factor total_iters=total_steps",
    "LinearWarmup": "warmup_steps start_lr end_lr",
    "ExponentialLR": "gamma",
    "NaturalExpDecay": "gamma",
    "InverseTimeDecay": "gamma",
    "PolynomialLR": "total_iters=decay_steps power",
    "CosineAnnealingLR": "T_max eta_min",
    "CosineAnnealingWarmRestarts": "T_0 T_mult eta_min",
    "CyclicLR": "mode gamma max_lr base_lr",
    "OneCycleLR": "total_steps",
    "NoamDecay": "d_model warmup_steps",
    "ReduceLROnPlateau": "mode factor patience threshold threshold_mode cooldown eps=epsilon min_lr",
}


def describe_scheduler(scheduler: Any) -> Optional[SchedulerSpec]:
    """Describe a schedule by torch's rule and argument names; None for none."""
    if scheduler is None:
        return None
    kind = _rule(scheduler)
    values: Dict[str, Scalar] = {}
    for field in _FIELDS.get(kind, "").split():
        key, _, attribute = field.partition("=")
        values[key] = _plain(getattr(scheduler, attribute or key, None))
    values.update(_converted(kind, scheduler))
    return SchedulerSpec(kind, f"{type(scheduler).__module__}.{type(scheduler).__qualname__}", values)


def step_scheduler(scheduler: Any, metric: Optional[float]) -> None:
    """Advance a schedule by one step, with the step's loss where it watches one; nothing for None."""
    if scheduler is None:
        return
    if metric is None:
        scheduler.step()
    else:
        scheduler.step(metric)


def watches_loss(scheduler: Any) -> bool:
    """Tell whether a schedule is stepped with the step's loss."""
    return any(each.__name__ == "ReduceOnPlateau" for each in type(scheduler).__mro__)


def read_rates(
    optimizer: Any, scheduler: Any, steps: int, losses: Optional[Sequence[float]] = None
) -> List[List[float]]:
    """Read the rates of the updates 0 to ``steps`` - 1, for each update one rate a group, without a model.

    ``losses`` are what a schedule that watches the loss is stepped with; raises CaseError for one where there are none.
    """
    watched = losses if watches_loss(scheduler) else None
    if watched is None and watches_loss(scheduler):
        raise CaseError("a reduce-on-plateau schedule follows the losses: compare it with `stepalign run`")
    rates = []
    for number in range(steps):
        if number > 0:
            step_scheduler(scheduler, None if watched is None else float(watched[number - 1]))
        rates.append(learning_rates(optimizer))
    return rates


def _rule(scheduler: Any) -> str:
    """Name the schedule's rule: torch's class name, or the class name of a user's own schedule."""
    own = type(scheduler).__name__
    return _TORCH_RULES.get(own, own) if type(scheduler).__module__ == "paddle.optimizer.lr" else own


def _converted(kind: str, scheduler: Any) -> Dict[str, Scalar]:
    """Give the arguments that are not kept under their name."""
    values: Dict[str, Scalar] = {}
    if kind == "PolynomialLR":
        values.update(_unlike(scheduler, "end_lr", 0.0), **_unlike(scheduler, "cycle", False))
    if kind == "CyclicLR":
        values["step_size_up"] = round(scheduler.cycle_size * scheduler.step_up_pct)
        values["step_size_down"] = round(scheduler.cycle_size * (1 - scheduler.step_up_pct))
        values["cycle_momentum"] = False
    if kind == "OneCycleLR":
        values["max_lr"] = float(scheduler._lr_config[1])
        values["initial_lr"] = _tidy(scheduler._lr_config[0])
        values["min_lr"] = _tidy(scheduler._lr_config[-1])
        values["pct_start"] = _tidy((scheduler._step_config[1] + 1) / scheduler.total_steps)
        values["anneal_strategy"] = "cos" if scheduler.anneal_func == scheduler._cos_annealing else "linear"
        values["three_phase"] = len(scheduler._lr_config) == 4
        values["cycle_momentum"] = False
    if kind == "LinearWarmup" and not isinstance(scheduler.learning_rate, float):
        after = describe_scheduler(scheduler.learning_rate)
        if after is not None:
            values["after"] = after.type
            values.update({f"after.{key}": value for key, value in after.hyperparameters.items()})
    return values


def _tidy(value: float) -> float:
    """Round off what a derived number's own rounding added."""
    return float(f"{value:.12g}")


def _plain(value: Any) -> Scalar:
    """Reduce an argument to a plain value: numbers in a row are a tuple, a function is its name."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(getattr(value, "__name__", value))


def _unlike(scheduler: Any, attribute: str, neutral: Any) -> Dict[str, Scalar]:
    """Report an argument that only paddle has, where it is not at the value that makes it vanish."""
    value = getattr(scheduler, attribute)
    return {} if value == neutral else {f"paddle.{attribute}": _plain(value)}
