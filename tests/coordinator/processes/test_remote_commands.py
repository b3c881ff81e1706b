"""Every command that starts workers, with a side on another machine: two network namespaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stepalign.coordinator.results.records import read_steps
from stepalign.protocol.keys import read_key_file

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, stepalign
from ..two_machines import Command, write_remote_case

TORCH = f"""{TORCH_SIDE}

def schedule(case):
    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))], case)
    return optimizer, make_scheduler(optimizer)
"""
PADDLE = f"""{PADDLE_SIDE}

def schedule(case):
    scheduler = make_scheduler()
    return make_optimizer(Net().parameters(), case, scheduler), scheduler
"""
WRONG = PADDLE.replace("nn.functional.relu(", "1.01 * nn.functional.relu(")
TOP = """\
steps = 3
[schedule]
steps = 40
[optimizer]
steps = 4
regimes = ["normal", "zeros"]
"""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_remote_case(tmp_path_factory.mktemp("remote") / "case", TOP, torch=TORCH, paddle=PADDLE)


def assert_over(command: Command) -> None:
    """The command has dismissed its agent, and nothing is left of the key."""
    assert command.agents[0].wait(30) == 0
    assert not command.key.parent.exists()


@pytest.mark.parametrize(("name", "steps"), [("schedule", 40), ("optimizer", 4)])
def test_rates_and_updates_alone_are_compared_with_those_of_another_machine(
    name: str, steps: int, case: Path, start: Callable[..., Command], tmp_path: Path
) -> None:
    command = start(name, case, "--quiet", "--json", "--out", tmp_path / "out")
    command.start_agent(case)
    result = command.result()
    assert (result["verdict"], result["steps_completed"]) == ("aligned", steps)
    assert_over(command)


def test_a_side_is_recorded_on_another_machine_and_compared_with_on_this_one(
    case: Path, start: Callable[..., Command], tmp_path: Path
) -> None:
    place = tmp_path / "torch.zip"
    command = start("record", case, "--side", "torch", "--quiet", "--out", place)
    secret = read_key_file(command.key).secret
    command.start_agent(case)
    assert command.process.wait(120) == 0, command.errors()
    assert_over(command)
    assert secret not in command.errors()
    assert secret.encode() not in place.read_bytes()
    ended = stepalign("run", case, "--against", place, "--quiet", cwd=tmp_path, out=tmp_path / "out")
    assert (ended.code, ended.result["verdict"]) == (0, "aligned"), ended.stderr
    assert ended.result["sides"]["torch"]["recorded"]


def test_a_module_is_found_and_replayed_on_another_machine(start: Callable[..., Command], tmp_path: Path) -> None:
    """A run that diverges starts further workers there: for the module, and later for the replay."""
    case = write_remote_case(tmp_path / "case", TOP, torch=TORCH, paddle=WRONG)
    out = tmp_path / "out"
    run = start("run", case, "--quiet", "--json", "--out", out)
    run.start_agent(case)
    result = run.result()
    assert (result["verdict"], result["first_divergence"]["kind"]) == ("diverged", "activation")
    assert_over(run)
    replay = start("replay", out, "--step", 2, "--json")
    replay.start_agent(case)
    found = replay.result()
    assert replay.process.returncode == 1
    assert found["unlike_the_run"] == []
    assert not all(module["passed"] for module in found["modules"])
    assert_over(replay)
    assert len(read_steps(out)) == 3


def test_rounding_is_measured_on_another_machine(start: Callable[..., Command], tmp_path: Path) -> None:
    """The noise control is the torch side twice: two workers there at once."""
    top = "steps = 3\n[tolerance]\ngradient = { rtol = 1e-8, atol = 3e-9 }\n"
    case = write_remote_case(tmp_path / "case", top)
    command = start("run", case, "--quiet", "--json", "--out", tmp_path / "out")
    command.start_agent(case)
    result = command.result()
    assert result["verdict"] == "aligned"
    assert any("torch against itself" in warning and "that is rounding" in warning for warning in result["warnings"])
    assert_over(command)


def test_what_a_script_on_another_machine_constructs_is_translated(
    case: Path, start: Callable[..., Command]
) -> None:
    command = start("translate", case, "--json")
    command.start_agent(case)
    assert "paddle.optimizer.AdamW(" in command.result()["code"]
    assert_over(command)


def test_the_address_may_be_given_on_the_command_line(case: Path, start: Callable[..., Command], tmp_path: Path) -> None:
    text = (case / "case.toml").read_text()
    other = tmp_path / "case"
    other.mkdir()
    for path in case.iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    address = text.rpartition('bind = "')[2].partition('"')[0]
    (other / "case.toml").write_text(text.replace(f'bind = "{address}"', 'wait_s = 0.5'))
    for name in ("run", "schedule", "optimizer", "record"):
        ended = stepalign(name, other, cwd=tmp_path)
        assert ended.code == 2
        assert "network.bind: with torch.host it is needed" in ended.stderr
        ended = stepalign(name, other, "--bind", address, cwd=tmp_path)
        assert ended.code == 3
        assert f"no worker for the torch side came to tcp://{address}:" in ended.stderr + ended.stdout


def test_a_command_that_owns_its_loop_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "align.toml").write_text('[torch]\nhost = "other"\n[network]\nbind = "127.0.0.1"\n')
    words = ["--torch", "train.py", "--paddle", "port.py", "--data", "data.npz", "--config", "align.toml"]
    for name in ("run", "record"):
        ended = stepalign(name, *words, cwd=tmp_path)
        assert ended.code == 2
        assert "a command that owns its loop runs on this machine only" in ended.stderr
        assert "stepalign record --side torch" in ended.stderr
