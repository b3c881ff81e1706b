"""One side now, the other later: a recording gives the verdict of a live run, and is refused where it does not fit."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stepalign as api
from stepalign.coordinator.cases.choice import choose_case
from stepalign.coordinator.recordings.batches import open_batches
from stepalign.coordinator.recordings.files import RecordingFiles, RecordingWriter
from stepalign.coordinator.recordings.playback import Playback
from stepalign.coordinator.recordings.recording import Recording, open_recording
from stepalign.protocol import messages
from stepalign.protocol.errors import CaseError

from ..real_cases import DATA, PADDLE_SIDE, TORCH_SIDE, run, stepalign, write_case

SCHEDULES = (
    '\n\ndef schedule(case):\n    optimizer = make_optimizer([nn.Parameter(torch.zeros(1))], case)\n'
    "    return optimizer, make_scheduler(optimizer)\n",
    "\n\ndef schedule(case):\n    scheduler = make_scheduler()\n"
    "    return make_optimizer([paddle.create_parameter([1], 'float32')], case, scheduler), scheduler\n",
)
TOML = "steps = 3\n[schedule]\nsteps = 20\n[tolerance]\ngradient = { rtol = 1e-8, atol = 1e-9 }"
"""A tolerance that rounding does not keep, so that the noise control decides."""

BAD_PADDLE = PADDLE_SIDE.replace("nn.LayerNorm(6)", "nn.LayerNorm(6, epsilon=1e-3)") + SCHEDULES[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record the torch side of a small case into a .zip; its script and data are gone afterwards."""
    folder = tmp_path_factory.mktemp("recorded")
    case = write_case(folder / "case", TOML, TORCH_SIDE + SCHEDULES[0], PADDLE_SIDE + SCHEDULES[1])
    ended = stepalign("record", case, "--quiet", "--out", "torch.zip", cwd=folder)
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("recorded the torch side in torch.zip; compare with: stepalign run ")
    assert sorted(path.name for path in folder.iterdir()) == ["case", "torch.zip"]
    return folder / "torch.zip"


@pytest.fixture
def recording(place: Path) -> Recording:
    return open_recording(place)


def without_what_a_live_side_alone_has(result: dict[str, Any]) -> dict[str, Any]:
    """Drop pids, the live torch worker's cores, and what says that a side was recorded."""
    for side in ("torch", "paddle"):
        for key in ("pid", "cores", "gpu", "threads", "recorded"):
            result["sides"][side].pop(key, None)
    result["compared"].pop("torch side", None)
    return result


@pytest.mark.parametrize(("paddle", "code"), [(PADDLE_SIDE + SCHEDULES[1], 0), (BAD_PADDLE, 1)], ids=["aligned", "diverged"])
def test_a_verdict_against_a_recording_is_that_of_a_live_run_field_by_field(
    place: Path, tmp_path: Path, paddle: str, code: int
) -> None:
    live = run(write_case(tmp_path / "case", TOML, TORCH_SIDE + SCHEDULES[0], paddle))
    (tmp_path / "case" / "torch_side.py").unlink()
    (tmp_path / "case" / "data.py").unlink()
    later = stepalign("run", tmp_path / "case", "--against", place, cwd=tmp_path, out=tmp_path / "later")
    assert (live.code, later.code) == (code, code), later.stderr
    assert later.result["sides"]["torch"]["recorded"] == open_recording(place).made
    told = stepalign("report", later.folder, cwd=tmp_path).stdout
    assert f"(recorded {open_recording(place).made})" in " ".join(told.split())
    assert "torch.log" not in {path.name for path in later.folder.iterdir()}
    if code:
        assert live.result["first_divergence"]["torch_name"] == "norm" and live.result["causes"]
    else:
        assert any("torch against itself" in warning for warning in live.result["warnings"])
    ours, theirs = (without_what_a_live_side_alone_has(ended.result) for ended in (live, later))
    assert ours == theirs


def test_a_recording_is_portable_plain_files_that_numpy_and_json_read(place: Path, recording: Recording, tmp_path: Path) -> None:
    with zipfile.ZipFile(place) as archive:
        assert all(name.endswith((".json", ".npz")) for name in archive.namelist())
        archive.extractall(tmp_path / "folder")
        with archive.open("reference/000002.npz") as file:
            step = np.load(file, allow_pickle=False)
            assert step["gradient/fc1.weight"].shape == (6, 6) and step["loss"].shape == ()
    index = json.loads((tmp_path / "folder" / "recording.json").read_text(encoding="utf-8"))
    assert index["settings"]["steps"] == 3 and index["schedule"]["steps"] == 20 and index["control"] is True
    assert str(place.parent) not in json.dumps({key: index[key] for key in index if key != "facts"})
    unpacked = open_recording(tmp_path / "folder")
    assert unpacked.declaration == recording.declaration
    np.testing.assert_array_equal(unpacked.initial()["fc1.weight"], recording.initial()["fc1.weight"])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"steps": 2}, "steps was 3, the run has 2"),
        ({"dtype": "float64"}, "dtype was 'float32', the run has 'float64'"),
        (
            {"mode": "train", "assignments": ["hidden=4"]},
            "mode was 'eval', the run has 'train'; options was {}, the run has {'hidden': 4}",
        ),
        ({"assignments": ["weights.source=none"]}, "weights.source was 'torch', the run has 'none'"),
    ],
)
def test_a_recording_of_another_run_is_refused_with_every_reason(place: Path, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(CaseError) as caught:
        choose_case(place.parent / "case", {}, against=place, **changed)
    assert f"the recorded torch side does not fit this run: {reason}. Record again" in str(caught.value)


def test_a_recording_that_was_changed_or_is_none_is_refused(place: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(place) as archive:
        archive.extractall(tmp_path / "changed")
    index = tmp_path / "changed" / "recording.json"
    np.savez(tmp_path / "changed" / "initial.npz", **{"fc1.weight": np.zeros(3)})
    with pytest.raises(CaseError, match=r"initial.npz is not what was recorded: its digest differs"):
        open_recording(tmp_path / "changed").initial()
    plain = json.loads(index.read_text(encoding="utf-8"))
    for change, message in (
        ({"version": 99}, "is a recording of version 99; this stepalign reads version 1"),
        ({"format": "other"}, "is not a recording: its format is 'other'"),
        ({"facts": {}}, "not an index that stepalign wrote"),
        ({"side": "jax"}, "side: expected torch or paddle, found 'jax'"),
    ):
        index.write_text(json.dumps({**plain, **change}), encoding="utf-8")
        with pytest.raises(CaseError, match=message):
            open_recording(tmp_path / "changed")
    (tmp_path / "text.zip").write_text("no archive", encoding="utf-8")
    for place in (tmp_path / "text.zip", tmp_path, tmp_path / "missing"):
        with pytest.raises(CaseError, match=r"recording.json cannot be read"):
            open_recording(place)


def test_a_pickle_in_a_recording_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    np.savez(tmp_path / "r" / "initial.npz", w=np.array([{}], dtype=object))
    content = (tmp_path / "r" / "initial.npz").read_bytes()
    index = {"files": {"initial.npz": hashlib.sha256(content).hexdigest()}}
    (tmp_path / "r" / "recording.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CaseError, match=r"initial.npz holds no plain arrays"):
        RecordingFiles(tmp_path / "r").arrays("initial.npz")


def test_a_played_side_answers_only_what_it_saw(recording: Recording) -> None:
    played = Playback(recording, jitter=False)
    batch = recording.batch(1)
    answer = played.answer(messages.Batch(1, batch, ("gradient",)))
    assert isinstance(answer, messages.StepResult) and set(answer.tensors) == {"gradient"}
    repeated = played.answer(messages.Batch(1, {}, ("gradient",), again=True))
    assert isinstance(repeated, messages.StepResult) and repeated.batch_digest == answer.batch_digest
    first = played.answer(messages.Batch(0, recording.batch(0), ("activation",), ("fc1",)))
    assert isinstance(first, messages.StepResult)
    assert {key.partition("@")[0] for key in first.tensors["activation"]} == {"fc1"}
    other = {**batch, "x": batch["x"] + 1}
    weights = {**recording.initial(), "fc2.bias": np.ones(3, np.float32)}
    for message, reason in (
        (messages.Batch(1, other), "saw another batch at step 1: the data have changed since"),
        (messages.Batch(1, batch, ("activation",), ("*",)), "has no activation of step 1: record again with --activations 1"),
        (messages.Batch(7, batch), "has 3 steps: record again with --steps 8"),
        (messages.LoadWeights(weights), "started from other weights"),
        (messages.ReadRates(21), "has 20 steps of the schedule: record again with schedule.steps = 21"),
        (messages.LoadState({}, {}), "cannot answer LoadState"),
    ):
        with pytest.raises(CaseError, match=reason):
            played.answer(message)
    assert played.answer(messages.LoadWeights(recording.initial())) == messages.WeightsLoaded({})


def test_data_that_changed_since_are_refused_where_the_recording_bears_digests_alone(place: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(place) as archive:
        archive.extractall(tmp_path / "digests")
    index = tmp_path / "digests" / "recording.json"
    plain = json.loads(index.read_text(encoding="utf-8"))
    plain["files"] = {name: value for name, value in plain["files"].items() if not name.startswith("batches/")}
    index.write_text(json.dumps(plain), encoding="utf-8")
    shutil.copytree(place.parent / "case", tmp_path / "case")
    case = choose_case(tmp_path / "case", {}, against=tmp_path / "digests")
    played = open_batches(choose_case(tmp_path / "case", {}, against=place))
    assert [played.digest(step) for step in range(3)] == [open_batches(case).digest(step) for step in range(3)]
    np.testing.assert_array_equal(open_batches(case)[2]["x"], open_recording(place).batch(2)["x"])
    (tmp_path / "case" / "data.py").write_text(DATA.replace("(0, 3, 8)", "(0, 2, 8)"), encoding="utf-8")
    with pytest.raises(CaseError, match="the batch of step 0 has another digest than the one that was recorded"):
        open_batches(case)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "paddle"}, r'the paddle side cannot be recorded: weights.source = "torch" takes its initial weights'),
        ({"assignments": ["compare.dropout=shared"]}, 'compare.dropout = "shared" cannot be recorded'),
        ({"side": "paddle", "assignments": ["weights.source=none", "compare.resync=1"]}, "compare.resync gives paddle"),
        ({"side": "jax"}, "side: expected"),
        ({"out": "torch.zip"}, "torch.zip is there already"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_starts(
    place: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(place.parent)
    with pytest.raises(CaseError, match=message):
        api.record("case", **options)
    assert sorted(path.name for path in place.parent.iterdir()) == ["case", "torch.zip"]


def test_a_recording_that_fails_leaves_nothing(tmp_path: Path) -> None:
    case = write_case(tmp_path / "case", torch=TORCH_SIDE.replace("def build", "def built"))
    with pytest.raises(CaseError, match="has no function build"):
        api.record(case, out=tmp_path / "made" / "folder")
    assert list((tmp_path / "made").iterdir()) == []
    writer = RecordingWriter(tmp_path / "part.zip")
    writer.add("a.npz", {"a": np.zeros(1)})
    writer.discard()
    assert not list(tmp_path.glob("*.zip")) and not list(tmp_path.glob(".*"))
