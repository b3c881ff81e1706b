"""One optimizer step on the torch side: forward, loss, backward, update, schedule, and what it is asked to collect."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Dict, List

import numpy as np
import torch

from stepalign.protocol.errors import CaseError
from stepalign.workers.capture import Arrays, Capture, StepOutcome, same_bytes
from stepalign.workers.torch_worker.activations import record_activations
from stepalign.workers.torch_worker.clipping import clips_inside, used_gradients
from stepalign.workers.torch_worker.model import read_buffers, read_gradients, read_parameters
from stepalign.workers.torch_worker.optimizer import clear_gradients, learning_rates
from stepalign.workers.torch_worker.optimizer_state import read_optimizer_state
from stepalign.workers.torch_worker.scheduler import step_scheduler
from stepalign.workers.torch_worker.tensors import number_to_numpy
from stepalign.workers.training import Training


def train_step(
    training: Training, batch: Dict[str, Any], capture: Capture, enter: Callable[[str], None]
) -> StepOutcome:
    """Run one step on a batch of tensors; ``enter`` is told each phase as it begins.

    Gradients are gone when forward begins. ``used_gradient`` holds only what differs from ``gradient``. Raises
    CaseError when the loss is not a scalar that backward can start from.
    """
    model, kinds = training.model, capture.kinds
    tensors: Dict[str, Arrays] = {}
    clear_gradients(training.optimizer)
    patterns = capture.activations if "activation" in kinds else ()
    recording: ContextManager[Arrays] = (
        record_activations(model, patterns, gradients=True, room=capture.room) if patterns else nullcontext({})
    )
    with recording as activations:
        enter("forward")
        loss = training.loss(model, batch)
        loss_array = _scalar(loss)
        enter("backward")
        loss.backward()
    if "activation" in kinds:
        tensors["activation"] = activations
    rates = update(training, float(loss_array), capture, tensors, enter)
    return StepOutcome(lr=rates, loss=loss_array, tensors=tensors)


def update(
    training: Training, loss: float, capture: Capture, tensors: Dict[str, Arrays], enter: Callable[[str], None]
) -> List[float]:
    """Clip, update and step the schedule, from the gradients as they stand; return the rates that the update used.

    What ``capture`` asks for goes into ``tensors``. ``loss`` is what a schedule may watch.
    """
    model, optimizer, kinds = training.model, training.optimizer, capture.kinds
    raw = read_gradients(model, capture.room) if kinds & {"gradient", "used_gradient"} else {}
    enter("after_backward")
    if training.after_backward is not None:
        training.after_backward(model)
    rates = learning_rates(optimizer)
    enter("update")
    if "used_gradient" in kinds and (training.after_backward is not None or clips_inside(optimizer)):
        with used_gradients(optimizer, model, capture.room) as used:
            optimizer.step()
        tensors["used_gradient"] = {
            name: array for name, array in used.items() if name not in raw or not same_bytes(array, raw[name])
        }
    else:
        optimizer.step()
    enter("collect")
    if "gradient" in kinds:
        tensors["gradient"] = raw
    if "optimizer_state" in kinds:
        tensors["optimizer_state"] = read_optimizer_state(optimizer, model, capture.room)
    if "parameter" in kinds:
        tensors["parameter"] = read_parameters(model, capture.room)
    if "buffer" in kinds:
        tensors["buffer"] = read_buffers(model, capture.room)
    enter("schedule")
    step_scheduler(training.scheduler, loss if training.scheduler_metric == "loss" else None)
    return rates


def _scalar(loss: Any) -> np.ndarray:
    """Copy the loss as a 0-d array; raises CaseError unless it is one floating-point number with a gradient."""
    wanted = "on the torch side loss(model, batch) must return a scalar tensor"
    if not isinstance(loss, torch.Tensor):
        raise CaseError(f"{wanted}; came a {type(loss).__module__}.{type(loss).__qualname__}")
    if tuple(loss.shape) not in ((), (1,)):
        raise CaseError(f"{wanted}; came one of shape {tuple(loss.shape)}: reduce it, for example by its mean")
    if not loss.is_floating_point():
        raise CaseError(f"{wanted} of a floating-point dtype; came {loss.dtype}")
    if not loss.requires_grad:
        raise CaseError(f"{wanted} that depends on trainable parameters; this one does not: backward cannot start")
    return number_to_numpy(loss)
