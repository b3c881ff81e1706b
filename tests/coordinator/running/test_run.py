"""`stepalign run` with both real frameworks: the verdict, the run folder, the proofs of isolation, every rule of a case."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, run, stepalign, write_case


def test_a_correct_port_is_aligned_and_leaves_every_file_of_the_run_folder(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "clean"))
    assert ended.code == 0, ended.stderr
    assert ended.result["verdict"] == "aligned"
    assert ended.result["steps_completed"] == 3
    assert ended.result["first_divergence"] is None
    assert {path.name for path in ended.folder.iterdir()} == {
        "case.json", "sides.json", "details.json", "result.json", "report.html", "losses.md", "steps.jsonl", "torch.log",
        "paddle.log",
        "bp_align_torch.npy", "bp_align_paddle.npy", "bp_align_diff.log",
        "lr_align_torch.npy", "lr_align_paddle.npy", "scheduler_diff.log",
    }  # fmt: skip
    assert json.loads((ended.folder / "result.json").read_text()) == ended.result
    lines = [json.loads(line) for line in (ended.folder / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert set(lines[0]["worst"]) == {"initial_parameter", "lr", "loss", "gradient", "optimizer_state", "parameter"}


def test_each_side_proves_what_it_is_and_that_both_saw_the_same_bytes(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "proof"))
    torch, paddle = ended.result["sides"]["torch"], ended.result["sides"]["paddle"]
    assert (torch["framework"], paddle["framework"]) == ("torch", "paddle")
    assert torch["pid"] != paddle["pid"] and torch["interpreter"] != paddle["interpreter"]
    assert torch["version"].startswith("2.13.0") and paddle["version"] == "3.3.1"
    assert torch["other_frameworks_loaded"] == paddle["other_frameworks_loaded"] == []
    assert any(name.startswith("libtorch_cpu") for name in torch["libraries"])
    assert not any("paddle" in name or "phi" in name for name in torch["libraries"])
    assert any("paddle" in name for name in paddle["libraries"])
    assert not any("torch" in name for name in paddle["libraries"])
    assert torch["batch_digests"] == paddle["batch_digests"] and len(set(torch["batch_digests"])) == 3
    for name in ("default_dtype", "threads", "deterministic", "tf32"):
        assert torch["settings"][name] == paddle["settings"][name]


def test_float64_agrees_a_million_times_closer(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "wide"), "--dtype", "float64")
    assert ended.code == 0, ended.stderr
    losses = ended.result["series"]["loss"]
    assert max(abs(a - b) for a, b in zip(losses["torch"], losses["paddle"])) < 1e-12


def test_a_paddle_side_that_imports_torch_fails_with_the_reason(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "mixed", paddle="import torch\n" + PADDLE_SIDE))
    assert ended.code == 2
    assert ended.result["verdict"] == "failed"
    assert "the paddle side must not import torch" in ended.result["error"]["message"]
    assert "paddle_side.py" in ended.result["error"]["message"]


def test_torch_against_torch_is_refused(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "twice", paddle=TORCH_SIDE, paddle_python="torch"))
    assert ended.code == 3
    assert "holds torch 2.13.0" in ended.result["error"]["message"]


def test_a_torch_script_on_the_paddle_side_is_refused(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "script", paddle=TORCH_SIDE))
    assert ended.code == 2
    assert "must not import torch" in ended.result["error"]["message"]


def test_decay_on_one_side_shows_in_the_first_step_and_is_named(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "decay", paddle=PADDLE_SIDE.replace("weight_decay=0.01", "weight_decay=0.0")))
    assert ended.code == 1
    assert ended.result["first_divergence"]["step"] == 0
    assert ended.result["first_divergence"]["kind"] == "parameter"
    assert ended.result["causes"][0]["category"] == "weight_decay"


def test_a_rate_three_percent_off_is_a_divergence_of_the_rate(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "rate", paddle=PADDLE_SIDE.replace("StepDecay(1e-2", "StepDecay(1.03e-2")))
    assert ended.code == 1
    divergence = ended.result["first_divergence"]
    assert (divergence["kind"], divergence["step"]) == ("lr", 0)
    assert (divergence["torch"], divergence["paddle"]) == (0.01, 0.0103)
    assert ended.result["causes"][0]["category"] == "schedule"


def test_nan_on_both_sides_does_not_pass(tmp_path: Path) -> None:
    broken = 'return nn.functional.cross_entropy(model(batch["x"]), batch["y"]) * float("nan")'
    good = 'return nn.functional.cross_entropy(model(batch["x"]), batch["y"])'
    case = write_case(
        tmp_path / "nan", torch=TORCH_SIDE.replace(good, broken), paddle=PADDLE_SIDE.replace(good, broken)
    )
    ended = run(case)
    assert ended.code == 1
    assert ended.result["first_divergence"]["torch"] == "NaN"
    assert ended.result["series"]["loss"]["paddle"][0] == "NaN"
    assert ended.result["causes"][0]["category"] == "nonfinite"


def test_clipping_after_backward_runs_on_both_sides(tmp_path: Path) -> None:
    torch = TORCH_SIDE.replace(
        "scheduler=make_scheduler(optimizer))",
        "scheduler=make_scheduler(optimizer),\n"
        "        after_backward=lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.1))",
    )
    paddle = PADDLE_SIDE.replace(
        "scheduler=scheduler)",
        "scheduler=scheduler,\n        after_backward=lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.1))",
    )
    ended = run(write_case(tmp_path / "both", torch=torch, paddle=paddle))
    assert ended.code == 0 and not ended.result.get("warnings")
    ended = run(write_case(tmp_path / "one", torch=torch))
    assert ended.code == 1
    assert ended.result["first_divergence"]["kind"] == "gradient"
    assert ended.result["causes"][0]["category"] == "gradient_clipping"


def test_clipping_whose_limit_is_never_reached_is_told_to_be_untested(tmp_path: Path) -> None:
    paddle = PADDLE_SIDE.replace("weight_decay=0.01", "weight_decay=0.01, grad_clip=nn.ClipGradByValue(1e3)")
    torch = TORCH_SIDE.replace(
        "scheduler=make_scheduler(optimizer))",
        "scheduler=make_scheduler(optimizer),\n"
        "        after_backward=lambda m: nn.utils.clip_grad_norm_(m.parameters(), 1e3))",
    )
    ended = run(write_case(tmp_path / "unreached", torch=torch, paddle=paddle))
    assert ended.code == 0
    (warning,) = ended.result["warnings"]
    assert "(torch: after_backward, paddle: clips by value)" in warning and "does not test the clipping" in warning
    missing = run(write_case(tmp_path / "missing", torch=torch))
    assert missing.code == 0
    assert [(item["code"], item["matters"]) for item in missing.result["findings"]] == [("not_clipped", False)]
    assert "(torch: after_backward)" in missing.result["warnings"][0]


def test_a_scalar_parameter_is_clipped_by_the_global_norm_like_any_other(tmp_path: Path) -> None:
    torch = TORCH_SIDE.replace(
        "self.fc2 = nn.Linear(6, 3)", "self.fc2 = nn.Linear(6, 3)\n        self.scale = nn.Parameter(torch.tensor(1.5))"
    )
    torch = torch.replace("return self.fc2(", "return self.scale * self.fc2(").replace(
        "scheduler=make_scheduler(optimizer))",
        "scheduler=make_scheduler(optimizer),\n"
        "        after_backward=lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.1))",
    )
    paddle = PADDLE_SIDE.replace(
        "self.fc2 = nn.Linear(6, 3)",
        "self.fc2 = nn.Linear(6, 3)\n"
        "        self.scale = self.create_parameter([], default_initializer=nn.initializer.Constant(1.5))",
    )
    paddle = paddle.replace("return self.fc2(", "return self.scale * self.fc2(").replace(
        "weight_decay=0.01", "weight_decay=0.01, grad_clip=nn.ClipGradByGlobalNorm(0.1)"
    )
    ended = run(write_case(tmp_path / "scalar", torch=torch, paddle=paddle))
    assert ended.code == 0, ended.stdout
    assert {item["code"] for item in ended.result["known_differences"]} <= {"clip_norm_epsilon"}


def test_a_scheduler_can_be_stepped_with_the_loss(tmp_path: Path) -> None:
    torch = TORCH_SIDE.replace(
        "torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)",
        "torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.9)",
    ).replace("scheduler=make_scheduler(optimizer))", 'scheduler=make_scheduler(optimizer), scheduler_metric="loss")')
    paddle = PADDLE_SIDE.replace(
        "StepDecay(1e-2, 3, 0.5)", "ReduceOnPlateau(1e-2, factor=0.5, patience=0, threshold=0.9)"
    ).replace("scheduler=scheduler)", 'scheduler=scheduler, scheduler_metric="loss")')
    ended = run(write_case(tmp_path / "plateau", "steps = 5", torch=torch, paddle=paddle))
    assert ended.code == 0, ended.stderr
    assert ended.result["series"]["lr"]["torch"][-1][0] < 1e-2


def test_parameter_groups_with_their_own_rates_and_decays_agree(tmp_path: Path) -> None:
    torch = TORCH_SIDE.replace(
        "return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.01)",
        "named = list(parameters)\n    return torch.optim.AdamW([{'params': named[:2], 'lr': 1e-3, 'weight_decay': 0.0}, "
        "{'params': named[2:]}], lr=1e-2, weight_decay=0.01)",
    )
    paddle = PADDLE_SIDE.replace(
        "return paddle.optimizer.AdamW(rate, parameters=parameters, weight_decay=0.01)",
        "return paddle.optimizer.AdamW(rate, parameters=[{'params': parameters[:2], 'learning_rate': 0.1, 'weight_decay': 0.0},"
        " {'params': parameters[2:]}], weight_decay=0.01)",
    )
    ended = run(write_case(tmp_path / "groups", torch=torch, paddle=paddle))
    assert ended.code == 0, ended.stderr
    assert ended.result["series"]["lr"]["torch"][0] == pytest.approx([1e-3, 1e-2])


@pytest.mark.parametrize("source", ["paddle", "weights.npz", "weights.safetensors"])
def test_both_sides_start_from_the_weights_that_the_case_names(tmp_path: Path, source: str) -> None:
    case = write_case(tmp_path / "weights", f'steps = 1\n[weights]\nsource = "{source}"\n')
    random = np.random.default_rng(0)
    shapes = {
        "fc1.weight": (6, 6), "fc1.bias": (6,), "norm.weight": (6,), "norm.bias": (6,), "fc2.weight": (3, 6), "fc2.bias": (3,),
    }  # fmt: skip
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if source.endswith("npz"):
        np.savez(case / source, **arrays)
    elif source.endswith("safetensors"):
        from safetensors.numpy import save_file

        save_file(arrays, case / source)
    ended = run(case)
    assert ended.code == 0, ended.stderr


@pytest.mark.parametrize("source", ["torch", "weights.npz"])
def test_a_buffer_that_the_port_builds_otherwise_is_a_warning(tmp_path: Path, source: str) -> None:
    forward = "return self.fc2("
    torch = TORCH_SIDE.replace(
        "        self.fc1 =", '        self.register_buffer("grid", torch.arange(9.0).reshape(3, 3))\n        self.fc1 ='
    ).replace(forward, "return self.grid.sum(0) * self.fc2(")
    paddle = PADDLE_SIDE.replace(
        "        self.fc1 =",
        '        self.register_buffer("grid", paddle.arange(9, dtype="float32").reshape([3, 3]).t())\n        self.fc1 =',
    ).replace(forward, "return self.grid.sum(0) * self.fc2(")
    case = write_case(tmp_path / "case", f'steps = 1\n\n[weights]\nsource = "{source}"\n', torch=torch, paddle=paddle)
    if source != "torch":
        random = np.random.default_rng(0)
        shapes = {"fc1.weight": (6, 6), "fc1.bias": (6,), "norm.weight": (6,), "norm.bias": (6,), "fc2.weight": (3, 6)}
        weights = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
        np.savez(case / source, **weights, **{"fc2.bias": np.zeros(3, np.float32), "grid": np.ones((3, 3), np.float32)})
    ended = run(case)
    assert ended.code == 0, ended.stderr
    (warning,) = [text for text in ended.result["warnings"] if "built" in text]
    assert "otherwise than torch: grid (greatest difference 4; it is torch's transposed)" in warning
    assert ("this run used torch's values" in warning) == (source == "torch")


def test_weights_left_to_the_scripts_diverge_at_the_initial_parameters(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "none", 'steps = 1\n[weights]\nsource = "none"\n'))
    assert ended.code == 1
    assert ended.result["first_divergence"]["kind"] == "initial_parameter"
    assert ended.result["causes"][0]["category"] == "initial_weights"


def test_resync_carries_the_reference_state_to_the_candidate(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "resync", "steps = 6\n[compare]\nresync = 2\n"))
    assert ended.code == 0, ended.stderr
    lines = [json.loads(line) for line in (ended.folder / "steps.jsonl").read_text().splitlines()]
    assert all(line["passed"] for line in lines) and len(lines) == 6


def test_options_and_set_reach_both_scripts_and_the_data(tmp_path: Path) -> None:
    torch = TORCH_SIDE.replace("lr=1e-2", 'lr=case.options["rate"]')
    paddle = PADDLE_SIDE.replace("scheduler = make_scheduler()", 'scheduler = None; rate = case.options["rate"]')
    paddle = paddle.replace("case, scheduler)", "case, rate)")
    torch = torch.replace("scheduler=make_scheduler(optimizer)", "scheduler=None")
    ended = run(
        write_case(tmp_path / "set", "steps = 1\n[options]\nrate = 0.5\n", torch=torch, paddle=paddle),
        "--set",
        "rate=0.25",
    )
    assert ended.code == 0, ended.stderr
    assert ended.result["series"]["lr"] == {"torch": [[0.25]], "paddle": [[0.25]]}


def test_the_losses_table_and_the_logs_say_the_same(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "logs"))
    log = (ended.folder / "bp_align_diff.log").read_text().splitlines()
    assert re.sub(r"^\[.*?\] ", "", log[0]) == "root INFO: loss_0: "
    assert log[-1].endswith("root INFO: diff check passed")
    table = (ended.folder / "losses.md").read_text()
    assert "aligned" in table and "2.13.0" in table and "3.3.1" in table


@pytest.mark.parametrize(
    ("side", "old", "new", "expected"),
    [
        ("torch", "def build(case):", "def make(case):", "has no function build(case)"),
        (
            "paddle",
            "    model = Net()\n",
            "    raise RuntimeError('no such file: vocab.txt')\n",
            "no such file: vocab.txt",
        ),
        ("torch", "def build(case):", "def build(case:", "SyntaxError"),
        ("paddle", 'batch["y"])', 'batch["y"], reduction="none")', "must return a scalar"),
        ("torch", 'batch["y"])', 'batch["labels"])', "labels"),
        ("torch", "    return Training(model", "    return dict(model", "Training"),
    ],
)
def test_a_mistake_in_a_script_gives_one_message_without_a_traceback_of_ours(
    tmp_path: Path, side: str, old: str, new: str, expected: str
) -> None:
    scripts = {"torch": TORCH_SIDE, "paddle": PADDLE_SIDE}
    scripts[side] = scripts[side].replace(old, new)
    ended = run(write_case(tmp_path / "wrong", **scripts))
    assert ended.code == (3 if "labels" in new else 2)
    message = ended.result["error"]["message"]
    assert expected in message and f"{side} side" in message
    assert "stepalign/workers" not in message and "coordinator/" not in message


def test_sides_with_different_parameters_list_the_nearest_names(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "names", paddle=PADDLE_SIDE.replace("self.fc1", "self.dense1")))
    assert ended.code == 2
    message = ended.result["error"]["message"]
    assert "torch only:  fc1.weight" in message and "paddle only: dense1.weight" in message and "rename" in message


def test_a_side_that_is_stopped_because_a_run_failed_ends_without_a_crash_report(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "names", paddle=PADDLE_SIDE.replace("self.fc1", "self.dense1")))
    assert [(ended.folder / f"{side}.log").read_text() for side in ("torch", "paddle")] == ["", ""]
    assert "SIGTERM" not in ended.stderr


def test_a_side_that_tidies_up_when_it_is_stopped_may_do_so(tmp_path: Path) -> None:
    tidy = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(print('tidied up')))\n"
    ended = run(write_case(tmp_path / "names", paddle=tidy + PADDLE_SIDE.replace("self.fc1", "self.dense1")))
    assert ended.code == 2
    assert (ended.folder / "paddle.log").read_text().startswith("tidied up\n")


def test_a_data_script_with_too_few_batches_says_how_many_it_gave(tmp_path: Path) -> None:
    case = write_case(tmp_path / "few")
    (case / "data.py").write_text((case / "data.py").read_text().replace("range(case.steps)", "range(2)"))
    ended = run(case)
    assert ended.code == 2
    assert "gave 2 batches, the case runs 3 steps" in ended.result["error"]["message"]


def test_an_interpreter_without_the_framework_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    ended = run(write_case(tmp_path / "bare", paddle_python="no_such_environment"))
    assert ended.code == 3
    assert "stepalign env create no_such_environment" in ended.result["error"]["message"]


def test_a_missing_case_and_a_misspelt_key_are_wrong_usage(tmp_path: Path) -> None:
    assert stepalign("run", tmp_path / "nowhere", cwd=tmp_path).code == 2
    ended = stepalign("run", write_case(tmp_path / "typo", "stepz = 3"), cwd=tmp_path)
    assert ended.code == 2
    assert "did you mean 'steps'?" in ended.stderr


def test_a_worker_that_dies_leaves_the_finished_steps_and_its_name(tmp_path: Path) -> None:
    deadly = (
        "if len(calls) == 3:\n        import os; os.kill(os.getpid(), 11)\n    calls.append(1)\n    return "
        "nn.functional.cross_entropy("
    )
    torch = TORCH_SIDE.replace("return nn.functional.cross_entropy(", deadly)
    ended = run(write_case(tmp_path / "dies", "steps = 5", torch="calls = []\n" + torch))
    assert ended.code == 3
    assert ended.result["verdict"] == "failed"
    assert "SIGSEGV(-11)" in ended.result["error"]["message"]
    assert ended.result["error"]["step"] == 3 and ended.result["error"]["side"] == "torch"
    assert ended.result["steps_completed"] == 3
    assert "Fatal Python error: Segmentation fault" in (ended.folder / "torch.log").read_text()


def test_a_run_is_replayed_from_its_folder_to_a_step_bit_by_bit(tmp_path: Path) -> None:
    ended = run(
        write_case(tmp_path / "again", paddle=PADDLE_SIDE.replace("nn.functional.relu(", "nn.functional.gelu("))
    )
    replayed = stepalign("replay", ended.folder, "--step", "2", "--json", cwd=tmp_path)
    assert replayed.code == 1
    assert replayed.result["unlike_the_run"] == []
    modules = {module["torch_name"]: module["passed"] for module in replayed.result["modules"]}
    assert not modules["fc2"]
    assert stepalign("replay", ended.folder, "--step", "7", cwd=tmp_path).code == 2


def test_a_weight_that_is_ignored_does_not_make_a_side_look_random(tmp_path: Path) -> None:
    layer = "self.fc2 = nn.Linear(6, 3)"
    torch = TORCH_SIDE.replace(layer, layer + "\n        self.gain = nn.Parameter(torch.full((6,), 2.0))")
    torch = torch.replace("self.norm(self.fc1(x))", "self.norm(self.fc1(x)) * self.gain")
    ones = "self.create_parameter([6], default_initializer=nn.initializer.Constant(1.0))"
    paddle = PADDLE_SIDE.replace(layer, f"{layer}\n        self.gain = {ones}")
    paddle = paddle.replace("self.norm(self.fc1(x))", "self.norm(self.fc1(x)) * self.gain")
    toml = 'steps = 2\n[weights]\nignore = ["gain", "no_such_name"]\n'
    ended = run(write_case(tmp_path / "ignored", toml, torch=torch, paddle=paddle))
    assert ended.code == 1
    assert ended.result["causes"][0]["category"] == "forward"
    assert not any(cause["category"] == "randomness" for cause in ended.result["causes"])
    assert any("'no_such_name' fits no tensor" in warning for warning in ended.result["warnings"])
    assert any("that train: gain in torch and gain in paddle; neither" in warning for warning in ended.result["warnings"])


def test_a_bare_key_near_one_of_the_case_is_not_taken_for_an_option(tmp_path: Path) -> None:
    ended = stepalign("run", write_case(tmp_path / "near"), "--set", "stpes=3", cwd=tmp_path)
    assert ended.code == 2 and "did you mean steps?" in ended.stderr
