"""torch's learning-rate schedules: described in common terms, stepped, and read without a model."""

from __future__ import annotations

import warnings
from typing import Any, Dict, List, Optional, Sequence

from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import Scalar, SchedulerSpec
from stepalign.workers.torch_worker.optimizer import learning_rates

_FIELDS = {
    "StepLR": "step_size gamma",
    "MultiStepLR": "milestones gamma",
    "ConstantLR": "factor total_iters",
    "LinearLR": "start_factor end_factor total_iters",
    "ExponentialLR": "gamma",
    "PolynomialLR": "total_iters power",
    "CosineAnnealingLR": "T_max eta_min",
    "CosineAnnealingWarmRestarts": "T_0 T_mult eta_min",
    "CyclicLR": "mode gamma cycle_momentum",
    "OneCycleLR": "total_steps cycle_momentum",
    "ReduceLROnPlateau": "mode factor patience threshold threshold_mode cooldown eps",
    "SequentialLR": "milestones=_milestones",
    "SWALR": "anneal_epochs anneal_strategy=_anneal_strategy",
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
    return any(each.__name__ == "ReduceLROnPlateau" for each in type(scheduler).__mro__)


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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`")
        for number in range(steps):
            if number > 0:
                step_scheduler(scheduler, None if watched is None else float(watched[number - 1]))
            rates.append(learning_rates(optimizer))
    return rates


def _rule(scheduler: Any) -> str:
    """Name the schedule's rule: torch's class name, or the class name of a user's own schedule."""
    return type(scheduler).__name__


def _converted(kind: str, scheduler: Any) -> Dict[str, Scalar]:
    """Give the arguments that are not kept under their name."""
    values: Dict[str, Scalar] = {}
    if kind == "MultiStepLR":
        values["milestones"] = tuple(sorted(scheduler.milestones.elements()))
    if kind == "CyclicLR":
        values["max_lr"] = _common(scheduler.max_lrs)
        values["base_lr"] = _common(scheduler.base_lrs)
        values["step_size_up"] = round(scheduler.total_size * scheduler.step_ratio)
        values["step_size_down"] = round(scheduler.total_size * (1 - scheduler.step_ratio))
    if kind == "OneCycleLR":
        groups = scheduler.optimizer.param_groups
        values["max_lr"] = _common([group["max_lr"] for group in groups])
        values["initial_lr"] = _common([_tidy(group["initial_lr"]) for group in groups])
        values["min_lr"] = _common([_tidy(group["min_lr"]) for group in groups])
        values["pct_start"] = _tidy((scheduler._schedule_phases[0]["end_step"] + 1) / scheduler.total_steps)
        values["anneal_strategy"] = scheduler._anneal_func_type
        values["three_phase"] = len(scheduler._schedule_phases) == 3
    if kind == "ReduceLROnPlateau":
        values["min_lr"] = _common(scheduler.min_lrs)
    if kind in ("SequentialLR", "ChainedScheduler"):
        values["schedulers"] = "+".join(_rule(each) for each in scheduler._schedulers)
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


def _common(values: List[float]) -> Scalar:
    """Reduce one number a group to the number, where they are all the same."""
    return values[0] if len(set(values)) == 1 else tuple(values)
