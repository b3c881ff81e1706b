"""Compares what both sides declare before the first step: what matters is found even if no step would show it.

Values that are equal in meaning are no findings: a float32 of the same number, an absent argument and its default, a
grouping that resolves to the same rule for every parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from stepalign.coordinator.atlas.pairing import Argument
from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.diagnosis.declared.common_terms import SCHEDULER_ARGUMENTS, same_value
from stepalign.coordinator.diagnosis.declared.counterparts import neutral, schedule_argument, torch_default, write
from stepalign.coordinator.diagnosis.declared.preflight_modules import compare_modules
from stepalign.coordinator.diagnosis.declared.preflight_optimizer import compare_optimizers
from stepalign.coordinator.diagnosis.declared.preflight_pairs import resolve
from stepalign.coordinator.diagnosis.wording import count, names, number
from stepalign.protocol.specs import Declaration, Scalar, SchedulerSpec, TensorSpec

_END_RATE = {("OneCycleLR", "min_lr"): "end_learning_rate"}
"""What is declared as torch computes it from other arguments, and paddle takes as an argument."""
_PLATEAU = "ReduceLROnPlateau"
_MOMENTUM_CYCLERS = frozenset({"OneCycleLR", "CyclicLR"})


def compare_declarations(
    torch: Declaration,
    paddle: Declaration,
    tensor_pairs: Sequence[tuple[str, str]],
    module_pairs: Sequence[tuple[str, str]],
    mode: str,
    dropout: str = "own",
    undeclared: Collection[str] = (),
) -> list[Finding]:
    """Return the declared differences, those that matter first, then the surest.

    ``tensor_pairs`` holds (torch name, paddle name), a torch name once for each paddle tensor that is a part of it;
    ``module_pairs`` holds (torch path, paddle path). ``mode`` is ``"eval"`` or ``"train"``;
    ``dropout`` is ``"own"`` where each side draws its own masks, ``"shared"`` where both draw the same. ``undeclared`` are the
    sides that only may do something between backward and update.
    """
    torch_index, paddle_index = _index(torch.tensors), _index(paddle.tensors)
    pairs = [(torch_index[t], paddle_index[p]) for t, p in tensor_pairs if t in torch_index and p in paddle_index]
    parameters = [(t, p) for t, p in pairs if t.kind == "parameter" and p.kind == "parameter"]
    trained = [(t, p) for t, p in parameters if t.trainable and p.trainable]
    findings = [
        *_trainable(torch, paddle, parameters),
        *_dtypes(pairs),
        *compare_modules(torch, paddle, module_pairs, mode, dropout),
        *compare_optimizers(torch, paddle, trained),
        *_schedulers(torch, paddle),
        *_clipping(torch, paddle, undeclared),
    ]
    return sorted(findings, key=lambda finding: (not finding.matters, -finding.cause.confidence))


def _index(tensors: Sequence[TensorSpec]) -> dict[str, TensorSpec]:
    index = {alias: tensor for tensor in tensors for alias in tensor.aliases}
    index.update({tensor.name: tensor for tensor in tensors})
    return index


def _trainable(
    torch: Declaration, paddle: Declaration, parameters: Sequence[tuple[TensorSpec, TensorSpec]]
) -> Iterator[Finding]:
    moved = resolve(torch.optimizer).keys(), resolve(paddle.optimizer).keys()
    for frozen_in_paddle in (True, False):
        found = [(t, p) for t, p in parameters if t.trainable == frozen_in_paddle and p.trainable != frozen_in_paddle]
        if not found:
            continue
        listed = names(p.name for _, p in found)
        still = [(t, p) for t, p in found if (t.name not in moved[0] if frozen_in_paddle else p.name not in moved[1])]
        matters = len(still) < len(found)
        shown = found[0] if not matters else next(pair for pair in found if pair not in still)
        if frozen_in_paddle:
            cause = Cause(
                Category.FROZEN_PARAMETER,
                "frozen",
                0.97 if matters else 0.3,
                f"{count(len(found), 'parameter')} trained in torch but frozen in paddle: {listed}",
                f"set stop_gradient=False on {listed} (a paddle parameter's trainable=True)",
            )
            yield Finding(cause, "gradient", shown[0].name, shown[1].name, matters, "trainable", "frozen")
        else:
            cause = Cause(
                Category.FROZEN_PARAMETER,
                "not_frozen",
                0.97 if matters else 0.3,
                f"{count(len(found), 'parameter')} frozen in torch but trained in paddle: {listed}",
                f"set stop_gradient=True on {listed} before building the optimizer",
            )
            yield Finding(cause, "gradient", shown[0].name, shown[1].name, matters, "frozen", "trainable")


def _dtypes(pairs: Sequence[tuple[TensorSpec, TensorSpec]]) -> Iterator[Finding]:
    differing: dict[tuple[str, str, str], list[tuple[TensorSpec, TensorSpec]]] = {}
    for torch, paddle in pairs:
        if torch.dtype != paddle.dtype and "float" in torch.dtype and "float" in paddle.dtype:
            differing.setdefault((torch.kind, torch.dtype, paddle.dtype), []).append((torch, paddle))
    for (kind, ours, theirs), found in differing.items():
        cause = Cause(
            Category.PRECISION,
            "dtype",
            0.97,
            f"{count(len(found), kind)} of {ours} in torch and of {theirs} in paddle: "
            f"{names(p.name for _, p in found)}",
            f"call paddle.set_default_dtype('{ours}') before building the model, or model.to(dtype='{ours}')",
        )
        yield Finding(cause, kind, found[0][0].name, found[0][1].name, True, ours, theirs)


def _schedulers(torch: Declaration, paddle: Declaration) -> Iterator[Finding]:
    ours, theirs = torch.scheduler, paddle.scheduler
    if ours is not None and theirs is not None and ours.type == theirs.type:
        yield from _scheduler_arguments(ours, theirs)
    if ours is not None and ours.type in _MOMENTUM_CYCLERS and ours.hyperparameters.get("cycle_momentum"):
        cause = Cause(
            Category.SCHEDULE,
            "momentum_cycling",
            0.9,
            f"torch's {ours.type} moves the momentum too (cycle_momentum=True); paddle's never does",
            f"there is no paddle argument: use cycle_momentum=False in torch's {ours.type} to compare",
        )
        yield Finding(cause, "optimizer_state", "", "", True, "cycle_momentum=True", None)
    if (ours is None) != (theirs is None):
        only, other = ("torch", "paddle") if theirs is None else ("paddle", "torch")
        name = (ours or theirs).framework_class  # type: ignore[union-attr]
        cause = Cause(
            Category.SCHEDULE,
            "scheduler_missing",
            0.4,
            f"{only} declares the schedule {name}, {other} none",
            "pass the scheduler in Training(scheduler=...) and give it to the paddle optimizer as learning_rate",
        )
        yield Finding(cause, "lr", "", "", False, _class(ours), _class(theirs))
    if torch.scheduler_metric != paddle.scheduler_metric and ours is not None and theirs is not None:
        cause = Cause(
            Category.SCHEDULE,
            "scheduler_metric",
            0.9,
            f"torch's scheduler is stepped with {torch.scheduler_metric or 'nothing'}, "
            f"paddle's with {paddle.scheduler_metric or 'nothing'}",
            f"scheduler_metric={torch.scheduler_metric!r} in the paddle side's Training(...)",
        )
        matters = _PLATEAU in (ours.type, theirs.type)
        yield Finding(cause, "lr", "", "", matters, torch.scheduler_metric, paddle.scheduler_metric)


def _class(scheduler: SchedulerSpec | None) -> str | None:
    return None if scheduler is None else scheduler.framework_class


def _scheduler_arguments(ours: SchedulerSpec, theirs: SchedulerSpec) -> Iterator[Finding]:
    for key in SCHEDULER_ARGUMENTS.get(ours.type, ()):
        argument = schedule_argument(ours.type, key)
        default = neutral(argument) if key.startswith("paddle.") else torch_default(argument)
        torch_value = ours.hyperparameters.get(key, default)
        paddle_value = theirs.hyperparameters.get(key, default)
        if torch_value is None or paddle_value is None or same_value(torch_value, paddle_value):
            continue
        if key == "min_lr" and not same_value(ours.hyperparameters.get("max_lr"), theirs.hyperparameters.get("max_lr")):
            continue
        call = f"paddle.optimizer.lr.{theirs.framework_class.rsplit('.', 1)[-1]}(...)"
        name = _END_RATE.get((ours.type, key), key.removeprefix("paddle."))
        written = (
            f"{name}={number(torch_value)}"
            if argument is None or not argument.torch
            else write(argument, key, torch_value)
        )
        cause = Cause(
            Category.SCHEDULE,
            "scheduler_argument",
            0.9,
            f"{key.removeprefix('paddle.')} of {ours.type} is {number(torch_value)} in torch "
            f"and {number(paddle_value)} in paddle{_paddle_default(argument, paddle_value)}",
            f"{written} in {call}",
        )
        yield Finding(cause, "lr", "", "", True, number(torch_value), number(paddle_value))


def _paddle_default(argument: Argument | None, value: Scalar) -> str:
    at_default = argument is not None and not argument.torch and argument.paddle_default == value
    return f", which is paddle's default of {argument.paddle}" if argument is not None and at_default else ""


def _clipping(torch: Declaration, paddle: Declaration, undeclared: Collection[str]) -> Iterator[Finding]:
    """Find clipping that only paddle has, and hint at what torch's after_backward may do.

    A torch side without after_backward clips nothing, so a ``grad_clip`` of paddle's is a difference even if its limit
    was never reached. What an after_backward does is not declared: the numbers tell; of ``undeclared`` sides it is not
    even declared whether there is one.
    """
    ours = torch.optimizer.clip is not None or torch.has_after_backward
    theirs = paddle.optimizer.clip is not None or paddle.has_after_backward
    if ours and not theirs and (torch.optimizer.clip is not None or "torch" not in undeclared):
        cause = Cause(
            Category.GRADIENT_CLIPPING,
            "not_clipped",
            0.5,
            "torch has an after_backward step (clipping, usually); paddle has neither grad_clip nor after_backward",
            "grad_clip=paddle.nn.ClipGradByGlobalNorm(...) in the paddle optimizer, or after_backward in its "
            "Training(...)",
        )
        yield Finding(cause, "parameter", "", "", False, "after_backward", None)
    if theirs and not ours and (paddle.optimizer.clip is not None or "paddle" not in undeclared):
        cause = Cause(
            Category.GRADIENT_CLIPPING,
            "only_paddle_clips",
            0.9 if paddle.optimizer.clip is not None else 0.5,
            f"paddle clips ({_clip(paddle)}); torch has no after_backward step",
            "remove grad_clip from the paddle optimizer, or add the same clipping to torch's after_backward",
        )
        yield Finding(cause, "gradient", "", "", paddle.optimizer.clip is not None, None, _clip(paddle))
    clip = paddle.optimizer.clip
    if clip is not None and clip.get("type") == "global_norm" and clip.get("scope") == "group" and ours:
        cause = Cause(
            Category.GRADIENT_CLIPPING,
            "norm_per_group",
            0.5,
            f"ClipGradByGlobalNorm with {len(paddle.optimizer.groups)} parameter groups clips each group by its own "
            "norm; "
            "torch's clip_grad_norm_ takes the norm over all parameters",
            "clip in after_backward with paddle.nn.utils.clip_grad_norm_(model.parameters(), max_norm) instead of "
            "grad_clip",
        )
        yield Finding(cause, "parameter", "", "", False, "one norm", "a norm per group")


def _clip(paddle: Declaration) -> str:
    clip = paddle.optimizer.clip
    if clip is None:
        return "after_backward"
    values = ", ".join(f"{key}={number(value)}" for key, value in clip.items() if key not in ("type", "scope"))
    return f"{clip.get('type', 'grad_clip')}({values})"
