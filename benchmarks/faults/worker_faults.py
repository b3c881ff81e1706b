"""Workers that die, hang, and lie."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.faults.cell import Cell, Expected, Running

SIDES = ("torch", "paddle")

PHASES = {
    "start": ("start", "start"),
    "import": ("import", "import"),
    "build": ("build", "build"),
    "weights": ("weights", "weights"),
    "step": ("forward:3", "forward of step 3"),
    "collect": ("collect:3", "collect of step 3"),
}
"""Phase -> the point where a worker is hit, and the words of the message. How many steps are kept depends on how far the
other side was: only what both finished is compared. A hang leaves it time for three."""

DEATHS = {
    "SIGKILL": r"SIGKILL\(-9\)",
    "SIGTERM": r"SIGTERM\(-15\)",
    "segfault": r"SIGSEGV\(-11\)",
    "abort": r"SIGABRT\(-6\)",
    "corrupt_heap": r"SIGABRT\(-6\)",
    "os._exit": "exit code 9",
}
RAISED = {
    "raise": "ValueError: this double was asked to raise",
    "sys.exit": "SystemExit: 3",
    "memory": "MemoryError",
    "raise_base": "BaseException: beyond Exception",
    "threads": r"RuntimeError: can't start new thread \(this machine let it start no more threads: .*ulimit -u",
}
HANGS = ("hang", "hang_native", "hang_busy", "hang_fork", "hang_deaf", "SIGSTOP")
DEADLINE_S = 2.0
DEADLINES = f"[deadline]\nstart_s = 20\nbuild_s = {DEADLINE_S}\nweights_s = {DEADLINE_S}\nstep_s = {DEADLINE_S}\nstop_s = 1\n"
REAL_BUILD_S = 20
REAL_DEADLINES = DEADLINES.replace(f"build_s = {DEADLINE_S}", f"build_s = {REAL_BUILD_S}")
_LADDER_S = 8.0
"""Stacks (1 s), SIGTERM (1 s), SIGKILL, writing the run folder, `report.html` included."""


def deaths() -> Iterator[Cell]:
    """Yield each death in each phase for the double, and those that a framework may change for real workers."""
    for phase, (point, words) in PHASES.items():
        everywhere = ("SIGKILL", "segfault", "os._exit") if phase != "step" else DEATHS
        for action, name in ((action, DEATHS[action]) for action in everywhere):
            expected = Expected(3, f"the torch worker died in phase {words}: {name}", 5.0)
            quick = (action, phase) in {("SIGKILL", "start"), ("corrupt_heap", "step")}
            yield Cell("dies", action, phase, expected, torch=f"{point}={action}", quick=quick)
        raised = () if phase == "start" else RAISED if phase == "step" else ("raise", "memory")
        for action, text in ((action, RAISED[action]) for action in raised):
            expected = Expected(3, f"the torch side failed in phase {words}: .*{text}", 5.0)
            quick = phase == "step" and action in ("memory", "threads")
            yield Cell("dies", action, phase, expected, torch=f"{point}={action}", quick=quick)
    for side in SIDES:
        for phase, action in (
            ("start", "SIGKILL"), ("import", "segfault"), ("build", "os._exit"), ("weights", "abort"),
            ("step", "segfault"), ("step", "memory"), ("collect", "sys.exit"),
        ):  # fmt: skip
            point, words = PHASES[phase]
            if action in DEATHS:
                expected = Expected(3, f"the {side} worker died in phase {words}: {DEATHS[action]}", 5.0)
            else:
                expected = Expected(3, f"the {side} side failed in phase {words}: .*{RAISED[action]}", 5.0)
            yield Cell("dies", action, phase, expected, workers="real", **{side: f"{point}={action}"})
    for side in ("", *SIDES):
        who = side or "torch"
        message = rf"the {who} worker died in phase forward of step 3: SIGKILL\(-9\) \(where nobody killed it, the machine"
        yield Cell(
            "dies", "SIGKILL from outside, 256 MiB held", "step", Expected(3, message, 5.0), act=kill_worker, quick=not side,
            workers="real" if side else "double", **{who: "forward:3=memory_and_hang"},
        )  # fmt: skip
    for action in ("segfault", "SIGKILL", "os._exit"):
        expected = Expected(0, "had done all its work, but ended by (SIGSEGV|SIGKILL|exit code 9)", 12.0, 6, "aligned")
        yield Cell("dies", action, "stop", expected, torch=f"stop={action}", toml=DEADLINES, quick=action == "segfault")
    expected = Expected(3, r"the paddle worker (died in phase \w+ of step \d+: SIG(ABRT|SEGV|BUS|ILL)|gave no answer)", 60.0)
    yield Cell(
        "dies", "nll_loss with an ignored label", "step", expected, workers="real",
        scripts={"paddle_side.py": NLL_LOSS}, toml="[deadline]\nstep_s = 10",
    )  # fmt: skip


NLL_LOSS = """\
import paddle
from stepalign.workers import Training


def loss(model, batch):
    scores = paddle.nn.functional.log_softmax(model(batch["x"]).astype("float64"))
    labels = paddle.where(batch["y"] == 0, paddle.full_like(batch["y"], -100), batch["y"])
    for _ in range(2000):
        total = paddle.nn.functional.nll_loss(scores, labels)
    return total


def build(case):
    model = paddle.nn.Linear(5, 3)
    return Training(model=model, loss=loss, optimizer=paddle.optimizer.SGD(0.1, parameters=model.parameters()))
"""
"""paddle 3.3.1 writes before its buffer where a label is ignored: the heap is damaged, which shows a little later."""


def kill_worker(running: Running) -> None:
    """Send SIGKILL to the worker alone, as the kernel's out-of-memory killer does."""
    os.kill(int(running.note.read_text(encoding="ascii").split()[0]), signal.SIGKILL)


def _kept(phase: str) -> int:
    return 3 if phase in ("step", "collect") else 0


def hangs() -> Iterator[Cell]:
    """Yield each hang in each phase that has a deadline."""
    for phase in ("build", "weights", "step", "collect"):
        point, words = PHASES[phase]
        for action in HANGS if phase == "step" else HANGS[:1] + HANGS[-1:]:
            expected = Expected(
                3, f"the torch worker gave no answer in time: it is in phase {words}", DEADLINE_S + _LADDER_S, _kept(phase)
            )
            quick = (action, phase) == ("hang_busy", "step")
            yield Cell("hangs", action, phase, expected, torch=f"{point}={action}", toml=DEADLINES, quick=quick)
    for side in SIDES:
        for phase, action in (("step", "hang_native"), ("weights", "hang")):
            point, words = PHASES[phase]
            gives = side == "torch" and phase == "weights"  # with what it built: within that deadline
            expected = Expected(
                3,
                f"the {side} worker gave no answer in time: it is in phase {words}",
                (REAL_BUILD_S if gives else DEADLINE_S) + _LADDER_S,
                _kept(phase),
            )
            fault = {side: f"{point}={action}"}
            yield Cell("hangs", action, phase, expected, workers="real", toml=REAL_DEADLINES, **fault)
    start = DEADLINES.replace("start_s = 20", f"start_s = {DEADLINE_S}")
    expected = Expected(3, "the torch worker gave no answer in time: it is in phase start", DEADLINE_S + _LADDER_S)
    yield Cell("hangs", "hang", "start", expected, torch="start=hang", toml=start)
    expected = Expected(0, "had done all its work, but ended by SIGKILL", 12.0, 6, "aligned")
    yield Cell("hangs", "hang_deaf", "stop", expected, torch="stop=hang_deaf", toml=DEADLINES)


LIES = {
    "wrong version": ("Hello=wrong_version", "start", "protocol version 99 came"),
    "another framework": ("Hello=other_framework", "start", "introduced itself as torch for paddle"),
    "another pid": ("Hello=other_pid", "start", "introduced itself as torch for torch, pid 1"),
    "the other framework built": ("Ready=wrong_framework", "build", "the torch worker holds paddle"),
    "both frameworks held": ("Ready=holds_other", "build", "the torch worker holds paddle"),
    "garbage for Hello": ("Hello=garbage", "start", "broke the protocol"),
    "garbage for Ready": ("Ready=garbage", "build", "broke the protocol"),
    "garbage for weights": ("WeightsLoaded=garbage", "weights", "broke the protocol"),
    "garbage for a step": ("StepResult:3=garbage", "step", "broke the protocol"),
    "a header of a gigabyte": ("StepResult:3=gigabyte_header", "step", "connection ended, yet it runs on: .*more than 128 MiB"),
    "shapes that do not match bytes": ("StepResult:3=gigabytes", "step", "needs .* bytes"),
    "an array missing": ("Ready=lost_frame", "build", "frame 0 is not one of"),
    "tensors missing": ("StepResult:3=no_arrays", "step", "without .*, which it was asked for"),
    "one tensor missing": ("StepResult:3=one_missing", "step", "without fc.bias"),
    "one tensor of another shape": ("StepResult:3=other_shape", "step", "fc.weight"),
    "another step": ("StepResult:3=wrong_step", "step", "sent a result of step 8, expected step 3"),
    "the same step twice": ("StepResult:3=twice", "step", "a result of step 3, expected step 4|out of turn"),
    "another message": ("StepResult:3=other_message", "step", "sent Finished out of turn"),
    "without end": ("Ready=forever", "build", "sent Ready in phase"),
    "silence": ("StepResult:3=silence", "step", "gave no answer in time|sent a result of step 4, expected step 3"),
}
"""What -> where the double does it, the phase, the message."""


def lies() -> Iterator[Cell]:
    """Yield what a worker may say that is not so."""
    for what, (injected, phase, message) in LIES.items():
        if what in ("one tensor missing", "one tensor of another shape"):
            yield Cell("lies", what, phase, Expected(1, "", 20.0, 6, "diverged"), paddle=injected, toml=DEADLINES)
            continue
        toml = DEADLINES.replace(f"step_s = {DEADLINE_S}", "step_s = 60") if "gigabyte" in what else DEADLINES
        quick = what in ("shapes that do not match bytes", "the same step twice", "an array missing")
        liar = {"paddle" if injected.startswith("WeightsLoaded") else "torch": injected}
        yield Cell("lies", what, phase, Expected(3, message, 30.0), toml=toml, quick=quick, **liar)


def kill_guard(running: Running, parents: int) -> None:
    """Send SIGKILL to the worker's parent, its guard, or to that one's parent, the outer guard."""
    pid = int(running.note.read_text(encoding="ascii").split()[0])
    for _ in range(parents):
        pid = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    os.kill(pid, signal.SIGKILL)


def nuisances() -> Iterator[Cell]:
    """Yield what a worker may do and go on."""
    fine = Expected(0, "", 20.0, 6, "aligned")
    for action in ("flood", "chdir", "fork_and_go", "spawn_and_go", "daemon_and_go", "orphans", "close_output"):
        yield Cell("babbles", action, "step", fine, torch=f"forward:3={action}", quick=action == "flood")
    for side in SIDES:
        for action in ("daemon_and_go", "flood"):
            yield Cell("babbles", action, "step", fine, workers="real", **{side: f"forward:3={action}"})
    closed = "torch worker (gave no answer|cannot be reached, yet runs on).* phase forward of step 3"
    yield Cell(
        "babbles", "close_files", "step", Expected(3, closed, 12.0), torch="forward:3=close_files", toml=DEADLINES,
    )  # fmt: skip
    # The child goes on as if it were the worker; only the worker itself may speak.
    yield Cell("babbles", "fork_and_return", "build", fine, torch="build=fork_and_return", toml=DEADLINES)
    for which, parents in (("guard", 1), ("outer guard", 2)):
        yield Cell(
            "babbles", f"{which} killed, with a daemon", "step",
            Expected(3, r"the torch worker died in phase forward of step 3: SIGKILL\(-9\)", 6.0),
            torch="forward:3=daemon", act=partial(kill_guard, parents=parents), quick=which == "guard",
        )  # fmt: skip
    died = Expected(3, r"SIGSEGV\(-11\)", 6.0)
    yield Cell("babbles", "daemon_and_die", "step", died, torch="forward:3=daemon_and_die", quick=True)
