"""Runs one cell through the command line and says what a user would have seen, and what stayed behind."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.cell import STEPS, Cell, Observed, Running, Scene

ROOT = Path(__file__).parents[2]
DOUBLES = ROOT / "tests" / "doubles"
LIMIT_S = 120.0
"""A command that takes longer is a cell that failed."""

GONE_S = 2.0
"""How long after the command's end its processes may take to be gone."""

_MARK = "STEPALIGN_FAULTS_CELL"
_CACHES = ("file torchinductor_",)
"""What a framework keeps in the temporary folder for its next run."""


def run_cell(cell: Cell) -> Observed:
    """Run one cell in folders of its own, which are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="saf-"))
    scene = Scene(folder, [], {})
    try:
        return _run(cell, scene)
    finally:
        for undo in reversed(scene.undo):
            undo()
        shutil.rmtree(folder, ignore_errors=True)


def _run(cell: Cell, scene: Scene) -> Observed:
    folder = scene.folder
    mark, note, temporary = uuid.uuid4().hex, folder / "note", folder / "t"
    temporary.mkdir()
    case, out = folder / "case", folder / "out"
    write_case(cell, case, note)
    entry = [str(DOUBLES / "run_with_doubles.py")] if cell.workers == "double" else ["-m", "stepalign.coordinator.cli"]
    scene.arguments = [sys.executable, *entry, cell.command, str(case), "--out", str(out), "--json"]
    scene.environment = {**os.environ, "TMPDIR": str(temporary), _MARK: mark, "PYTHONPATH": ""}
    if cell.prepare is not None:
        cell.prepare(scene)
    before = _shared_memory()
    with (
        open(folder / "stdout", "w", encoding="utf-8") as stdout,
        open(folder / "stderr", "w", encoding="utf-8") as stderr,
    ):
        started = time.monotonic()
        process = subprocess.Popen(
            scene.arguments, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, cwd=folder,
            env=scene.environment, start_new_session=True, preexec_fn=lambda: _limit(scene),  # noqa: PLW1509
        )  # fmt: skip
        running = Running(process, folder, out, note, scene.undo)
        try:
            acted = _act(cell, running)
            process.wait(max(1.0, started + LIMIT_S - time.monotonic()))
            ended = time.monotonic()
        except (subprocess.TimeoutExpired, TimeoutError) as error:
            acted = ended = time.monotonic()
            process.kill()
            process.wait()
            stderr.write(f"\n{error}\n")
    fault = acted if acted is not None else _time_of(note, started)
    left = _left_behind(mark, note, temporary, before)
    gone = time.monotonic()
    text = (folder / "stdout").read_text(encoding="utf-8", errors="replace")
    errors = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    if "--out" in scene.arguments:
        out = Path(scene.arguments[scene.arguments.index("--out") + 1])
    message, verdict, steps, report = _results(out, text, errors)
    seen = Observed(
        cell, process.returncode, message, ended - fault, gone - fault, verdict, steps, report, left, (), output=text + errors
    )
    return Observed(**{**vars(seen), "problems": tuple(problems(seen))})


def problems(seen: Observed) -> Iterator[str]:
    """Yield what differs from what the cell expects."""
    expected = seen.cell.expected
    if seen.exit_code != expected.exit_code:
        yield f"exit code {seen.exit_code}, expected {expected.exit_code}"
    if not re.search(expected.message, seen.message):
        yield f"message {seen.message!r}, expected {expected.message!r}"
    last_s = max(seen.seconds, seen.gone_s) if expected.exit_code < 0 else seen.seconds
    if last_s > expected.within_s:
        yield f"{last_s:.1f} s, expected at most {expected.within_s:g}"
    if seen.verdict != expected.verdict:
        yield f"verdict {seen.verdict or 'none'}, expected {expected.verdict or 'none'}"
    if seen.steps < expected.steps:
        yield f"{seen.steps} steps kept, expected {expected.steps}"
    if expected.reported is not None and seen.report_code != expected.reported:
        yield f"`stepalign report` ended with {seen.report_code}, expected {expected.reported}"
    if seen.left:
        yield f"left behind: {', '.join(seen.left)}"
    if "Traceback" in seen.message or "this is a mistake of stepalign's own" in seen.output:
        yield "stepalign's own traceback"


def write_case(cell: Cell, case: Path, note: Path) -> None:
    """Write the cell's case: tiny, for doubles or for real workers, with the fault's places in the sides' environment."""
    case.mkdir(parents=True)
    real = cell.workers == "real"
    lines = [f"steps = {STEPS}", f'dtype = "{"float32" if real else "float64"}"', cell.toml.partition("[")[0]]
    for side, injected in (("torch", cell.torch), ("paddle", cell.paddle)):
        if real:
            script = f"import misbehaviour\nmisbehaviour.arm('build')\n{REAL_SIDES[side]}"
        else:
            script = (DOUBLES / "numpy_side.py").read_text(encoding="utf-8")
        (case / f"{side}_side.py").write_text(cell.scripts.get(f"{side}_side.py", script), encoding="utf-8")
        lines += [f"[{side}]", f'script = "{side}_side.py"', 'device = "cpu"', f"[{side}.env]"]
        lines += [f'STEPALIGN_DOUBLE = "{injected}"']
        lines += [f"STEPALIGN_DOUBLE_NOTE = {json.dumps(str(note) if injected else '')}"]
        if real and injected:
            lines += [f"PYTHONPATH = {json.dumps(str(case))}"]
    if real:
        shutil.copy(DOUBLES / "misbehaviour.py", case / "misbehaviour.py")
        start = "import misbehaviour\nmisbehaviour.arm_interpreter()\n"
        (case / "sitecustomize.py").write_text(start, encoding="utf-8")
    lines += ["[data]", f'source = "{"data.py" if "data.py" in cell.scripts else "data.npz"}"']
    lines += ["".join(cell.toml.partition("[")[1:])]
    (case / "case.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    random = np.random.default_rng(7)
    if real:
        np.savez(case / "data.npz", x=random.normal(size=(6, 5)).astype(np.float32), y=random.integers(0, 3, 6))
    else:
        np.savez(case / "data.npz", x=random.normal(size=(4, 2)), y=random.normal(size=(4, 3)))
    if "data.py" in cell.scripts:
        (case / "data.py").write_text(cell.scripts["data.py"], encoding="utf-8")


REAL_SIDES = {
    "torch": """\
import torch
from stepalign.workers import Training


def loss(model, batch):
    return torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def build(case):
    model = torch.nn.Linear(5, 3)
    return Training(model=model, loss=loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
""",
    "paddle": """\
import paddle
from stepalign.workers import Training


def loss(model, batch):
    return paddle.nn.functional.cross_entropy(model(batch["x"]), batch["y"])


def build(case):
    model = paddle.nn.Linear(5, 3)
    return Training(model=model, loss=loss, optimizer=paddle.optimizer.SGD(0.1, parameters=model.parameters()))
""",
}


def _act(cell: Cell, running: Running) -> float | None:
    """Do what the cell does to the command once its worker is where it should be; return when that was."""
    if cell.act is None:
        return None
    if cell.torch or cell.paddle:
        wait_for(lambda: running.note.exists() or running.process.poll() is not None, "the worker's note")
    moment = time.monotonic()
    told: float | None = cell.act(running)
    return moment if told is None else told


def wait_for(true: Any, what: str, timeout_s: float = 60.0) -> None:
    """Look until ``true()``; raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what}")
        time.sleep(0.005)


def _time_of(note: Path, otherwise: float) -> float:
    """Return the moment, on the monotonic clock, at which a worker wrote its note."""
    if not note.exists():
        return otherwise
    return note.stat().st_mtime - time.time() + time.monotonic()


def _limit(scene: Scene) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, and what is started inherits that
    for what, most in scene.limits.items():
        resource.setrlimit(what, (most, most))


def _results(out: Path, printed: str, errors: str) -> tuple[str, str, int, int | None]:
    """Return the message, the verdict, the finished steps of the run folder, and how `stepalign report` ended on it.

    Message and verdict are what the command printed, or where it was killed what `stepalign report` says.
    """
    told = [line for line in errors.splitlines() if line.startswith("stepalign: ")]
    result, report, steps = _parsed(printed), None, 0
    if os.path.isfile(out / "steps.jsonl"):
        steps = (out / "steps.jsonl").read_bytes().count(b"\n")
        command = [sys.executable, "-m", "stepalign.coordinator.cli", "report", str(out), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}, check=False)
        report = done.returncode
        result = result or _parsed(done.stdout)
    message = (result.get("error") or {}).get("message", "")
    message = message or "; ".join(text for text in result.get("warnings", ()) if "worker" in text)
    message = message or (told[-1].removeprefix("stepalign: ") if told else "")
    return next(iter(message.splitlines()), ""), result.get("verdict", ""), steps, report


def _parsed(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        return {}
    return found


def _left_behind(mark: str, note: Path, temporary: Path, before: frozenset[str]) -> tuple[str, ...]:
    """Return what is still there: processes that bear the mark or are in the note, files, shared memory."""
    noted = [int(pid) for pid in note.read_text(encoding="ascii").split()] if note.exists() else []
    deadline = time.monotonic() + GONE_S
    while True:
        left = [*_processes(mark), *(f"process {pid}" for pid in noted if _is_alive(pid))]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for text in left:
        os.kill(int(text.split()[1]), signal.SIGKILL)
    found = sorted(temporary.rglob("*"))
    files = [f"{'socket' if path.is_socket() else 'file'} {path.relative_to(temporary)}" for path in found]
    kept = [text for text in files if not text.startswith(_CACHES)]
    return (*left, *kept, *(f"/dev/shm/{name}" for name in sorted(_shared_memory() - before) if not _is_others(name)))


def _is_others(name: str) -> bool:
    """Say whether shared memory bears the number of a process that runs on: another program's, of this machine."""
    return any(_is_alive(int(digits)) for digits in re.findall(r"[0-9]+", name))


def _processes(mark: str) -> Iterator[str]:
    wanted = f"{_MARK}={mark}".encode()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environ and _is_alive(int(entry)):
            yield f"process {entry} {Path(f'/proc/{entry}/comm').read_text(encoding='utf-8').strip()}"


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except OSError:
        return False
    return state not in (b"Z", b"X")


def _shared_memory() -> frozenset[str]:
    try:
        return frozenset(os.listdir("/dev/shm"))
    except OSError:
        return frozenset()
