"""The built-in demo: the numbers are those of a plain script, and reprod_log itself reads what is left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest

from ..real_cases import Ended, stepalign

REFERENCE = Path(__file__).parents[2] / "reference"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("demo")
    return stepalign("demo", cwd=folder, out=folder / "out", timeout_s=600)


def test_the_demo_is_aligned_over_ten_steps(demo: Ended) -> None:
    assert demo.code == 0, demo.stderr
    assert demo.result["verdict"] == "aligned" and demo.result["steps_completed"] == 10
    assert demo.result["case"]["mode"] == "eval" and demo.result["case"]["dtype"] == "float32"


def test_both_logs_of_step4_have_the_exact_format(demo: Ended) -> None:
    stamp = r"\[\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\] root INFO: "
    losses = (demo.folder / "bp_align_diff.log").read_text().splitlines()
    rates = (demo.folder / "scheduler_diff.log").read_text().splitlines()
    for lines, keys in (
        (losses, [f"loss_{step}" for step in range(10)]),
        (rates, [f"step_{step}_lr" for step in (100, 500, 1000, 2000, 4000)]),
    ):
        assert len(lines) == 2 * len(keys) + 1
        for key, name, value in zip(keys, lines[0::2], lines[1::2]):
            assert re.fullmatch(stamp + key + ": ", name)
            assert re.fullmatch(stamp + r"\tmean diff: check passed: True, value: \S+", value)
        assert re.fullmatch(stamp + "diff check passed", lines[-1])


def test_the_harness_changes_no_bit_of_either_sides_losses_and_rates(
    demo: Ended, tmp_path: Path, torch_python: Path, paddle_python: Path
) -> None:
    weights = tmp_path / "weights.npz"
    threads = demo.result["sides"]["torch"]["threads"]
    plain: Dict[str, Dict[str, Any]] = {}
    for side, python, script, extra in (
        ("torch", torch_python, "plain_torch.py", ["--write"]),
        ("paddle", paddle_python, "plain_paddle.py", []),
    ):
        done = subprocess.run(
            [str(python), str(REFERENCE / script), str(weights), *extra, "--threads", str(threads)],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        plain[side] = json.loads(done.stdout.splitlines()[-1])
    for side in ("torch", "paddle"):
        assert [float.fromhex(loss) for loss in plain[side]["losses_hex"]] == demo.result["series"]["loss"][side]
        assert [rates[0] for rates in plain[side]["rates"]] == [rates[0] for rates in demo.result["series"]["lr"][side]]


def test_reprod_log_itself_reads_both_pairs_and_says_the_same(demo: Ended, tmp_path: Path, reprod_python: Path) -> None:
    script = (
        "import sys\n"
        "from reprod_log import ReprodDiffHelper\n"
        "helper = ReprodDiffHelper()\n"
        "a, b = (helper.load_info(path) for path in sys.argv[1:3])\n"
        "helper.compare_info(a, b)\n"
        "helper.report(path=sys.argv[3])\n"
    )
    for stem, log in (("bp_align", "bp_align_diff.log"), ("lr_align", "scheduler_diff.log")):
        theirs = tmp_path / log
        arguments = [str(demo.folder / f"{stem}_{side}.npy") for side in ("torch", "paddle")]
        done = subprocess.run(
            [str(reprod_python), "-c", script, *arguments, str(theirs)],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert _without_times(theirs) == _without_times(demo.folder / log)


def test_the_arrays_hold_the_losses_of_the_table(demo: Ended) -> None:
    from stepalign.coordinator.results.reprod_npy import read_reprod_npy

    arrays = read_reprod_npy(demo.folder / "bp_align_torch.npy")
    assert [float(arrays[f"loss_{step}"]) for step in range(10)] == demo.result["series"]["loss"]["torch"]
    assert arrays["loss_0"].dtype == np.float32


def _without_times(path: Path) -> List[str]:
    return [re.sub(r"^\[[^\]]*\] ", "", line) for line in path.read_text().splitlines()]
