"""Several optimizers of one training, seen as one: groups in order, each parameter with the optimizer that updates it."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from stepalign.protocol.errors import CaseError
from stepalign.protocol.specs import OptimizerSpec, Scalar, SchedulerSpec
from stepalign.workers.capture import Arrays


class OptimizerSet:
    """The optimizers of a script, in the order in which it gave them. ``twin`` is the framework's adapter.

    Raises CaseError where two of them update one parameter.
    """

    def __init__(self, twin: Any, optimizers: Sequence[Any], model: Any) -> None:
        self._twin = twin
        self._model = model
        self.each: Tuple[Any, ...] = tuple(optimizers)
        specs = [twin.describe_optimizer(optimizer, model) for optimizer in self.each]
        self.owned: List[Set[str]] = [{name for group in spec.groups for name in group.parameters} for spec in specs]
        for number, names in enumerate(self.owned):
            twice = names.intersection(*[set().union(*self.owned[:number])])
            if twice:
                raise CaseError(f"two optimizers update {sorted(twice)[0]}: give each parameter to one of them")
        self.spec = specs[0] if len(specs) == 1 else _merge(specs)

    def read_state(self) -> Arrays:
        """Copy the state of all."""
        state: Arrays = {}
        for optimizer in self.each:
            state.update(self._twin.read_optimizer_state(optimizer, self._model))
        return state

    def write_state(self, arrays: Arrays) -> None:
        """Give each optimizer the state of its own parameters; what belongs to none goes to the first, which refuses it."""
        parts: List[Arrays] = [{} for _ in self.each]
        for name, array in arrays.items():
            parameter = name.rpartition("/")[0]
            owner = next((number for number, names in enumerate(self.owned) if parameter in names), 0)
            parts[owner][name] = array
        for optimizer, part in zip(self.each, parts):
            self._twin.write_optimizer_state(optimizer, self._model, part)


def merge_schedulers(specs: Sequence[Optional[SchedulerSpec]]) -> Optional[SchedulerSpec]:
    """Describe several schedules as one; None for none."""
    present = [spec for spec in specs if spec is not None]
    if len(present) < 2:
        return present[0] if present else None
    values: Dict[str, Scalar] = {}
    for number, spec in enumerate(present):
        values.update({f"{number}.{key}": value for key, value in spec.hyperparameters.items()})
    return SchedulerSpec(
        "+".join(spec.type for spec in present), "+".join(spec.framework_class for spec in present), values
    )


def _merge(specs: Sequence[OptimizerSpec]) -> OptimizerSpec:
    """Describe several optimizers as one: of one rule where all have the same, else of a rule that is not known."""
    types = list(dict.fromkeys(spec.type for spec in specs))
    missing = set(specs[0].missing).intersection(*[spec.missing for spec in specs[1:]])
    return OptimizerSpec(
        type="+".join(types),
        framework_class="+".join(dict.fromkeys(spec.framework_class for spec in specs)),
        groups=tuple(group for spec in specs for group in spec.groups),
        effective={name: values for spec in specs for name, values in spec.effective.items()},
        clip=_merged_clip(specs),
        missing=tuple(name for name in specs[0].missing if name in missing),
    )


def _merged_clip(specs: Sequence[OptimizerSpec]) -> Optional[Dict[str, Scalar]]:
    """Describe clipping inside several optimizers, which works on the groups of each alone."""
    clips: List[Dict[str, Scalar]] = []
    clipped: List[int] = []
    first = 0
    for spec in specs:
        if spec.clip is not None:
            own = dict(spec.clip)
            of_it = own.pop("groups_clipped", tuple(range(len(spec.groups))))
            clipped += [first + int(number) for number in of_it]  # type: ignore[union-attr]
            own.pop("scope", None)
            clips.append(own)
        first += len(spec.groups)
    if not clips:
        return None
    merged: Dict[str, Scalar] = dict(clips[0]) if all(clip == clips[0] for clip in clips) else {"type": "several"}
    merged["scope"] = "group"
    if len(clipped) < first:
        merged["groups_clipped"] = tuple(clipped)
    return merged
