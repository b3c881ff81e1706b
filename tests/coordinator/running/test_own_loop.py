"""`stepalign run --torch CMD --paddle CMD` with both real frameworks: the worked example, and scripts of another shape."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ..real_cases import Ended, stepalign

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_loop"

GAN_TORCH = """\
import torch
from torch import nn
from stepalign.workers import attach
from workers import WIDTH

client = attach()
generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, WIDTH))
critic = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 1))
update_g = torch.optim.Adam(generator.parameters(), lr=1e-3)
update_d = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.999))
schedule = torch.optim.lr_scheduler.ExponentialLR(update_d, 0.9)
bce = nn.BCEWithLogitsLoss()
batches = iter(client.batches(model={"G": generator, "D": critic}, optimizer=[update_g, update_d], scheduler=schedule))
for step in range(3):
    update_d.zero_grad()
    losses = []
    for part in range(2):
        batch = next(batches)
        fake = generator(batch["noise"]).detach()
        loss = (bce(critic(batch["real"]), torch.ones(4, 1)) + bce(critic(fake), torch.zeros(4, 1))) / 2
        loss.backward()
        losses.append(loss)
    update_d.step()
    schedule.step()
    update_g.zero_grad()
    loss_g = bce(critic(generator(batch["noise"])), torch.ones(4, 1))
    loss_g.backward()
    update_g.step()
    update_g.zero_grad()
    update_d.zero_grad()
    client.step(loss=loss_g + sum(losses), optimizer=[update_g, update_d])
"""

GAN_PADDLE = """\
import paddle
from paddle import nn
from stepalign.workers import attach

client = attach()
generator = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6))
critic = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
update_g = paddle.optimizer.Adam(1e-3, parameters=generator.parameters())
schedule = paddle.optimizer.lr.ExponentialDecay(2e-3, 0.9)
update_d = paddle.optimizer.Adam(schedule, beta1=0.6, parameters=critic.parameters())
bce = nn.BCEWithLogitsLoss()
losses = []
for batch in client.batches(model={"G": generator, "D": critic}, optimizer=[update_g, update_d], scheduler=schedule):
    fake = generator(batch["noise"]).detach()
    loss = (bce(critic(batch["real"]), paddle.ones([4, 1])) + bce(critic(fake), paddle.zeros([4, 1]))) / 2
    loss.backward()
    losses.append(loss)
    if len(losses) < 2:
        continue
    update_d.step()
    schedule.step()
    update_g.clear_grad()
    loss_g = bce(critic(generator(batch["noise"])), paddle.ones([4, 1]))
    loss_g.backward()
    update_g.minimize(loss_g)
    update_g.clear_grad()
    update_d.clear_grad()
    client.step(loss=loss_g + sum(losses))
    losses.clear()
"""

DATA = """\
import numpy as np


def batches(case):
    random = np.random.default_rng(0)
    for _ in range(2 * case.steps):
        yield {"real": random.standard_normal((4, 6)).astype("float32"), "noise": random.standard_normal((4, 3)).astype("float32")}
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Run the worked example, with dropout on, as its page says."""
    folder = tmp_path_factory.mktemp("own") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    sides = ("--torch", "train_torch.py --epochs 2", "--paddle", "train_paddle.py --epochs 2")
    rest = ("--data", "data.py", "--config", "align.toml", "--steps", 4)
    dropout = ("--mode", "train", "--set", "compare.dropout=shared")
    return stepalign("run", *sides, *rest, *dropout, cwd=folder, out=folder.parent / "out")


def test_the_worked_example_is_aligned_and_everything_is_collected(example: Ended) -> None:
    assert example.code == 0, example.stderr
    steps = [json.loads(line) for line in (example.folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(steps) == 4
    kinds = {"lr", "loss", "gradient", "optimizer_state", "parameter"}
    assert all(kinds <= set(step["worst"]) for step in steps) and "initial_parameter" in steps[0]["worst"]
    rates = example.result["series"]["lr"]["torch"]
    assert rates == [[2.5e-4] * 2, [5e-4] * 2, [7.5e-4] * 2, [8.5e-4] * 2]
    # Clipped gradients are seen beside the raw ones: the frameworks' clips differ by a formula that is recognised.
    assert "clip_norm_epsilon" in {known["code"] for known in example.result["known_differences"]}
    digests = [example.result["sides"][side]["batch_digests"] for side in ("torch", "paddle")]
    assert digests[0] == digests[1] and len(set(digests[0])) == 4


def test_a_run_of_commands_can_be_replayed_to_a_step(example: Ended) -> None:
    replayed = stepalign("replay", example.folder, "--step", 1, "--json", cwd=example.folder)
    record = json.loads(replayed.stdout)
    assert replayed.code == 0 and record["unlike_the_run"] == []
    assert "encoder.self_attn" in {item["torch_name"] for item in record["modules"]}


def test_several_optimizers_and_accumulated_gradients_are_followed_and_a_wrong_beta_is_named(
    tmp_path: Path, torch_python: Path
) -> None:
    files = {"gan_torch.py": GAN_TORCH, "gan_paddle.py": GAN_PADDLE, "data.py": DATA}
    modules = {"protocol.py": "WIDTH = 6\n", "workers.py": "from protocol import WIDTH\n", "coordinator.py": ""}
    shell = f"set -e\n{torch_python} -c 'print(1 + 1)'\n{torch_python} gan_torch.py\necho ended well\n"
    for name, text in {**files, **modules, "run.sh": shell}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    options = ("--data", "data.py", "--steps", 3, "--accumulate", 2)
    ended = stepalign(
        "run", "--torch", "bash run.sh", "--paddle", "gan_paddle.py", *options, cwd=tmp_path, out=tmp_path / "out"
    )
    assert ended.code == 1, ended.stderr
    first, cause = ended.result["first_divergence"], ended.result["causes"][0]
    assert (first["step"], first["kind"], first["torch_name"]) == (0, "optimizer_state", "D.0.weight/moment1")
    assert "beta1 = 0.6" in cause["evidence"] and "G." not in cause["evidence"]
    rates = ended.result["series"]["lr"]
    assert rates["torch"][1] == pytest.approx([1e-3, 1.8e-3]) and rates["paddle"][1] == pytest.approx([1e-3, 1.8e-3])


def test_both_example_scripts_run_alone_without_stepalign(torch_python: Path, paddle_python: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "alone", ignore=shutil.ignore_patterns("__pycache__", "runs"))
    for python, script in ((torch_python, "train_torch.py"), (paddle_python, "train_paddle.py")):
        done = subprocess.run(
            [python, "-W", "ignore", script, "--epochs", "1"],
            cwd=tmp_path / "alone", capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("epoch 0: loss ")


def test_the_page_shows_the_shim_that_the_example_uses() -> None:
    page = (EXAMPLE.parents[1] / "docs" / "scripts.md").read_text(encoding="utf-8")
    assert (EXAMPLE / "stepalign_attach.py").read_text(encoding="utf-8").strip() in page


def test_each_example_script_has_at_most_five_lines_for_stepalign() -> None:
    for script in ("train_torch.py", "train_paddle.py"):
        text = (EXAMPLE / script).read_text(encoding="utf-8")
        marked = [line for line in text.splitlines() if "import attach" in line or "attach()" in line or "client." in line]
        assert 4 <= len(marked) <= 5
