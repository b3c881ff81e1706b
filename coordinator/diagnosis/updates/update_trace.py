"""What both sides' optimizers did to one parameter, step by step, small enough to try many explanations on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from stepalign.coordinator.comparison.blocks import squares

SAMPLED_ELEMENTS = 4096
_NORM_NAMES = ("norm", "bn", "ln")


@dataclass(frozen=True)
class UpdateRecord:
    """One step of one parameter on one side, arrays in torch's layout.

    ``step`` counts the updates before this one. ``lr`` is what the side says it used. ``gradient`` is raw, before any
    clipping, None where the step left none; ``used_gradient`` as the optimizer took it, None where it is the raw one.
    State slots bear the common names. ``gradient_norm`` is the whole raw gradient's L2 norm, for
    sampled arrays.
    """

    step: int
    lr: float
    before: np.ndarray
    gradient: np.ndarray | None
    used_gradient: np.ndarray | None
    state_before: Mapping[str, np.ndarray]
    after: np.ndarray
    state_after: Mapping[str, np.ndarray]
    gradient_norm: float | None = None

    @property
    def used(self) -> np.ndarray | None:
        """Return the gradient that the optimizer worked with."""
        return self.gradient if self.used_gradient is None else self.used_gradient

    @property
    def norm(self) -> float:
        """Return the raw gradient's L2 norm; 0 without a gradient."""
        if self.gradient_norm is not None:
            return self.gradient_norm
        return 0.0 if self.gradient is None else math.sqrt(squares(self.gradient, self.gradient)[1])

    @property
    def moved(self) -> bool:
        """Say whether the update changed any element."""
        return not np.array_equal(self.before, self.after, equal_nan=True)


@dataclass(frozen=True)
class ParameterTrace:
    """Both sides' records of one parameter, by the same steps. ``role`` and ``module_type`` are the declaration's."""

    torch_name: str
    paddle_name: str
    dtype: str
    torch: tuple[UpdateRecord, ...]
    paddle: tuple[UpdateRecord, ...]
    role: str = ""
    module_type: str = ""
    shape: tuple[int, ...] = field(default=())

    @property
    def moved(self) -> bool:
        """Say whether any step changed it, on either side."""
        return any(record.moved for record in (*self.torch, *self.paddle))

    @property
    def is_bias(self) -> bool:
        """Say whether it is a bias, by its role or name."""
        return "bias" in self.role or self.torch_name.rsplit(".", 1)[-1].startswith("bias")

    @property
    def is_norm(self) -> bool:
        """Say whether it belongs to a normalisation layer, by its module's type or else its module's name."""
        if self.module_type:
            return "norm" in self.module_type.lower()
        parts = self.torch_name.lower().split(".")[:-1]
        return bool(parts) and any(parts[-1].rstrip("0123456789_").endswith(name) for name in _NORM_NAMES)


def sample_trace(trace: ParameterTrace, elements: int = SAMPLED_ELEMENTS) -> ParameterTrace:
    """Return the trace with at most ``elements`` of each array: the same elements everywhere, the same in every run."""
    shape = trace.shape or next((record.before.shape for record in (*trace.torch, *trace.paddle)), ())
    size = int(np.prod(shape))
    chosen = sampled_indices(size, elements)
    return replace(
        trace,
        shape=shape,
        torch=tuple(_sample(record, chosen, size) for record in trace.torch),
        paddle=tuple(_sample(record, chosen, size) for record in trace.paddle),
    )


def sampled_indices(size: int, elements: int = SAMPLED_ELEMENTS) -> npt.NDArray[np.intp]:
    """Return sorted indices into a flat array of ``size``: all, or one at random from each of ``elements`` strata."""
    if size <= elements:
        return np.arange(size, dtype=np.intp)
    edges = np.linspace(0, size, elements + 1)
    places = np.random.default_rng(size).random(elements)
    return np.minimum((edges[:-1] + places * np.diff(edges)).astype(np.intp), size - 1)


def _sample(record: UpdateRecord, chosen: npt.NDArray[np.intp], size: int) -> UpdateRecord:
    def pick(array: np.ndarray) -> np.ndarray:
        flat = np.asarray(array).reshape(-1)
        return flat[chosen] if flat.size == size else flat

    return replace(
        record,
        gradient_norm=record.norm,
        before=pick(record.before),
        gradient=None if record.gradient is None else pick(record.gradient),
        used_gradient=None if record.used_gradient is None else pick(record.used_gradient),
        after=pick(record.after),
        state_before={slot: pick(value) for slot, value in record.state_before.items()},
        state_after={slot: pick(value) for slot, value in record.state_after.items()},
    )


def describe(chosen: Iterable[ParameterTrace], every: Iterable[ParameterTrace]) -> str:
    """Name a subset of parameters: all of them, the biases, the norms, or the first names and a count."""
    some, all_of_them = list(chosen), list(every)
    names = {trace.torch_name for trace in some}
    if len(names) == len(all_of_them):
        return f"all {len(names)} parameters" if len(names) > 1 else some[0].torch_name

    def is_exactly(members: list[ParameterTrace]) -> bool:
        return len(members) > 1 and names == {trace.torch_name for trace in members}

    biases = [trace for trace in all_of_them if trace.is_bias]
    norms = [trace for trace in all_of_them if trace.is_norm]
    for members, what in (
        (biases, "biases"),
        (norms, "norm parameters"),
        ([trace for trace in norms if not trace.is_bias], "norm weights"),
        ([trace for trace in all_of_them if trace.is_bias or trace.is_norm], "biases and norm parameters"),
        ([trace for trace in all_of_them if not trace.is_bias and not trace.is_norm], "weights outside norms"),
    ):
        if is_exactly(members):
            return f"all {len(names)} {what} ({_first(names)})"
    kinds = (
        "biases: "
        if all(trace.is_bias for trace in some)
        else "norms: "
        if all(trace.is_norm for trace in some)
        else ""
    )
    return f"{len(names)} of {len(all_of_them)} parameters ({kinds}{_first(names)})"


def _first(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown}, ..."
