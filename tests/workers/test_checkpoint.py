"""A side's state, taken between two steps, is put back into a side that was built anew: it goes on bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepalign.coordinator.environments import managed

from .in_framework import run_code

COMMON = """
import json
from stepalign.protocol import messages
from stepalign.workers.checkpoint import Checkpoints
from stepalign.workers.training import Training
import importlib
twin = importlib.import_module(f"stepalign.workers.{side}_worker.adapter")
from stepalign.workers.capture import Capture, Settings

KINDS = Capture(frozenset(["gradient", "optimizer_state", "parameter", "buffer"]))


def build(name):
    twin.prepare(Settings("float32", 3, "cpu", 1))
    model = Net()
    optimizer, scheduler = MAKERS[name](list(model.parameters()))
    metric = "loss" if "lateau" in type(scheduler).__name__ else None
    twin.set_mode(model, "train")
    return Training(model=model, loss=loss, optimizer=optimizer, scheduler=scheduler, scheduler_metric=metric)


def steps(training, checkpoints, first, last):
    found = []
    for step in range(first, last):
        x = np.random.default_rng(step).standard_normal((8, 6)).astype("float32")
        outcome = twin.train_step(training, {"x": twin.from_numpy(x)}, KINDS, lambda phase: None)
        checkpoints.note_first_step()
        found.append([outcome.lr, outcome.loss.tobytes().hex(), np.random.rand(), {
            kind: {key: array.tobytes().hex() for key, array in named.items()} for kind, named in outcome.tensors.items()
        }])
    return found


verdicts = {}
for name in MAKERS:
    training = build(name)
    rooms = []

    def room(shape, dtype):
        rooms.append(np.empty(shape, dtype))
        return rooms[-1]

    checkpoints = Checkpoints(twin, training, room)
    steps(training, checkpoints, 0, 4)
    taken = checkpoints.take()
    assert all(any(array is given for given in rooms) for array in taken.tensors.values()), name
    if taken.problem:
        verdicts[name] = taken.problem
        continue
    expected = steps(training, checkpoints, 4, 9)
    training = build(name)
    checkpoints = Checkpoints(twin, training)
    answer = checkpoints.put_back(messages.LoadCheckpoint(taken.tensors, taken.plain))
    came = steps(training, checkpoints, 4, 9)
    verdicts[name] = answer.problem or (came == expected) or f"unlike: {came[0][:2]} {expected[0][:2]}"
print(json.dumps(verdicts))
"""

TORCH = """
import torch
optim, rates = torch.optim, torch.optim.lr_scheduler


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 1)
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        self.calls += 1
        return self.out(F.dropout(self.norm(self.fc(x)), 0.3, self.training)) * self.calls * self.seen


def loss(model, batch):
    return (model(batch["x"]) ** 2).mean()


def with_rates(optimizer, make):
    return optimizer, make(optimizer)


MAKERS = {
    name: lambda parameters, name=name, options=options: with_rates(
        getattr(optim, name)(parameters, lr=0.01, **options), lambda optimizer: rates.StepLR(optimizer, 2, 0.5))
    for name, options in {
        "SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}, "AdamW": {}, "NAdam": {}, "RAdam": {}, "Adamax": {},
        "Adagrad": {}, "RMSprop": {"momentum": 0.9, "centered": True}, "Adadelta": {}, "Rprop": {}, "ASGD": {},
    }.items()
}
for name, make in {
    "plateau": lambda o: rates.ReduceLROnPlateau(o, patience=1),
    "one cycle": lambda o: rates.OneCycleLR(o, 0.1, total_steps=20),
    "multi": lambda o: rates.MultiStepLR(o, [3, 6]),
    "lambda": lambda o: rates.LambdaLR(o, lambda step: 0.9 ** step),
    "sequence": lambda o: rates.SequentialLR(
        o, [rates.LinearLR(o, 0.1, total_iters=5), rates.CosineAnnealingLR(o, 10)], [5]),
}.items():
    MAKERS[name] = lambda parameters, make=make: with_rates(optim.SGD(parameters, lr=0.1, momentum=0.9), make)
"""

PADDLE = """
import paddle
optim, rates = paddle.optimizer, paddle.optimizer.lr


class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1D(6)
        self.out = nn.Linear(6, 1)
        self.register_buffer("calls", paddle.zeros([1]), persistable=False)
        self.seen = 0

    def forward(self, x):
        self.seen += 1
        self.calls.add_(paddle.ones([1]))
        return self.out(F.dropout(self.norm(self.fc(x)), 0.3, training=self.training)) * self.calls * self.seen


def loss(model, batch):
    return (model(batch["x"]) ** 2).mean()


def with_rates(kind, parameters, scheduler, **options):
    return getattr(optim, kind)(learning_rate=scheduler, parameters=parameters, **options), scheduler


MAKERS = {
    name: lambda parameters, name=name, options=options: with_rates(
        name, parameters, rates.StepDecay(0.01, 2, 0.5), **options)
    for name, options in {
        "Momentum": {}, "Adam": {"amsgrad": True}, "AdamW": {}, "NAdam": {}, "RAdam": {}, "Adamax": {},
        "Adagrad": {}, "RMSProp": {"momentum": 0.9, "centered": True}, "Adadelta": {}, "ASGD": {"batch_num": 2},
        "Lamb": {},
    }.items()
}
MAKERS["Rprop"] = lambda parameters: (optim.Rprop(0.01, parameters=parameters), None)
MAKERS["no schedule"] = lambda parameters: (optim.SGD(0.01, parameters=parameters), None)
for name, make in {
    "plateau": lambda: rates.ReduceOnPlateau(0.1, patience=1),
    "one cycle": lambda: rates.OneCycleLR(0.1, 20),
    "multi": lambda: rates.MultiStepDecay(0.1, [3, 6]),
    "lambda": lambda: rates.LambdaDecay(0.1, lambda step: 0.9 ** step),
    "warm-up": lambda: rates.LinearWarmup(rates.CosineAnnealingDecay(0.1, 10), 5, 0.01, 0.1),
}.items():
    MAKERS[name] = lambda parameters, make=make: with_rates("Momentum", parameters, make())
"""

HIDDEN = """
import random
CALLS, RANDOM = [], random.Random(3)
KEPT = {"of the script": CALLS, "generator": RANDOM}


def counting(model, batch):
    CALLS.append(1)
    return plain(model, batch)


def drawing(model, batch):
    RANDOM.random()
    return plain(model, batch)


def bound():
    calls = 0

    def closing(model, batch):
        nonlocal calls
        calls += 1
        return plain(model, batch)

    return closing


def plain(model, batch):
    model.trace = batch["x"] if KEEPS else None
    return (model(batch["x"]) ** 2).mean()


problems = {}
for name, function, KEEPS in (
    ("global", counting, False), ("generator", drawing, False), ("closure", bound(), False), ("none", plain, False),
    ("tensor", plain, True),
):
    training = build(next(iter(MAKERS)))
    training = Training(model=training.model, loss=function, optimizer=training.optimizer, scheduler=training.scheduler)
    checkpoints = Checkpoints(twin, training)
    steps(training, checkpoints, 0, 3)
    problems[name] = checkpoints.take().problem
print(json.dumps(problems))
"""


@pytest.fixture(scope="module", params=["torch", "paddle"])
def printed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    side = request.param
    python = managed.find(side, side, Path.cwd()).path
    code = (TORCH if side == "torch" else PADDLE) + COMMON + HIDDEN
    output, _ = run_code(python, side, code, tmp_path_factory.mktemp("checkpoint"))
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def test_every_optimizer_and_schedule_goes_on_bit_by_bit(printed: list[dict[str, object]]) -> None:
    assert len(printed[0]) > 12
    assert {name: verdict for name, verdict in printed[0].items() if verdict is not True} == {}


def test_what_the_users_code_keeps_to_itself_is_named(printed: list[dict[str, object]]) -> None:
    tensor = printed[1].pop("tensor")  # a paddle layer makes a buffer of it, which is kept
    assert tensor in ("", "attribute trace of module the model changes from step to step, and cannot be put back")
    assert printed[1] == {
        "global": "global CALLS, which loss uses, changes from step to step, and cannot be put back",
        "generator": "global RANDOM, which loss uses, changes from step to step, and cannot be put back",
        "closure": "variable calls, which loss uses, changes from step to step, and cannot be put back",
        "none": "",
    }
