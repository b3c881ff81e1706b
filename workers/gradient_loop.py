"""Drives an optimizer by gradients that the coordinator sends, as often as it is asked to build one. No loss, no data.

The optimizer is what the script's ``optimizer(case, parameters)`` gives for the parameters that were sent, or what its
``build(case)`` gives over the parameters of its own model.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional, Tuple

import numpy as np

from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, ProtocolError
from stepalign.protocol.script import call_script
from stepalign.protocol.specs import Declaration
from stepalign.protocol.tensors import digest
from stepalign.workers import isolation
from stepalign.workers.capture import Capture
from stepalign.workers.client import Client, StateAccess
from stepalign.workers.training import Training

Build = Callable[[messages.Configure], Training]
BuildParts = Callable[[messages.Configure, Any], Any]


def serve_gradients(
    client: Client,
    twin: Any,
    framework: str,
    configuration: messages.Configure,
    facts: Callable[[], messages.WorkerFacts],
    declare: Callable[[Training], Declaration],
    build: Build,
    build_parts: BuildParts,
) -> None:
    """Answer requests until Finish. ``build`` calls the script's build(case), ``build_parts`` its optimizer(...)."""
    training: Optional[Training] = None
    while True:
        client.status.leave_step()
        message = client.receive()
        if isinstance(message, messages.Finish):
            return
        if isinstance(message, messages.BuildOptimizer):
            client.status.enter("build")
            training = _training(twin, configuration, message, build, build_parts)
            client.serve_state(_access(twin, training))
            client.send(messages.Ready(facts(), declare(training)))
        elif training is None:
            raise ProtocolError(f"expected BuildOptimizer or Finish, got {type(message).__name__}")
        elif isinstance(message, messages.ApplyGradients):
            client.send(_applied(client, twin, framework, training, message, configuration))
        elif isinstance(message, messages.ReadRates):
            client.status.enter("rates")
            rates = twin.read_rates(training.optimizer, training.scheduler, message.steps, message.metrics)
            client.send(messages.Rates(np.asarray(rates, dtype=np.float64).reshape(message.steps, -1)))
        else:
            client.send(client.answer(message))


def _training(
    twin: Any, configuration: messages.Configure, message: messages.BuildOptimizer, build: Build, build_parts: BuildParts
) -> Training:
    """Build one optimizer. The framework's own names and random numbers start anew, so each is built like the first."""
    asked = replace(configuration, options={**configuration.options, **message.options})
    twin.forget_names()
    if not message.parameters:
        return build(asked)
    model, parameters = twin.hold_parameters(message.parameters)
    built = build_parts(asked, parameters)
    optimizer, scheduler, clip = parts_of(built)
    twin.check_parts(optimizer, scheduler)
    return Training(
        model=model,
        loss=_no_loss,
        optimizer=optimizer,
        scheduler=scheduler,
        scheduler_metric="loss" if twin.watches_loss(scheduler) else None,
        after_backward=None if clip is None else lambda _: clip(parameters),
    )


def parts_of(built: Any) -> Tuple[Any, Any, Optional[Callable[[Any], Any]]]:
    """Return optimizer, scheduler and the function that clips, None where the script gives none. Raises CaseError."""
    parts = built if isinstance(built, tuple) else (built,)
    if not 1 <= len(parts) <= 3:
        raise CaseError(
            "optimizer(case, parameters) returns an optimizer, (optimizer, scheduler) or (optimizer, scheduler, clip), "
            f"got a tuple of {len(parts)}"
        )
    optimizer, scheduler, clip = (*parts, None, None)[:3]
    if clip is not None and not callable(clip):
        raise CaseError(
            "the third of optimizer(case, parameters) is a function that is called with the parameters' dict between "
            f"backward and the update, got {type(clip).__name__}"
        )
    return optimizer, scheduler, clip


def _no_loss(model: Any, batch: Any) -> Any:
    raise CaseError("an optimizer that is driven by gradients has no loss")


def _access(twin: Any, training: Training) -> StateAccess:
    model, optimizer = training.model, training.optimizer
    return StateAccess(
        read_tensors=lambda: {**twin.read_parameters(model), **twin.read_buffers(model)},
        write_tensors=lambda arrays: twin.write_tensors(model, arrays),
        write_optimizer_state=lambda arrays: twin.write_optimizer_state(optimizer, model, arrays),
    )


def _applied(
    client: Client,
    twin: Any,
    framework: str,
    training: Training,
    message: messages.ApplyGradients,
    configuration: messages.Configure,
) -> messages.GradientsApplied:
    if len(message.metrics) != len(message.gradients):
        raise ProtocolError(f"{len(message.gradients)} steps of gradients came with {len(message.metrics)} metrics")
    others = isolation.loaded_frameworks_besides(framework)
    results = []
    for offset, gradients in enumerate(message.gradients):
        step, loss = message.first + offset, message.metrics[offset]
        client.status.enter("gradients", step)
        started = time.perf_counter()
        call = partial(
            twin.apply_gradients, training, gradients, loss, Capture(frozenset(message.kinds)), client.status.enter
        )
        outcome = call_script(f"step {step}", Path(configuration.folder), call)
        results.append(
            messages.StepResult(
                step=step,
                lr=outcome.lr,
                loss=outcome.loss,
                batch_digest=digest(gradients),
                tensors=outcome.tensors,
                other_frameworks_loaded=others,
                seconds=time.perf_counter() - started,
            )
        )
    return messages.GradientsApplied(results)
