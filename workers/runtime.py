"""What a worker does between Hello and its end: build the training, run the steps it is sent, tell what failed and
where.

The framework is reached through its twin's `adapter` only. This is one of two places that catch every exception.
"""

from __future__ import annotations

import importlib
import os
import platform
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np

from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, EnvironmentFailure, ProtocolError
from stepalign.protocol.script import (
    CaseView,
    ScriptError,
    call_script,
    find_function,
    load_script,
    loaded_scripts,
)
from stepalign.protocol.specs import Declaration
from stepalign.workers import isolation, jitter
from stepalign.workers.capture import Capture, Settings
from stepalign.workers.checkpoint import Checkpoints
from stepalign.workers.client import Client, StateAccess
from stepalign.workers.collecting import no_collecting
from stepalign.workers.construction import serve_construction
from stepalign.workers.dropout import SharedMasks
from stepalign.workers.gradient_loop import serve_gradients
from stepalign.workers.training import Training

EXIT_FAILED = 70
_KEPT_TEXT = 1 << 14
_TURNS = ((CaseError, "case"), (EnvironmentFailure, "environment"), (ProtocolError, "protocol"))


def serve(client: Client, framework: str) -> int:
    """Serve one run and return the process's exit code. Whatever is raised is told to the coordinator first.

    The framework is imported before the configuration is waited for: nothing of it depends on that. A training may be
    followed by the rates of the case's schedule alone.
    """
    try:
        client.status.enter("import")
        twin = import_twin(framework)
        configuration: Optional[messages.Configure] = client.configuration()
        while configuration is not None:
            client.status.enter("build")
            prepare(twin, configuration)
            if configuration.task != "optimizer":
                twin.defer_compiler()
            if configuration.task == "schedule":
                _serve_schedule(client, twin, framework, configuration)
            elif configuration.task == "optimizer":
                _serve_optimizer(client, twin, framework, configuration)
            elif configuration.task == "construction":
                _serve_construction(client, twin, framework, configuration)
            else:
                _serve_training(client, twin, framework, configuration)
            configuration = client.next_task()
        client.send(messages.Finished())
        return 0
    except BaseException as error:
        client.send(failure_of(error, client))
        traceback.print_exc()
        return EXIT_FAILED
    finally:
        client.close()


def failure_of(error: BaseException, client: Client) -> messages.Failed:
    """Return the message that tells the coordinator of ``error``, with the phase and step it happened in."""
    turn = next((name for kind, name in _TURNS if isinstance(error, kind)), "worker")
    if isinstance(error, ScriptError):
        if client.status.step is not None:
            turn = "worker"
        text, trimmed = str(error), error.trimmed
    else:
        own = turn != "worker"
        text = str(error) if own else f"{type(error).__name__}: {error}"
        trimmed = "" if own else "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return messages.Failed(turn, client.status.phase, client.status.step, _sendable(text), _sendable(trimmed))  # type: ignore[arg-type]


def _sendable(text: str) -> str:
    """Return ``text`` as UTF-8 can carry it, its middle left out where it is very long."""
    if len(text) > 2 * _KEPT_TEXT:
        text = f"{text[:_KEPT_TEXT]}\n... {len(text) - 2 * _KEPT_TEXT} characters left out ...\n{text[-_KEPT_TEXT:]}"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def import_twin(framework: str) -> Any:
    """Import the framework and return its twin's adapter. Raises EnvironmentFailure if the framework does not
    import.
    """
    module = isolation.IMPORT_NAMES[framework]
    try:
        with warnings.catch_warnings(), no_collecting():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:
        raise EnvironmentFailure(
            f"{sys.executable} cannot import {module}: {type(error).__name__}: {error}. "
            f"Make the environment anew with: stepalign env create {framework} --recreate"
        ) from error
    _end_quietly()
    return importlib.import_module(f"stepalign.workers.{framework}_worker.adapter")


def _end_quietly() -> None:
    """Have SIGTERM end this process without a word, as it did before the import, unless the user's code handles it: paddle
    writes a crash report, which would stand in the log of whichever side is stopped because the other one failed.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, None):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def prepare(twin: Any, configuration: messages.Configure) -> None:
    """Set what the run prescribes for the process: device, dtype, seeds, threads, exact kernels."""
    twin.prepare(Settings(configuration.dtype, configuration.seed, configuration.device, configuration.threads))


_trained_script: Dict[Path, ModuleType] = {}
"""The script that a training was built by: what follows the training does not run it once more."""


def _load(configuration: messages.Configure, function: str, *arguments: Any) -> Any:
    """Return what the script's ``build(case)``, ``schedule(case)`` or ``optimizer(case, parameters)`` gives."""
    folder, path = Path(configuration.folder), Path(configuration.script)
    view = CaseView(
        name=configuration.name,
        steps=configuration.steps,
        mode=configuration.mode,
        dtype=configuration.dtype,
        seed=configuration.seed,
        options=dict(configuration.options),
        folder=folder,
    )
    takes = ("case", "parameters")[: 1 + len(arguments)]
    module = _trained_script.get(path) or load_script(path, folder)
    if configuration.task == "train":
        _trained_script[path] = module
    called = find_function(module, function, path, takes)
    return call_script(f"{function}({', '.join(takes)}) of {path.name}", folder, lambda: called(view, *arguments))


def facts_of(
    twin: Any, framework: str, device: str, scripts: Optional[Dict[str, str]] = None
) -> messages.WorkerFacts:
    """Return what this process is; ``scripts`` are the digests of the user's modules."""
    return messages.WorkerFacts(
        framework=framework,
        version=twin.version(),
        python=platform.python_version(),
        interpreter=sys.executable,
        pid=os.getpid(),
        device=device,
        other_frameworks_loaded=isolation.loaded_frameworks_besides(framework),
        libraries=isolation.loaded_math_libraries(),
        settings=twin.read_settings(),
        scripts=scripts or {},
    )


def _scripts(configuration: messages.Configure) -> Dict[str, str]:
    return loaded_scripts(Path(configuration.folder), Path(configuration.script))


def _serve_schedule(client: Client, twin: Any, framework: str, configuration: messages.Configure) -> None:
    built = _load(configuration, "schedule")
    if not isinstance(built, tuple) or len(built) != 2:
        raise CaseError(f"schedule(case) returns (optimizer, scheduler), got {type(built).__name__}")
    optimizer, scheduler = built
    facts = facts_of(twin, framework, configuration.device, _scripts(configuration))
    client.send(messages.ScheduleReady(facts, twin.describe_scheduler(scheduler)))
    while True:
        message = client.receive()
        if isinstance(message, messages.Finish):
            return
        if not isinstance(message, messages.ReadRates):
            raise ProtocolError(f"expected ReadRates or Finish, got {type(message).__name__}")
        client.status.enter("rates")
        rates = twin.read_rates(optimizer, scheduler, message.steps, message.metrics)
        client.send(messages.Rates(np.asarray(rates, dtype=np.float64).reshape(message.steps, -1)))


def _serve_optimizer(client: Client, twin: Any, framework: str, configuration: messages.Configure) -> None:
    serve_gradients(
        client,
        twin,
        framework,
        configuration,
        facts=lambda: facts_of(twin, framework, configuration.device, _scripts(configuration)),
        declare=lambda training: declare(twin, training),
        build=lambda asked: build_training(twin, asked),
        build_parts=lambda asked, parameters: _load(asked, "optimizer", parameters),
    )


def _serve_construction(client: Client, twin: Any, framework: str, configuration: messages.Configure) -> None:
    def build() -> Tuple[Any, Any, Optional[Callable[[], None]]]:
        training = build_training(twin, configuration)

        def clip() -> None:
            assert training.after_backward is not None
            twin.give_gradients(training.model)
            training.after_backward(training.model)

        return training.optimizer, training.scheduler, clip if training.after_backward is not None else None

    serve_construction(client, twin, lambda: facts_of(twin, framework, configuration.device), build)


def _serve_training(client: Client, twin: Any, framework: str, configuration: messages.Configure) -> None:
    masks = SharedMasks(configuration.seed) if configuration.dropout == "shared" else None
    if masks is not None:
        twin.replace_dropout(masks)
    training = build_training(twin, configuration)
    model, optimizer = training.model, training.optimizer
    facts = facts_of(twin, framework, configuration.device, _scripts(configuration))

    def read_weights() -> messages.Named:
        client.status.enter("weights")
        return {**twin.read_parameters(model, client.room), **twin.read_buffers(model, client.room)}

    declaration = declare(twin, training)
    client.send(messages.Ready(facts, declaration, read_weights() if configuration.give_weights else {}))
    client.status.enter("import")
    with no_collecting():
        twin.import_deferred()  # while the other side still builds, and takes the weights in
    client.status.enter("build")
    checkpoints = Checkpoints(twin, training, client.room)
    client.serve_state(
        StateAccess(
            read_tensors=read_weights,
            write_tensors=lambda arrays: twin.write_tensors(model, arrays),
            write_optimizer_state=lambda arrays: twin.write_optimizer_state(optimizer, model, arrays),
            share_dropout=None if masks is None else lambda places: twin.follow_modules(model, masks, places),
            take_checkpoint=checkpoints.take,
            put_back_checkpoint=checkpoints.put_back,
            read_buffers=lambda: twin.read_buffers(model, client.room),
        )
    )
    folder = Path(configuration.folder)
    inputs = BatchTensors(twin)
    while True:
        client.status.leave_step()
        batch = client.next_batch()
        if batch is None:
            return
        if configuration.jitter:
            twin.write_tensors(model, jitter.move_half(twin.read_parameters(model), batch.step))
        client.report(run_step(client, twin, framework, training, batch, folder, inputs, masks))
        checkpoints.note_first_step()


def build_training(twin: Any, configuration: messages.Configure) -> Training:
    """Return the script's training, checked, in the case's dtype and mode."""
    training = _load(configuration, "build")
    if not isinstance(training, Training):
        raise CaseError(
            f"build(case) of {Path(configuration.script).name} returns a stepalign.workers.Training, "
            f"got {type(training).__name__}: return Training(model=..., loss=..., optimizer=...)"
        )
    twin.check_training(training)
    twin.cast_model(training.model, configuration.dtype)
    twin.set_mode(training.model, configuration.mode)
    return training


def declare(twin: Any, training: Training) -> Declaration:
    """Return all that this side says about its training."""
    return Declaration(
        tensors=twin.describe_tensors(training.model),
        modules=twin.describe_modules(training.model),
        optimizer=twin.describe_optimizer(training.optimizer, training.model),
        scheduler=twin.describe_scheduler(training.scheduler),
        scheduler_metric=training.scheduler_metric,
        has_after_backward=training.after_backward is not None,
    )


def run_step(
    client: Client,
    twin: Any,
    framework: str,
    training: Training,
    batch: messages.Batch,
    folder: Path,
    inputs: "BatchTensors",
    masks: Optional[SharedMasks] = None,
) -> messages.StepResult:
    """Train on one batch and return what was asked for; dropout draws from ``masks`` if there are any."""
    client.status.enter("batch", batch.step)
    enter: Callable[[str], None] = client.status.enter
    if masks is not None:
        enter = telling(masks, enter)
        masks.begin_step(batch.step)
    started = time.perf_counter()
    tensors = inputs.of(batch)
    capture = Capture(frozenset(batch.kinds), batch.activations, client.room)
    outcome = call_script(
        f"step {batch.step}", folder, lambda: twin.train_step(training, tensors, capture, enter)
    )
    return messages.StepResult(
        step=batch.step,
        lr=outcome.lr,
        loss=outcome.loss,
        batch_digest=client.batch_digest(batch),
        tensors=outcome.tensors,
        other_frameworks_loaded=isolation.loaded_frameworks_besides(framework),
        seconds=time.perf_counter() - started,
        masks={} if masks is None else masks.drawn,
    )


class BatchTensors:
    """Makes each step's tensors, which a script may change as it likes; those of a batch that is repeated, on the device."""

    def __init__(self, twin: Any) -> None:
        self._twin = twin
        self._arrays: Optional[messages.Named] = None
        self._kept: Optional[Dict[str, Any]] = None

    def of(self, batch: messages.Batch) -> Dict[str, Any]:
        """Return a batch's tensors, which nothing else refers to."""
        repeated = batch.arrays is self._arrays
        if repeated and self._kept is not None:
            return {name: self._twin.copy_tensor(tensor) for name, tensor in self._kept.items()}
        tensors = {name: self._twin.from_numpy(array) for name, array in batch.arrays.items()}
        self._arrays, self._kept = batch.arrays, None
        if not repeated:
            return tensors
        self._kept = tensors
        return {name: self._twin.copy_tensor(tensor) for name, tensor in tensors.items()}


def telling(masks: SharedMasks, enter: Callable[[str], None]) -> Callable[[str], None]:
    """Return ``enter`` such that ``masks`` is told of each phase too."""

    def both(phase: str) -> None:
        masks.enter_phase(phase)
        enter(phase)

    return both
