"""Translated trainings, driven in the real frameworks beside what they translate."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from stepalign.coordinator.atlas.applying import Side
from stepalign.coordinator.atlas.measured import measured
from stepalign.coordinator.atlas.training import TranslatedTraining, training_code
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.cli.main import main
from stepalign.coordinator.cli.starting import INIT_CASE
from stepalign.coordinator.environments import managed
from stepalign.coordinator.running.run_translate import Expressions, translated, write_expressions
from stepalign.coordinator.sessions.construction_session import ConstructionSession
from stepalign.coordinator.sessions.members import find_crew
from stepalign.protocol.errors import CaseError
from stepalign.protocol.messages import Constructed

STEPS = 30
TORCH_LR = "torch.optim.lr_scheduler."
CLIP = "torch.nn.utils.clip_grad_norm_(params, 1.0)"
TORCH = {
    "adamw": Expressions("torch.optim.AdamW(params, lr=3e-3, weight_decay=0.05)"),
    "sgd": Expressions("torch.optim.SGD(params, lr=0.1)", f"{TORCH_LR}StepLR(optimizer, 7, gamma=0.5)", CLIP),
    "momentum_groups": Expressions(
        "torch.optim.SGD([{'params': params[:2], 'weight_decay': 0.1}, {'params': params[2:], 'lr': 0.05}], "
        "lr=0.1, momentum=0.9)",
        f"{TORCH_LR}LambdaLR(optimizer, lambda t: min(1.0, (t + 1) / 10))",
        CLIP,
    ),
    "warm_up": Expressions(
        "torch.optim.Adam(params, lr=0.01, betas=(0.8, 0.95))",
        f"{TORCH_LR}SequentialLR(optimizer, [{TORCH_LR}LinearLR(optimizer, 0.1, total_iters=5), "
        f"{TORCH_LR}CosineAnnealingLR(optimizer, 25)], [5])",
    ),
    "adagrad": Expressions("torch.optim.Adagrad(params)"),
}
PADDLE = {
    "momentum": Expressions(
        "paddle.optimizer.Momentum(paddle.optimizer.lr.ExponentialDecay(0.1, 0.9), parameters=params, use_nesterov=True, "
        "weight_decay=paddle.regularizer.L2Decay(0.01), grad_clip=paddle.nn.ClipGradByValue(0.5))"
    ),
    "adamw": Expressions("paddle.optimizer.AdamW(parameters=params, epsilon=1e-6)"),
    "groups": Expressions(
        "paddle.optimizer.Adam(0.01, parameters=[{'params': params[:2]}, {'params': params[2:], 'learning_rate': 0.5}])"
    ),
    "adadelta_defaults": Expressions("paddle.optimizer.Adadelta(parameters=params)"),
}
DRIVER = """\
import sys
import numpy as np
side, folder = sys.argv[1], sys.argv[2]
if side == "torch":
    import torch as framework
    tensor = framework.from_numpy
else:
    import paddle as framework
    tensor = framework.to_tensor
framework.set_default_dtype("float64" if side == "paddle" else framework.float64)
given, kept = dict(np.load(folder + "/given.npz")), {}
for line in open(folder + "/" + side + ".txt"):
    model = framework.nn.Sequential(framework.nn.LayerNorm(4), framework.nn.LayerNorm(3))
    params = list(model.parameters())
    for number, parameter in enumerate(params):
        if side == "torch":
            parameter.data.copy_(tensor(given[f"p{number}"]))
        else:
            parameter.set_value(tensor(given[f"p{number}"]))
    names = {side: framework, "model": model, "params": params, "group_0": params[:2], "group_1": params[2:]}
    exec(open(folder + "/" + line.strip()).read(), names)
    for step in range(int(sys.argv[3])):
        loss = sum((p * tensor(given[f"g{n}"][step])).sum() for n, p in enumerate(params))
        loss.backward()
        names["update"]()
    for number, parameter in enumerate(params):
        kept[f"{line.strip().split('.')[0]}/{number}"] = parameter.detach().numpy()
np.savez(folder + "/" + side + ".npz", **kept)
"""

pytestmark = pytest.mark.skipif(measured() is None, reason="the atlas has no measurements: python -m benchmarks.atlas")


def source_code(side: Side, asked: Expressions) -> str:
    """Return what the expressions mean, as a program of their own framework."""
    clear = "zero_grad()" if side == "torch" else "clear_grad(set_to_zero=False)"
    schedule = "getattr(optimizer, '_learning_rate', None)" if side == "paddle" else asked.schedule or "None"
    return f"""\
optimizer = {asked.optimizer}
scheduler = {schedule}
def update():
    {asked.clip or "pass"}
    optimizer.step()
    optimizer.{clear}
    if hasattr(scheduler, "step"):
        scheduler.step()
"""


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Side, ConstructionSession]]:
    case = load_case(INIT_CASE)
    crew, folder = find_crew(case), tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        found: dict[Side, ConstructionSession] = {}
        for side in ("torch", "paddle"):
            found[side] = stack.enter_context(ConstructionSession(case, crew.member(case, side, folder), lambda: None))
            found[side].start()
        yield found


def constructed(workers: dict[Side, ConstructionSession], side: Side, asked: Expressions, folder: Path) -> Constructed:
    script = folder / f"{side}_{len(list(folder.iterdir()))}.py"
    return workers[side].construct(write_expressions(asked, side, script))


@pytest.fixture(scope="module")
def translations(
    workers: dict[Side, ConstructionSession], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TranslatedTraining]:
    tmp_path = tmp_path_factory.mktemp("expressions")
    return {
        f"{side}_{name}": translated(side, constructed(workers, side, asked, tmp_path))
        for side, examples in (("torch", TORCH), ("paddle", PADDLE))
        for name, asked in examples.items()
    }


@pytest.fixture(scope="module")
def trained(
    translations: dict[str, TranslatedTraining], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """Return every training's parameters after `STEPS` updates by the same gradients, by side/name/number."""
    folder, random = tmp_path_factory.mktemp("driven"), np.random.default_rng(0)
    given = {f"p{n}": random.standard_normal(size) for n, size in enumerate((4, 4, 3, 3))}
    given.update({f"g{n}": random.standard_normal((STEPS, size)) for n, size in enumerate((4, 4, 3, 3))})
    np.savez(folder / "given.npz", **given)  # type: ignore[arg-type]
    (folder / "driver.py").write_text(DRIVER, encoding="utf-8")
    found: dict[str, np.ndarray] = {}
    files: dict[Side, list[str]] = {"torch": [], "paddle": []}
    for origin, examples in (("torch", TORCH), ("paddle", PADDLE)):
        for name, asked in examples.items():
            for side in ("torch", "paddle"):
                code = source_code(side, asked) if side == origin else training_code(translations[f"{origin}_{name}"])
                (folder / f"{origin}_{name}.{side}").write_text(code, encoding="utf-8")
                files[side].append(f"{origin}_{name}.{side}")
    for side, listed in files.items():
        (folder / f"{side}.txt").write_text("\n".join(listed), encoding="utf-8")
        python = managed.find(side, side, Path.cwd()).path
        command = [str(python), "-W", "ignore", str(folder / "driver.py"), side, str(folder), str(STEPS)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env={"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        with np.load(folder / f"{side}.npz") as stored:
            found.update({f"{side}/{key}": value for key, value in stored.items()})
    return {**found, **{f"start/{number}": given[f"p{number}"] for number in range(4)}}


@pytest.mark.parametrize("name", [*(f"torch_{name}" for name in TORCH), *(f"paddle_{name}" for name in PADDLE)])
def test_the_translated_training_updates_as_the_original_does(name: str, trained: dict[str, np.ndarray]) -> None:
    moved = 0.0
    for number in range(4):
        torch, paddle, start = (
            trained[f"torch/{name}/{number}"],
            trained[f"paddle/{name}/{number}"],
            trained[f"start/{number}"],
        )
        update = np.abs(torch - start).max()
        assert np.abs(torch - paddle).max() <= 1e-6 * update, number
        moved = max(moved, float(update))
    assert moved > 1e-5


def test_every_default_is_spelled_out(translations: dict[str, TranslatedTraining]) -> None:
    assert training_code(translations["torch_adamw"]).splitlines()[3] == (
        "optimizer = paddle.optimizer.AdamW(learning_rate=0.003, beta1=0.9, beta2=0.999, epsilon=1e-08, weight_decay=0.05, "
        "amsgrad=False, parameters=model.parameters())"
    )
    assert "epsilon=1e-10" in training_code(translations["torch_adagrad"])
    assert "rho=0.95" in training_code(translations["paddle_adadelta_defaults"])
    assert "torch.optim.AdamW(" in training_code(translations["paddle_adamw"])


def test_groups_keep_their_own_options_and_rates_as_factors(translations: dict[str, TranslatedTraining]) -> None:
    assert translations["torch_momentum_groups"].groups == ({"weight_decay": 0.1}, {"learning_rate": 0.5})
    assert translations["paddle_groups"].groups == ({}, {"lr": 0.005})
    assert "paddle.nn.utils.clip_grad_norm_" in training_code(translations["torch_momentum_groups"])


@pytest.mark.parametrize(
    ("side", "asked", "message"),
    [
        (
            "torch",
            Expressions("torch.optim.Muon([params[0].new_zeros(2, 2).requires_grad_()])"),
            "Muon has no counterpart",
        ),
        (
            "torch",
            Expressions(
                "torch.optim.SGD([{'params': params[:2]}, {'params': params[2:], 'lr': 0.05}], lr=0.1)",
                f"{TORCH_LR}CosineAnnealingLR(optimizer, 10, eta_min=0.01)",
            ),
            "paddle multiplies the whole schedule",
        ),
        ("paddle", Expressions("paddle.optimizer.Lamb(parameters=params)"), "Lamb has no counterpart"),
        (
            "paddle",
            Expressions(
                "paddle.optimizer.Adam(0.01, parameters=[{'params': params[:2]}, {'params': params[2:]}], "
                "grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0))"
            ),
            "takes the norm of each group alone",
        ),
    ],
)
def test_what_has_no_counterpart_is_refused_with_the_reason(
    side: Side, asked: Expressions, message: str, workers: dict[Side, ConstructionSession], tmp_path: Path
) -> None:
    with pytest.raises(CaseError, match=message):
        translated(side, constructed(workers, side, asked, tmp_path))


def test_an_expression_that_raises_or_is_no_code_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "torch.optim.AdamW(params, rate=1)"]) == 2
    said = capsys.readouterr().err
    assert "unexpected keyword argument 'rate'" in said
    assert main(["translate", "torch.optim.AdamW(params, lr=)"]) == 2
    assert "is no Python expression" in capsys.readouterr().err


def test_a_pairing_that_was_never_measured_is_refused(
    workers: dict[Side, ConstructionSession], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("stepalign.coordinator.atlas.training.agreement_of", lambda pairing: None)
    with pytest.raises(CaseError, match="was never measured"):
        translated("torch", constructed(workers, "torch", TORCH["adamw"], tmp_path))


def test_the_command_prints_a_program_with_what_was_measured_above_it(
    workers: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["translate", str(INIT_CASE)]) == 0
    said = capsys.readouterr().out
    assert "import paddle" in said and "def update():" in said
    assert said.startswith("# optim.") and "measured float32" in said
    compile(said, "translated", "exec")
    assert main(["translate", "AdamW(params)"]) == 2
    assert "say whose it is with --from" in capsys.readouterr().err
