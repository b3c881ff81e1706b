"""Runs through shared memory: the same judgements as through frames, nothing believed unseen, nothing inherited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepalign.coordinator.cases.batches import BatchSource
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.processes import worker_process
from stepalign.coordinator.sessions.session import Session
from stepalign.coordinator.sessions.step_plan import StepPair, StepPlan
from stepalign.protocol.errors import ProtocolError

from ..real_cases import PADDLE_SIDE, TORCH_SIDE, stepalign, write_case

WIDE = [("Linear(6, 6)", "Linear(6, 300)"), ("LayerNorm(6)", "LayerNorm(300)"), ("Linear(6, 3)", "Linear(300, 300)")]


@pytest.fixture(scope="module")
def wide_case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a case whose second layer's weight has 360 kB; torch clips its gradients, paddle does not."""
    torch, paddle = TORCH_SIDE, PADDLE_SIDE
    for old, new in WIDE:
        torch, paddle = torch.replace(old, new), paddle.replace(old, new)
    clip = "after_backward=lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1), scheduler="
    torch = torch.replace("scheduler=make", clip + "make")
    return write_case(tmp_path_factory.mktemp("wide") / "case", torch=torch, paddle=paddle)


def test_judgements_are_the_same_by_frames_by_memory_and_by_both(wide_case: Path, tmp_path: Path) -> None:
    lines, results = {}, {}
    for memory_mib in (0, 1, 64):
        ended = stepalign(
            "run", wide_case, "--set", f"collect.memory_mib={memory_mib}", cwd=tmp_path, out=tmp_path / str(memory_mib)
        )
        assert ended.code == 1, ended.stderr
        found = [json.loads(line) for line in (ended.folder / "steps.jsonl").read_text().splitlines()]
        lines[memory_mib] = [{key: value for key, value in line.items() if key != "seconds"} for line in found]
        results[memory_mib] = ended.result["first_divergence"], ended.result["causes"], ended.result["known_differences"]
    assert len(lines[0]) == 3
    assert lines[1] == lines[0] and lines[64] == lines[0]
    assert results[1] == results[0] and results[64] == results[0]


def run_doubles(make_case: Any, members: Any, side: str) -> list[StepPair]:
    case = load_case(make_case('steps = 2\ndtype = "float64"', torch_side=side, paddle_side=side))
    pairs: list[StepPair] = []
    with Session(case, members, "train", lambda: None) as session:
        session.start()
        session.build()
        session.exchange_weights()
        session.step(StepPlan(0, 2, lambda step: ("parameter",), lambda step: ()), BatchSource(case), pairs.append)
    return pairs


def test_a_worker_that_points_beyond_its_memory_broke_the_protocol(make_case: Any, make_members: Any) -> None:
    from ...doubles.stage import NUMPY_SIDE

    with pytest.raises(ProtocolError, match=r"torch worker broke the protocol: StepResult.tensors.parameter.fc.bias: .* inside"):
        run_doubles(make_case, make_members(torch="StepResult:1=beyond_memory", memory_mib=1), NUMPY_SIDE)


def test_where_the_system_gives_no_memory_everything_travels_as_frames(
    make_case: Any, make_members: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ...doubles.stage import NUMPY_SIDE

    def refuse(size_bytes: int) -> None:
        raise OSError(27, "File too large")

    monkeypatch.setattr(worker_process, "open_memory", refuse)
    assert [pair.step for pair in run_doubles(make_case, make_members(memory_mib=1), NUMPY_SIDE)] == [0, 1]


def test_a_workers_children_inherit_neither_the_files_nor_their_pages(
    make_case: Any, make_members: Any, tmp_path: Path
) -> None:
    from ...doubles.stage import NUMPY_SIDE

    found = tmp_path / "found"
    looking = f"""
import os, subprocess, sys

listing = "import os; print([os.readlink(f'/proc/self/fd/{{n}}') for n in os.listdir('/proc/self/fd') if int(n) > 2])"
seen = subprocess.run(
    [sys.executable, "-c", listing.replace("os.readlink(", "os.path.realpath(")],
    close_fds=False, capture_output=True, text=True, check=True,
).stdout
own = open("/proc/self/maps").read()
pid = os.fork()
if not pid:
    open("{found}", "w").write(seen + open("/proc/self/maps").read())
    os._exit(0)
os.waitpid(pid, 0)
assert "memfd:stepalign" in own, own
"""
    run_doubles(make_case, make_members(memory_mib=1), looking + NUMPY_SIDE)
    assert "python" in found.read_text() and "memfd:stepalign" not in found.read_text()
