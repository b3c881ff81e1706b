"""What real runs say of a loss of two terms on two outputs: which output's gradient parts, and what is detached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, run, write_case

LAYERS = "        self.fc2 = nn.Linear(6, 3)\n"
LOSS = 'nn.functional.cross_entropy(model(batch["x"]), batch["y"])'
TERMS = """\
    first, second = model(batch["x"])
    return nn.functional.cross_entropy(first, batch["y"]) + WEIGHT * nn.functional.mse_loss(second, batch["x"][:, :3])
"""


def side(script: str, call: str, weight: float = 0.3) -> str:
    """Return a script whose model has a second output, which a term of the loss is computed from."""
    terms = TERMS.replace("WEIGHT", str(weight))
    return (
        script.replace(LAYERS, LAYERS + "        self.fc3 = nn.Linear(6, 3)\n")
        .replace(f"return self.fc2({call}(self.norm(self.fc1(x))))", f"h = {call}(self.norm(self.fc1(x)))\n"
                 "        return self.fc2(h), self.fc3(h)")
        .replace(f"    return {LOSS}\n", terms)
    )  # fmt: skip


def first_cause(folder: Path, paddle: str) -> Dict[str, Any]:
    ended = run(write_case(folder / "case", torch=side(TORCH_SIDE, "torch.relu"), paddle=paddle))
    assert ended.code == 1, ended.stderr
    cause: Dict[str, Any] = ended.result["causes"][0]
    return cause


def test_the_output_whose_term_has_another_weight_is_named_with_the_factor(tmp_path: Path) -> None:
    cause = first_cause(tmp_path, side(PADDLE_SIDE, "nn.functional.relu", weight=0.6))
    assert cause["code"] == "loss_function" and "from <model>:1:" in cause["fix"]
    assert "with respect to <model>:1 the gradient of the loss is 2 x torch's" in cause["evidence"]
    assert "with respect to <model>:0 it is equal" in cause["evidence"]


def test_a_parameter_that_is_detached_where_it_is_used_is_no_frozen_parameter(tmp_path: Path) -> None:
    detached = "nn.functional.linear(h, self.fc3.weight.detach(), self.fc3.bias)"
    cause = first_cause(tmp_path, side(PADDLE_SIDE, "nn.functional.relu").replace("self.fc3(h)", detached))
    assert (cause["category"], cause["code"]) == ("backward", "detached")
    assert "no gradient comes to fc3.weight in paddle, though trainable there" in cause["evidence"]
