"""The client of a training script that owns its loop: batches from the coordinator, weights on request, steps reported.

Written on `Client`, as the workers' own loop is. However the script ends, the coordinator is told: an exception with its
traceback, an end before the last step with the number of steps. After the last step the script goes on alone.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Type, Union

import numpy as np

from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError, ProtocolError, StepalignError
from stepalign.protocol.script import ScriptError, trim_traceback
from stepalign.protocol.specs import Declaration
from stepalign.workers import isolation, jitter
from stepalign.workers.capture import Capture
from stepalign.workers.checkpoint import put_back_random, take_random
from stepalign.workers.client import Client, StateAccess, inherited
from stepalign.workers.dropout import SharedMasks
from stepalign.workers.optimizers import OptimizerSet, merge_schedulers
from stepalign.workers.runtime import facts_of, failure_of, import_twin, prepare, telling
from stepalign.workers.step_watch import StepWatch
from stepalign.workers.training import Training

Names = Union[str, Sequence[str], None]
_OWN_STATE = "this side's script runs its own loop, whose state is its own"
"""Why no checkpoint of it can be continued from: only the random numbers' state is taken, and can be put back."""

_USE = "for batch in client.batches(loader, model=model, optimizer=optimizer): ... client.step(loss=loss)"


class Attached:
    """What `attach` gives where a coordinator started the script. One object, one thread, one process."""

    attached = True

    def __init__(self, client: Client, framework: str) -> None:
        self._client = client
        self._framework = framework
        self._process = os.getpid()
        self._over = False
        self._given: Optional[Tuple[Any, ...]] = None
        self._parts: List[messages.Named] = []
        self._batch: Optional[messages.Batch] = None
        self._reported = 0
        self._started_s = 0.0
        self._masks: Optional[SharedMasks] = None
        self._hook_before = sys.excepthook
        sys.excepthook = self._tell_uncaught
        atexit.register(self._tell_end)

    @classmethod
    def from_environment(cls) -> "Attached":
        """Connect as the variables ``STEPALIGN_*`` say, and set what the run prescribes for the process."""
        framework = os.environ["STEPALIGN_FRAMEWORK"]
        names = ("STEPALIGN_ENDPOINT", "STEPALIGN_ROLE", "STEPALIGN_STATUS")
        endpoint, role, status = (os.environ.pop(name) for name in names)  # no child takes itself for the worker
        attached = cls(Client(endpoint, role, framework, status, *inherited()), framework)
        attached._configure()
        return attached

    def batches(
        self,
        loader: Any = None,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        names: Names = None,
        numpy: bool = False,
        length: Optional[int] = None,
    ) -> "Batches":
        """Return the coordinator's batches, each a dict of tensors on this side's device, as long as there are steps.

        loader: the script's own batches; not read here.
        model: what is trained; several as a dict of names. optimizer, scheduler: one, or several in a list.
        names: give each batch as the tuple of these arrays instead, or for a single name as that array alone.
        numpy: give numpy arrays instead of tensors.
        length: end after so many batches, for a script that does something at the end of each pass.

        The first call takes the initial weights. Raises CaseError for what cannot be followed.
        """
        self._declare(model, _listed(optimizer), _listed(scheduler))
        return Batches(self, names, numpy, length)

    def step(self, loss: Any = None, *, optimizer: Any = None, model: Any = None) -> None:
        """Report the step that has just been made; after the last one nothing happens.

        loss: the step's loss, a scalar tensor or number. optimizer, model: may be given again, and must be those that
        `batches` was given. Raises CaseError where no batch was taken or no optimizer updated.
        """
        if self._over:
            return
        if self._batch is None:
            raise CaseError(f"client.step() was called without a batch of its own: {_USE}")
        if self._parts:
            raise CaseError(
                f"client.step() was called with {len(self._parts)} of the step's {self._configuration.accumulate} batches "
                "not taken yet: call it once an update, or run with another --accumulate"
            )
        self._check_given(model, optimizer)
        batch = self._batch
        self._client.status.enter("collect")
        outcome = self._watch.finish(self._scalar(loss))
        self._client.report(
            messages.StepResult(
                step=batch.step,
                lr=outcome.lr,
                loss=outcome.loss,
                batch_digest=self._client.batch_digest(batch),
                tensors=outcome.tensors,
                other_frameworks_loaded=isolation.loaded_frameworks_besides(self._framework),
                seconds=time.perf_counter() - self._started_s,
                masks={} if self._masks is None else self._masks.drawn,
            )
        )
        self._batch = None
        self._reported = batch.step + 1
        self._client.status.leave_step()

    def next_arrays(self) -> Optional[messages.Named]:
        """Return the arrays of the next batch; None when the run is over."""
        if not self._over and not self._parts:
            self._begin_step()
        return None if self._over else self._parts.pop(0)

    @property
    def steps(self) -> int:
        """How many steps the run has."""
        return self._configuration.steps

    @property
    def batch_count(self) -> int:
        """How many batches the run has."""
        return self._configuration.steps * self._configuration.accumulate

    def to_tensor(self, array: np.ndarray) -> Any:
        """Return an array as the framework's tensor on this side's device."""
        return self._twin.from_numpy(array)

    def _configure(self) -> None:
        self._configuration = self._client.configuration()
        self._client.status.enter("import")
        held = isolation.loaded_frameworks_besides(self._framework)
        if held:
            raise CaseError(
                f"the {self._framework} script has imported {held[0]}: each side is one framework alone in its process"
            )
        if int(os.environ.get("WORLD_SIZE") or os.environ.get("PADDLE_TRAINERS_NUM") or 1) > 1:
            raise CaseError("several processes a side are not supported: start the script with one")
        self._twin = import_twin(self._framework)
        self._client.status.enter("build")
        prepare(self._twin, self._configuration)
        if self._configuration.dropout == "shared":
            self._masks = SharedMasks(self._configuration.seed)
            self._twin.replace_dropout(self._masks)

    def _declare(self, model: Any, optimizers: List[Any], schedulers: List[Any]) -> None:
        """Say what is trained, once, and be ready to give and take its weights."""
        if self._given is not None:
            self._check_given(model, optimizers)
            return
        if model is None or not optimizers:
            raise CaseError(f"client.batches() needs the model and the optimizer, to take the initial weights: {_USE}")
        self._given = (model, *optimizers)
        twin, masks, room = self._twin, self._masks, self._client.room
        parts = model if isinstance(model, dict) else {"": model}
        parts = {name: twin.unwrap_model(part) for name, part in parts.items()}
        whole = twin.join_models(parts) if isinstance(model, dict) else parts[""]
        for optimizer in optimizers:
            twin.check_training(Training(model=whole, loss=_no_loss, optimizer=optimizer))
        twin.cast_model(whole, self._configuration.dtype)
        if self._configuration.mode == "eval":
            for part in parts.values():
                twin.keep_mode(part, "eval")
        self._model = whole
        self._optimizers = OptimizerSet(twin, optimizers, whole)
        enter = self._client.status.enter
        self._watch = StepWatch(twin, whole, self._optimizers, enter if masks is None else telling(masks, enter))
        self._client.send(
            messages.Ready(
                facts_of(twin, self._framework, self._configuration.device),
                Declaration(
                    tensors=twin.describe_tensors(whole),
                    modules=twin.describe_modules(whole),
                    optimizer=self._optimizers.spec,
                    scheduler=merge_schedulers([twin.describe_scheduler(each) for each in schedulers]),
                    scheduler_metric=None,
                    has_after_backward=True,  # what a script does between backward and update is its own affair
                ),
            )
        )
        self._client.serve_state(
            StateAccess(
                read_tensors=lambda: {**twin.read_parameters(whole, room), **twin.read_buffers(whole, room)},
                write_tensors=lambda arrays: twin.write_tensors(whole, arrays),
                write_optimizer_state=self._optimizers.write_state,
                share_dropout=None if masks is None else lambda places: twin.follow_modules(whole, masks, places),
                take_checkpoint=lambda: messages.Checkpoint({}, take_random(twin), _OWN_STATE, 0.0),
                put_back_checkpoint=lambda message: put_back_random(twin, message.plain),
                read_buffers=lambda: twin.read_buffers(whole, room),
            )
        )
        self._client.status.leave_step()

    def _check_given(self, model: Any, optimizer: Any) -> None:
        assert self._given is not None
        given = self._given
        for value in ([] if model is None else [model]) + _listed(optimizer):
            if not any(value is each for each in given) and not (isinstance(value, dict) and value == given[0]):
                raise CaseError(
                    f"a {type(value).__name__} came that is none of those that client.batches() was given first: one "
                    "script trains one set of models and optimizers"
                )

    def _begin_step(self) -> None:
        """Wait for the next step's batch; note the end where there is none."""
        if self._batch is not None:
            raise CaseError(
                f"client.step() was not called for step {self._batch.step}: call it after each update. Where one update "
                "takes several batches, run with --accumulate and the number of batches"
            )
        batch = self._client.next_batch()
        if batch is None:
            self._part_in_peace()
            return
        count = self._configuration.accumulate
        self._parts = [dict(batch.arrays)] if count == 1 else _split(batch.arrays, count)
        if self._configuration.jitter:
            self._twin.write_tensors(self._model, jitter.move_half(self._twin.read_parameters(self._model), batch.step))
        self._client.status.enter("forward", batch.step)
        if self._masks is not None:
            self._masks.begin_step(batch.step)
            self._masks.enter_phase("forward")
        self._watch.begin(Capture(frozenset(batch.kinds), batch.activations, self._client.room))
        self._batch = batch
        self._started_s = time.perf_counter()

    def _scalar(self, loss: Any) -> np.ndarray:
        """Copy a loss as a 0-d array; a plain number takes the case's dtype."""
        if isinstance(loss, (bool, int, float)):
            return np.array(loss, self._configuration.dtype)
        try:
            array = loss if isinstance(loss, (np.ndarray, np.generic)) else self._twin.to_numpy(loss)
        except (AttributeError, TypeError):
            raise CaseError(f"client.step(loss=...) takes a scalar tensor or a number; came {type(loss).__name__}") from None
        if np.size(array) != 1 or np.asarray(array).dtype.kind != "f":
            raise CaseError(
                f"client.step(loss=...) takes one floating-point number; came {np.asarray(array).dtype} of shape "
                f"{list(np.shape(array))}: reduce it, for example by its mean"
            )
        return np.array(array).reshape(())

    def _part_in_peace(self) -> None:
        """The coordinator wants nothing more: say so, and let the script go on alone."""
        self._client.send(messages.Finished())
        self._leave()

    def _leave(self) -> None:
        self._over = True
        self._parts = []
        self._batch = None
        if self._given is not None and hasattr(self, "_watch"):
            self._watch.close()
        self._client.close()

    def _tell_uncaught(
        self, kind: Type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        """Tell of an exception that ends the script, then let it be shown as ever."""
        if not self._over and os.getpid() == self._process:
            told = error
            if not isinstance(error, StepalignError):
                name = f"{kind.__name__}: {error}" if str(error) else kind.__name__
                told = ScriptError(f"the script raised {name}", trim_traceback(error, Path.cwd()))
            self._client.send(failure_of(told, self._client))
            self._leave()
        self._hook_before(kind, error, trace)

    def _tell_end(self) -> None:
        """The script ends: wait for the coordinator's last word, or tell that steps are missing."""
        if self._over or os.getpid() != self._process:
            return
        steps = getattr(getattr(self, "_configuration", None), "steps", None)
        try:
            if steps is None or self._reported < steps:
                done = f"after {self._reported} of {steps} steps" if self._given else "before it took a batch"
                raise CaseError(
                    f"the {self._framework} script ended {done}: let it take batches as long as client.batches() gives "
                    f"them, or run with --steps {max(self._reported, 1)}"
                )
            if self._client.next_batch() is not None:
                raise ProtocolError("a batch came after the script's last step")
            self._part_in_peace()
        except StepalignError as error:
            self._client.send(failure_of(error, self._client))
            self._leave()


class Batches:
    """The coordinator's batches, in a form of the script's choice; its length is how many there are in all."""

    def __init__(self, source: Attached, names: Names, numpy: bool, length: Optional[int]) -> None:
        self._source = source
        self._names = names
        self._numpy = numpy
        self._length = length

    def __len__(self) -> int:
        return self._source.batch_count if self._length is None else self._length

    def __iter__(self) -> Iterator[Any]:
        given = 0
        while self._length is None or given < self._length:
            arrays = self._source.next_arrays()
            if arrays is None:
                return
            given += 1
            yield self._formed(arrays)

    def _formed(self, arrays: messages.Named) -> Any:
        named: Dict[str, Any] = {
            name: np.array(array) if self._numpy else self._source.to_tensor(array) for name, array in arrays.items()
        }
        if self._names is None:
            return named
        wanted = [self._names] if isinstance(self._names, str) else list(self._names)
        missing = [name for name in wanted if name not in named]
        if missing:
            raise CaseError(f"names: the data has no {missing[0]!r}; it has {', '.join(named)}")
        return named[self._names] if isinstance(self._names, str) else tuple(named[name] for name in wanted)


def _split(arrays: messages.Named, count: int) -> List[messages.Named]:
    """Part the arrays of one update into its batches: ``0/x`` is the first one's ``x``."""
    parts: List[messages.Named] = [{} for _ in range(count)]
    for key, array in arrays.items():
        number, _, name = key.partition("/")
        parts[int(number)][name] = array
    return parts


def _listed(value: Any) -> List[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return [each for each in value if each is not None]
    return [] if value is None else [value]


def _no_loss(model: Any, batch: Any) -> Any:
    """Stand for the loss of a `Training` that is only checked: the script computes its own."""
    raise AssertionError("a script computes its own loss")
