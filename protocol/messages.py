"""The messages between coordinator and worker, named after what is asked or what happened.

The conversation: Hello, Configure, Ready, with shared dropout ShareDropout/DropoutShared, then weights
(SendWeights/Weights, LoadWeights/WeightsLoaded), then, to resume, LoadCheckpoint/CheckpointLoaded, then any number of
Batch/StepResult with LoadState and SendCheckpoint/Checkpoint between, then Finish/Finished. Batches stands for several
Batch in a row, each with a StepResult of its own, which may come by the journal (`journal`). ReadRates/Rates instead of
steps; or, for optimizers alone, any number of BuildOptimizer/Ready, each followed by weights and by
ApplyGradients/GradientsApplied or ReadRates/Rates. A worker answers Failed at any point and ends. Arrays travel beside
the header, see `tensors`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Literal, Optional, Tuple, Union, get_args

import numpy as np

from stepalign.protocol.specs import Declaration, Scalar, SchedulerSpec

PROTOCOL_VERSION = 6

Named = Dict[str, np.ndarray]


@dataclass(frozen=True)
class Hello:
    """A worker's first word: who it is, before anything of the run is told to it."""

    protocol: int
    role: str
    framework: str
    pid: int
    python: str
    interpreter: str


@dataclass(frozen=True)
class Configure:
    """The run as one worker needs it. ``task`` "train" builds the training; "schedule" builds rates only; "optimizer"
    builds an optimizer each time that it is asked to; "construction" tells how one is constructed.

    ``jitter`` moves half of all trainable weights by one ULP before each step: the control that measures rounding
    noise. ``accumulate`` is how many batches one update takes in; more than one only where ``script`` is empty, which
    means that the worker is a command of the user's own. Their arrays are then named ``0/name``, ``1/name``, ...
    ``give_weights`` has the answer, Ready, come with the weights that were built, which are asked for anyway.
    """

    task: Literal["train", "schedule", "optimizer", "construction"]
    name: str
    folder: str
    script: str
    steps: int
    mode: Literal["eval", "train"]
    dtype: str
    seed: int
    device: str
    threads: int
    options: Dict[str, Any] = field(default_factory=dict)
    dropout: Literal["own", "shared"] = "own"
    jitter: bool = False
    accumulate: int = 1
    give_weights: bool = False


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker's process is: the proof that it is the side that it says.

    ``scripts`` has the SHA-256 of each of the user's modules, by path relative to the case's folder.
    """

    framework: str
    version: str
    python: str
    interpreter: str
    pid: int
    device: str
    other_frameworks_loaded: Tuple[str, ...]
    libraries: Tuple[str, ...]
    settings: Dict[str, Scalar]
    scripts: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """The script's training is built; this is what it declares, and its weights, if they are to be given at once."""

    facts: WorkerFacts
    declaration: Declaration
    weights: Named = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleReady:
    """The script's optimizer and scheduler are built, without a model."""

    facts: WorkerFacts
    scheduler: Optional[SchedulerSpec]


@dataclass(frozen=True)
class ShareDropout:
    """Draw dropout's masks by the common rule, under these names of places by the receiving side's own module paths."""

    places: Dict[str, str]


@dataclass(frozen=True)
class DropoutShared:
    """Masks are drawn by the common rule from here on."""


@dataclass(frozen=True)
class SendWeights:
    """Ask for all parameters and persistent buffers as they are now."""


@dataclass(frozen=True)
class Weights:
    """All parameters and persistent buffers, by the side's own names and in its own layout."""

    tensors: Named


@dataclass(frozen=True)
class LoadWeights:
    """Weights to start from, by the receiving side's own names and in its own layout.

    ``tell_replaced`` names buffers of which the values are wanted that they had before, where these were others.
    """

    tensors: Named
    tell_replaced: Tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightsLoaded:
    """Read back after loading: the tensors whose bytes are not those that were sent (none in a sound port).

    ``replaced`` has what the side itself had built of the buffers that were asked for, where its bytes were others.
    """

    differing: Named
    replaced: Named = field(default_factory=dict)


@dataclass(frozen=True)
class LoadState:
    """Continue from these weights, buffers and optimizer state (``parameter/slot``)."""

    tensors: Named
    optimizer_state: Named


@dataclass(frozen=True)
class StateLoaded:
    """The state asked for is in place."""


@dataclass(frozen=True)
class SendCheckpoint:
    """Ask for the whole state of the training, from which a side that is built anew can continue."""


@dataclass(frozen=True)
class Checkpoint:
    """The state between two steps: ``tensors`` by the side's own names, all else in ``plain``, a JSON text.

    ``problem`` says why there is none; ``seconds`` is how long it took to copy. A side that owns its loop has a problem, and
    only the state of its random numbers in ``plain``.
    """

    tensors: Named
    plain: str
    problem: str
    seconds: float


@dataclass(frozen=True)
class LoadCheckpoint:
    """Continue from the state that this side's `Checkpoint` held; a side that owns its loop puts its random numbers back."""

    tensors: Named
    plain: str


@dataclass(frozen=True)
class CheckpointLoaded:
    """The state asked for is in place, byte for byte; or ``problem`` says what is not."""

    problem: str


@dataclass(frozen=True)
class Batch:
    """One step's input, and what to collect in that step. ``again``: the arrays are those of the batch before, none are
    sent.
    """

    step: int
    arrays: Named
    kinds: Tuple[str, ...] = ()
    activations: Tuple[str, ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Batches:
    """The input of several steps in a row, from ``first`` on, and what to collect in each. None: the arrays are those of
    the batch before.
    """

    first: int
    arrays: List[Optional[Named]]
    kinds: Tuple[str, ...] = ()
    activations: Tuple[str, ...] = ()

    def each(self) -> Iterator[Batch]:
        """Return the batch of each step."""
        for step, arrays in enumerate(self.arrays, self.first):
            yield Batch(step, arrays or {}, self.kinds, self.activations, arrays is None)


@dataclass(frozen=True)
class StepResult:
    """One finished step. ``lr`` has the rate that this update used for each group; ``tensors`` is by kind, then name.

    ``masks`` lists the shared dropout masks that the step drew: ``place#call`` -> rate and shape.
    """

    step: int
    lr: List[float]
    loss: np.ndarray
    batch_digest: str
    tensors: Dict[str, Named]
    other_frameworks_loaded: Tuple[str, ...]
    seconds: float
    masks: Dict[str, Tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class BuildOptimizer:
    """Ask for the optimizer anew, over parameters of these values; without any, for the one that build(case) gives.

    ``options`` are added to the case's own.
    """

    parameters: Named
    options: Dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ApplyGradients:
    """Ask for one update for each entry of ``gradients``: by the side's own names; a parameter without one has none.

    ``first`` numbers the first step. ``metrics`` has, for each step, the loss that a schedule may watch. ``kinds``:
    what to collect of each step.
    """

    first: int
    gradients: List[Named]
    metrics: List[float]
    kinds: Tuple[str, ...] = ()


@dataclass(frozen=True)
class GradientsApplied:
    """The finished updates; ``batch_digest`` is that of the gradients, ``loss`` the metric that came with them."""

    results: List[StepResult]


@dataclass(frozen=True)
class ReadRates:
    """Ask for the rates of so many steps; ``metrics`` (float64 [steps]) are the losses that a schedule may watch."""

    steps: int
    metrics: Optional[np.ndarray] = None


@dataclass(frozen=True)
class Rates:
    """Rates, float64 [steps, groups]."""

    rates: np.ndarray


@dataclass(frozen=True)
class Construct:
    """Ask how a training is constructed: by ``construct`` and ``clip`` of this script or, where it is empty, by the case's."""

    script: str = ""


@dataclass(frozen=True)
class Constructed:
    """The constructing calls, as `workers.construction` writes them; empty for what there is none of."""

    facts: WorkerFacts
    optimizer: Dict[str, Any]
    schedule: Dict[str, Any]
    clips: List[Dict[str, Any]]


@dataclass(frozen=True)
class Finish:
    """Nothing more is wanted: end."""


@dataclass(frozen=True)
class Finished:
    """The worker's last word."""


@dataclass(frozen=True)
class Attached:
    """An agent's first word: it stands ready on another machine to run one side's workers."""

    protocol: int
    stepalign: str
    side: str
    host: str
    pid: int
    python: str
    interpreter: str
    cores: int
    gpu: bool


@dataclass(frozen=True)
class Launch:
    """Have an agent start a worker. ``tag`` is its role and a number that no other start has: ``torch#3``."""

    tag: str
    framework: str
    env: Dict[str, str]


@dataclass(frozen=True)
class EndWorker:
    """Have an agent signal a worker, ask it for its threads' stacks, or forget it."""

    tag: str
    how: Literal["terminate", "kill", "stacks", "forget"]


@dataclass(frozen=True)
class RemoteStatus:
    """Where a worker on another machine stands, and what it wrote since this was told last. Its end is told last."""

    tag: str
    pid: Optional[int]
    phase: str
    step: Optional[int]
    log: str
    exit_code: Optional[int]


@dataclass(frozen=True)
class Heartbeat:
    """An agent's sign of life, every second, with the state of its workers."""

    workers: Tuple[RemoteStatus, ...] = ()


@dataclass(frozen=True)
class Heard:
    """The coordinator's sign of life: the answer to `Attached` and to every `Heartbeat`."""


@dataclass(frozen=True)
class Dismissed:
    """An agent is needed no more; ``reason`` is what is wrong with it, empty at the end of a run."""

    reason: str


@dataclass(frozen=True)
class Failed:
    """What went wrong in a worker. ``turn`` says whose it is to act: the case's author, the environment's, or ours."""

    turn: Literal["case", "environment", "worker", "protocol"]
    phase: str
    step: Optional[int]
    message: str
    traceback: str


Message = Union[
    Hello, Configure, Ready, ScheduleReady, ShareDropout, DropoutShared, SendWeights, Weights,
    LoadWeights, WeightsLoaded, LoadState, StateLoaded,
    SendCheckpoint, Checkpoint, LoadCheckpoint, CheckpointLoaded,
    Batch, Batches, StepResult, BuildOptimizer, ApplyGradients, GradientsApplied, ReadRates, Rates,
    Construct, Constructed, Finish, Finished, Failed,
    Attached, Launch, EndWorker, Heartbeat, Heard, Dismissed,
]  # fmt: skip

BY_NAME = {cls.__name__: cls for cls in get_args(Message)}
