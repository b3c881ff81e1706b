"""One example of every message, with every kind of field in use, and the way to store them as golden frames.

``python tests/protocol/message_examples.py`` writes the golden files anew, after the wire was changed on purpose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stepalign.protocol import messages, specs
from stepalign.protocol.framing import encode
from stepalign.protocol.messages import PROTOCOL_VERSION, Message

GOLDEN = Path(__file__).parent / "golden"

FACTS = messages.WorkerFacts(
    framework="torch",
    version="2.13.0",
    python="3.11.7",
    interpreter="/envs/torch/bin/python",
    pid=4242,
    device="cpu",
    other_frameworks_loaded=(),
    libraries=("libgomp.so.1", "libtorch_cpu.so"),
    settings={"threads": 2, "tf32": False, "dtype": "float32", "scale": 0.5, "none": None, "shape": (1, 2.5)},
    scripts={"torch_side.py": "cd" * 32},
)
DECLARATION = specs.Declaration(
    tensors=(
        specs.TensorSpec("fc.weight", "parameter", (3, 2), "float32", True, "fc", "Linear", "weight", "out_in", ("tied",), "w_0"),
        specs.TensorSpec("bn.running_mean", "buffer", (3,), "float32", False, "bn", "BatchNorm1d", "running_mean"),
    ),
    modules=(specs.ModuleSpec("fc", "Linear", "torch.nn.Linear", True, {"bias": True, "in_features": 2}),),
    optimizer=specs.OptimizerSpec(
        "AdamW", "torch.optim.AdamW", (specs.GroupSpec(("fc.weight",), {"lr": 3e-5, "betas": (0.9, 0.999)}),),
        {"fc.weight": {"weight_decay": 0.0}}, {"type": "global_norm", "value": 1.0}, ("bn.weight",),
    ),
    scheduler=specs.SchedulerSpec("StepLR", "torch.optim.lr_scheduler.StepLR", {"step_size": 3, "gamma": 0.5}),
    scheduler_metric="loss",
    has_after_backward=True,
)  # fmt: skip
SMALL = {
    "weight": np.arange(6, dtype=np.float32).reshape(3, 2),
    "mask": np.array([True, False]),
    "count": np.array(3, np.int64),
    "empty": np.zeros((0, 4), np.float64),
}

EXAMPLES: "tuple[Message, ...]" = (
    messages.Hello(PROTOCOL_VERSION, "torch", "torch", 4242, "3.11.7", "/envs/torch/bin/python"),
    messages.Configure(
        "train", "näme", "/case", "/case/torch_side.py", 10, "eval", "float32", 0, "cpu", 2,
        {"hidden": 128, "deep": {"list": [1, 2.5, "x", True, None]}}, "own", True, 1, True,
    ),
    messages.Ready(FACTS, DECLARATION, SMALL),
    messages.ScheduleReady(FACTS, None),
    messages.ShareDropout({"layers.0": "place"}),
    messages.DropoutShared(),
    messages.SendWeights(),
    messages.Weights(SMALL),
    messages.LoadWeights({"large": np.zeros(1 << 14, np.float32), **SMALL}, ("mask",)),
    messages.WeightsLoaded({}, {"mask": np.array([True, True])}),
    messages.LoadState(SMALL, {"weight/moment1": np.ones((3, 2), np.float32)}),
    messages.StateLoaded(),
    messages.SendCheckpoint(),
    messages.Checkpoint(SMALL, '{"random": [1, Infinity]}', "", 0.5),
    messages.LoadCheckpoint(SMALL, "{}"),
    messages.CheckpointLoaded("torch: model/weight is not what was put back"),
    messages.Batch(3, {"ids": np.arange(4, dtype=np.int32)}, ("gradient", "parameter"), ("layers.*",)),
    messages.Batches(4, [{"ids": np.arange(4, dtype=np.int32)}, None], ("gradient",), ("layers.*",)),
    messages.StepResult(
        3, [3e-5, 1e-4], np.asarray(0.6931472, np.float32), "ab" * 32,
        {"gradient": {"weight": np.ones((3, 2), np.float32)}, "buffer": {}}, ("paddle",), 0.25, {"place#0": (0.1, 4.0, 8.0)},
    ),
    messages.Construct("/tmp/expressions.py"),
    messages.Constructed(FACTS, {"$call": "torch.optim.SGD", "arguments": {"lr": 0.5}}, {}, []),
    messages.BuildOptimizer(SMALL, {"rate": 0.5}),
    messages.ApplyGradients(7, [{"weight": np.ones((3, 2), np.float32)}, {}], [0.5, 0.25], ("parameter",)),
    messages.GradientsApplied(
        [messages.StepResult(7, [0.125], np.asarray(0.5), "cd" * 32, {"parameter": SMALL}, (), 0.5)]
    ),
    messages.ReadRates(5000, np.array([1.0, 0.5])),
    messages.Rates(np.linspace(0, 1, 6).reshape(3, 2)),
    messages.Finish(),
    messages.Finished(),
    messages.Failed("case", "forward", 3, "step 3 raised ValueError: naïve", "Traceback (most recent call last):\n"),
    messages.Attached(PROTOCOL_VERSION, "0.1.0", "torch", "other", 42, "3.11.7", "/usr/bin/python", 8, True),
    messages.Launch("torch#1", "torch", {"OMP_NUM_THREADS": "4"}),
    messages.EndWorker("torch#1", "kill"),
    messages.Heartbeat((messages.RemoteStatus("torch#1", 43, "forward", 3, "naïve\n", None),)),
    messages.Heard(),
    messages.Dismissed("copy the archive anew"),
)  # fmt: skip

SHORT_RESULT = messages.StepResult(7, [3e-5, 1e-4], np.asarray(0.6931472, np.float32), "ab" * 32, {}, (), 0.25)
"""A result that has a form of its own on the wire."""


def name_of(message: Message) -> str:
    """Give a message's name, for test ids."""
    return "ShortResult" if message is SHORT_RESULT else type(message).__name__


def golden_path(message: Message) -> Path:
    """Return where a message's frames are stored: a line of hexadecimal digits for each frame."""
    return GOLDEN / f"v{PROTOCOL_VERSION}" / f"{name_of(message)}.hex"


def frames_of(message: Message) -> "list[bytes]":
    """Return the frames as bytes."""
    return [bytes(memoryview(frame).cast("B")) for frame in encode(message)]


if __name__ == "__main__":
    for example in (*EXAMPLES, SHORT_RESULT):
        golden_path(example).parent.mkdir(parents=True, exist_ok=True)
        golden_path(example).write_text("".join(frame.hex() + "\n" for frame in frames_of(example)), encoding="ascii")
