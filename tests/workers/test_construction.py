"""What the workers do around the construction of optimizers, in each framework's own interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .in_framework import run_code

CONSTRUCTED = """
from stepalign.workers.torch_worker.construction import defer_compiler, import_deferred

COMPILER = "torch._dynamo"

def train(optimizer, weight):
    for _ in range(3):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    return weight.detach().numpy()

def construct():
    weight, bias = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    optimizer.add_param_group({"params": [bias], "lr": 0.5})
    results["rates"] = np.array([group["lr"] for group in optimizer.param_groups])
    return optimizer, weight

torch = framework
results["before"] = COMPILER in sys.modules
defer_compiler()
deferred = construct()
rates = results["rates"]
results["deferred"] = COMPILER in sys.modules
results["trained"] = train(*deferred)
results["stepped"] = COMPILER in sys.modules
ours = vars(torch.optim.Optimizer.add_param_group.__wrapped__)["__dynamo_disable"]
usual = construct()
theirs = vars(torch.optim.Optimizer.add_param_group.__wrapped__)["__dynamo_disable"]
results["given_back"] = ours is not theirs
results["same_rates"] = np.array_equal(rates, results["rates"])
results["usual"] = train(*usual)
try:
    deferred[0].add_param_group({"params": [deferred[1]]})
except ValueError as error:
    print(error)
"""

LATER = """
from stepalign.workers.torch_worker.construction import defer_compiler, import_deferred

torch = framework
defer_compiler()
import_deferred()
nothing = "torch._dynamo" in sys.modules
torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
before = "torch._dynamo" in sys.modules
import_deferred()
results["seen"] = np.array([nothing, before, "torch._dynamo" in sys.modules])
"""


@pytest.mark.parametrize("first", ["", "import torch._dynamo\n"], ids=["deferred", "imported before"])
def test_torch_constructs_optimizers_without_its_compiler_until_something_imports_it(
    first: str, torch_python: Path, tmp_path: Path
) -> None:
    code = first + CONSTRUCTED
    printed, saved = run_code(torch_python, "torch", code, tmp_path)
    with np.load(saved) as found:
        assert [bool(found[name]) for name in ("before", "deferred", "stepped")] == [bool(first), bool(first), True]
        assert bool(found["given_back"]) is not bool(first)
        assert found["same_rates"] and found["rates"].tolist() == [0.1, 0.5]
        np.testing.assert_array_equal(found["trained"], found["usual"])
    assert "some parameters appear in more than one parameter group" in printed


def test_torch_imports_its_compiler_later_if_an_optimizer_was_constructed_without_it(
    torch_python: Path, tmp_path: Path
) -> None:
    _, saved = run_code(torch_python, "torch", LATER, tmp_path)
    with np.load(saved) as found:
        assert found["seen"].tolist() == [False, False, True]
