"""Workers that die, hang and lie, as real processes: each is named at once, in every phase."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from stepalign.coordinator.processes.payload import write_payload
from stepalign.coordinator.processes.stopping import stop_workers
from stepalign.coordinator.processes.worker_log import LOG_TAIL_LINES
from stepalign.protocol import messages
from stepalign.protocol.errors import (
    CaseError,
    DeadlineExceeded,
    EnvironmentFailure,
    ProtocolError,
    StepalignError,
    WorkerFailure,
)

LONG_S = 30.0


def configure(folder: Any, **changes: Any) -> messages.Configure:
    values: dict[str, Any] = {
        "task": "train", "name": "case", "folder": str(folder), "script": str(folder / "torch_side.py"), "steps": 3,
        "mode": "eval", "dtype": "float64", "seed": 0, "device": "cpu", "threads": 1,
    }  # fmt: skip
    return messages.Configure(**{**values, **changes})


def drive(stage: Any, case: Any, role: str = "torch", timeout_s: float = LONG_S) -> messages.StepResult:
    """Take one worker through all phases of a run, one step long."""
    board = stage.switchboard
    board.greet(timeout_s)
    board.ask({role: configure(case)}, messages.Ready, timeout_s, "build")
    weights = board.ask({role: messages.SendWeights()}, messages.Weights, timeout_s, "weights")[role].tensors
    board.ask({role: messages.LoadWeights(dict(weights))}, messages.WeightsLoaded, timeout_s, "weights")
    batch = messages.Batch(
        0, dict(x=weights["fc.weight"], y=weights["fc.weight"] @ weights["fc.weight"].T), ("parameter",)
    )
    result = board.ask({role: batch}, messages.StepResult, timeout_s, "step")[role]
    stop_workers(stage.workers.values(), board, timeout_s)
    return result


PHASES = {
    "start": "start",
    "Hello": "start",
    "afterHello": "start",
    "onConfigure": "import",
    "import": "import",
    "build": "build",
    "Ready": "build",
    "onSendWeights": "wait",
    "Weights": "weights",
    "WeightsLoaded": "weights",
    "onBatch": "wait",
    "forward": "forward of step 0",
    "StepResult": "collect of step 0",
}
"""Where a double can be hit, and the phase that the coordinator names."""

DEATHS = {
    "SIGKILL": "SIGKILL(-9)",
    "segfault": "SIGSEGV(-11)",
    "abort": "SIGABRT(-6)",
    "os._exit": "exit code 9",
}


def end_of(error: StepalignError, worker: Any) -> None:
    assert worker.exit_code() is not None
    assert error.fault["side"] == "torch"  # type: ignore[attr-defined]


@pytest.mark.parametrize("point", PHASES)
def test_a_killed_worker_is_named_with_its_phase_within_a_second(stage: Any, make_case: Any, point: str) -> None:
    worker = stage.start(fault=f"{point}=SIGKILL")
    with pytest.raises(WorkerFailure) as caught:
        drive(stage, make_case())
    late_s = time.time() - stage.note().stat().st_mtime
    assert f"the torch worker died in phase {PHASES[point]}: SIGKILL(-9)" in str(caught.value)
    assert late_s < 1
    end_of(caught.value, worker)


@pytest.mark.parametrize("action", DEATHS)
def test_a_death_is_named_as_it_was(stage: Any, make_case: Any, action: str) -> None:
    stage.start(fault=f"forward={action}")
    with pytest.raises(WorkerFailure, match="died in phase forward of step 0") as caught:
        drive(stage, make_case())
    assert DEATHS[action] in str(caught.value)
    assert caught.value.fault == {"side": "torch", "phase": "forward", "step": 0, "signal": DEATHS[action]}  # type: ignore[attr-defined]


def test_a_fatal_signal_leaves_a_python_traceback_in_the_message(stage: Any, make_case: Any) -> None:
    stage.start(fault="forward=segfault")
    with pytest.raises(WorkerFailure) as caught:
        drive(stage, make_case())
    assert "the end of torch.log:" in str(caught.value)
    assert "Fatal Python error: Segmentation fault" in str(caught.value)
    assert "in train_step" in str(caught.value)


def test_a_vanished_log_does_not_hide_a_death(stage: Any, make_case: Any) -> None:
    worker = stage.start(fault="forward=SIGKILL")
    worker.spec.log.unlink()
    with pytest.raises(WorkerFailure, match=r"died in phase forward of step 0: SIGKILL\(-9\)[^\n]*$"):
        drive(stage, make_case())


def test_a_vanished_log_does_not_hide_a_hang(stage: Any, make_case: Any) -> None:
    worker = stage.start(fault="build=hang")
    worker.spec.log.unlink()
    stage.switchboard.greet(LONG_S)
    with pytest.raises(DeadlineExceeded, match="it is in phase build"):
        drive_after_greeting(stage, make_case(), 0.3)


def test_an_exit_before_the_first_word_is_told_with_the_end_of_the_log(stage: Any, make_case: Any) -> None:
    stage.start(fault="start=raise")
    with pytest.raises(WorkerFailure, match="died in phase start: exit code 1") as caught:
        drive(stage, make_case())
    assert "ValueError: this double was asked to raise" in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "kind", "exit_code", "message"),
    [
        (
            "forward=raise",
            WorkerFailure,
            3,
            "the torch side failed in phase forward of step 0: step 0 raised ValueError: this double",
        ),
        ("forward=sys.exit", WorkerFailure, 3, "step 0 raised SystemExit: 3"),
        ("build=raise", WorkerFailure, 3, "the torch side failed in phase build: ValueError: this double"),
        ("build=sys.exit", WorkerFailure, 3, "SystemExit: 3"),
        ("build=raise_case", CaseError, 2, "say that the case is wrong"),
        ("forward=raise_surrogate", WorkerFailure, 3, r"no file \\udcff\\udcfe here"),
        ("forward=raise_much", WorkerFailure, 3, "ValueError: xxxx"),
    ],
)
def test_an_exception_comes_as_the_workers_own_last_word(
    stage: Any, make_case: Any, fault: str, kind: type[StepalignError], exit_code: int, message: str
) -> None:
    stage.start(fault=fault)
    with pytest.raises(kind, match=message) as caught:
        drive(stage, make_case())
    assert caught.value.exit_code == exit_code
    assert len(str(caught.value)) < 1 << 20


def test_an_exception_beyond_exception_ends_the_worker_although_a_thread_of_the_users_still_runs(
    stage: Any, make_case: Any
) -> None:
    lingering = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "def build(case):\n    raise BaseException('beyond')\n"
    )
    stage.start()
    with pytest.raises(WorkerFailure, match="BaseException: beyond"):
        drive(stage, make_case(torch_side=lingering))


HANGS = [
    *(
        (point, action)
        for point in ("onConfigure", "build", "onSendWeights")
        for action in ("hang", "SIGSTOP", "hang_deaf")
    ),
    *(("forward", action) for action in ("hang", "hang_native", "hang_busy", "SIGSTOP", "hang_deaf")),
]


@pytest.mark.parametrize(("point", "action"), HANGS)
def test_a_hung_worker_meets_its_deadline_and_the_ladder(stage: Any, make_case: Any, point: str, action: str) -> None:
    worker = stage.start(fault=f"{point}={action}")
    stage.switchboard.greet(LONG_S)
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match="the torch worker gave no answer in time") as caught:
        drive_after_greeting(stage, make_case(), 0.6)
    assert time.monotonic() - started < 5
    assert "[deadline]" in str(caught.value)
    if action != "SIGSTOP":
        assert "numpy_worker.py" in str(caught.value), "the stacks"
        assert "in watch_the_clock" in str(caught.value), "of every thread"
    ladder = time.monotonic()
    stop_workers([worker], stage.switchboard, 0.1)
    assert worker.exit_code() is not None
    assert time.monotonic() - ladder < 3


def drive_after_greeting(stage: Any, case: Any, timeout_s: float) -> None:
    board = stage.switchboard
    board.ask({"torch": configure(case)}, messages.Ready, timeout_s, "build")
    weights = board.ask({"torch": messages.SendWeights()}, messages.Weights, timeout_s, "weights")["torch"].tensors
    batch = messages.Batch(0, dict(x=weights["fc.weight"], y=weights["fc.weight"] @ weights["fc.weight"].T))
    board.ask({"torch": batch}, messages.StepResult, timeout_s, "step")


def test_a_hang_before_the_first_word_meets_its_deadline(stage: Any, make_case: Any, wait_until: Any) -> None:
    worker = stage.start(fault="start=hang")
    wait_until(stage.note().exists)
    with pytest.raises(DeadlineExceeded, match="it is in phase start"):
        stage.switchboard.greet(0.2)
    stop_workers([worker], stage.switchboard, 0.1)
    assert worker.exit_code() is not None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("Hello=wrong_version", f"protocol version 99 came, expected {messages.PROTOCOL_VERSION}:"),
        ("Hello=garbage", "the torch worker broke the protocol"),
        ("Hello=empty", "the torch worker broke the protocol"),
        ("Hello=twice", "the torch worker sent Hello in phase build, expected Ready"),
        ("Hello=other_message", "the torch worker sent Finished in phase start, expected Hello"),
        ("Hello=other_framework", "introduced itself as torch for paddle"),
        ("Hello=other_pid", "introduced itself as torch for torch, pid 1"),
        ("Ready=garbage", "the torch worker broke the protocol: a header that is not msgpack came"),
        ("Ready=other_message", "sent Finished in phase build, expected Ready"),
        (
            "Weights=lost_frame",
            "the torch worker broke the protocol: Weights.tensors.fc.weight: frame 0 is not one of the 0",
        ),
        ("Weights=forever", "the torch worker sent Weights in phase weights, expected WeightsLoaded"),
        ("StepResult=gigabytes", r"StepResult.loss: float64\[1099511627776, 1099511627776\] needs"),
        ("StepResult=garbage", "the torch worker broke the protocol"),
    ],
)
def test_a_worker_that_lies_ends_the_conversation(stage: Any, make_case: Any, fault: str, message: str) -> None:
    stage.start(fault=fault)
    with pytest.raises(ProtocolError, match=message) as caught:
        drive(stage, make_case())
    assert caught.value.exit_code == 3
    assert caught.value.fault["side"] == "torch"  # type: ignore[attr-defined]


def test_a_double_without_a_fault_goes_through_all_phases(stage: Any, make_case: Any) -> None:
    worker = stage.start()
    result = drive(stage, make_case())
    assert set(result.tensors["parameter"]) == {"fc.weight", "fc.bias"}
    assert worker.exit_code() == 0
    assert worker.log_tail() == ""


def test_a_frame_that_is_too_large_is_told_long_before_the_deadline(stage: Any, make_case: Any) -> None:
    stage.start(fault="StepResult=gigabyte_header")
    started = time.monotonic()
    with pytest.raises(ProtocolError, match=r"the torch worker's connection ended, yet it runs on: .* more than 128 MiB"):
        drive(stage, make_case())
    assert time.monotonic() - started < LONG_S / 2


def test_a_flood_of_output_ends_in_the_log_and_harms_nothing(stage: Any, make_case: Any) -> None:
    worker = stage.start(fault="forward=flood")
    drive(stage, make_case())
    assert worker.spec.log.stat().st_size == 2 * 64 * 4096 * 21
    assert len(worker.log_tail().splitlines()) == LOG_TAIL_LINES


def test_a_worker_may_change_its_working_directory(stage: Any, make_case: Any) -> None:
    stage.start(fault="build=chdir")
    drive(stage, make_case())


def test_every_message_before_a_death_is_given_before_the_death_is_told(stage: Any, make_case: Any) -> None:
    stage.start(fault="afterStepResult=leave")
    board = stage.switchboard
    board.greet(LONG_S)
    case = make_case()
    board.ask({"torch": configure(case)}, messages.Ready, LONG_S, "build")
    weights = board.ask({"torch": messages.SendWeights()}, messages.Weights, LONG_S, "weights")["torch"].tensors
    batch = messages.Batch(0, dict(x=weights["fc.weight"], y=weights["fc.weight"] @ weights["fc.weight"].T))
    board.send("torch", batch)
    stage.workers["torch"].wait(LONG_S)
    _, message = board.next(time.monotonic() + LONG_S, ["torch"], "step")
    assert isinstance(message, messages.StepResult)
    with pytest.raises(WorkerFailure, match="exit code 9"):
        board.next(time.monotonic() + LONG_S, ["torch"], "step")


def test_a_worker_that_closes_what_it_inherited_is_found_dead_or_hung(stage: Any, make_case: Any) -> None:
    stage.start(fault="forward=close_files")
    stage.switchboard.greet(LONG_S)
    with pytest.raises((WorkerFailure, DeadlineExceeded), match="torch worker"):
        drive_after_greeting(stage, make_case(), 2)


def test_a_worker_that_closed_its_connection_is_told_with_its_step(stage: Any, make_case: Any, wait_until: Any) -> None:
    stage.start(fault="forward=close_files")
    board = stage.switchboard
    board.greet(LONG_S)
    board.ask({"torch": configure(make_case())}, messages.Ready, LONG_S, "build")
    weights = board.ask({"torch": messages.SendWeights()}, messages.Weights, LONG_S, "weights")["torch"].tensors
    batch = messages.Batch(0, dict(x=weights["fc.weight"], y=weights["fc.weight"] @ weights["fc.weight"].T))
    with pytest.raises(WorkerFailure, match="yet runs on: .* in phase forward of step 0") as failure:
        wait_until(lambda: board.send("torch", batch))
    assert failure.value.fault == {"side": "torch", "phase": "forward", "step": 0, "signal": None}  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", ["afterStepResult=raise", "afterStepResult=garbage"])
def test_a_message_before_a_fault_is_given_before_the_fault_is_raised(stage: Any, make_case: Any, fault: str) -> None:
    worker = stage.start(fault=fault)
    board = stage.switchboard
    board.greet(LONG_S)
    board.ask({"torch": configure(make_case())}, messages.Ready, LONG_S, "build")
    weights = board.ask({"torch": messages.SendWeights()}, messages.Weights, LONG_S, "weights")["torch"].tensors
    batch = messages.Batch(0, dict(x=weights["fc.weight"], y=weights["fc.weight"] @ weights["fc.weight"].T))
    board.send("torch", batch)
    worker.wait(LONG_S)
    _, message = board.next(time.monotonic() + LONG_S, ["torch"], "step")
    assert isinstance(message, messages.StepResult)
    with pytest.raises(StepalignError, match="raise" if "raise" in fault else "broke the protocol"):
        board.next(time.monotonic() + LONG_S, ["torch"], "step")


def test_a_worker_that_is_gone_cannot_be_sent_to(stage: Any, make_case: Any) -> None:
    worker = stage.start()
    stage.switchboard.greet(LONG_S)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(LONG_S)
    with pytest.raises(WorkerFailure, match=r"the torch worker died in phase (start|import): SIGKILL\(-9\)"):
        for _ in range(1000):
            stage.switchboard.send("torch", messages.SendWeights())
            stage.switchboard.poll(0.01)


def test_an_environment_without_the_runtime_packages_is_told_with_the_command_that_mends_it(stage: Any) -> None:
    write_payload(stage.private / "payload.pyz")
    broken = stage.folder / "broken"
    broken.mkdir()
    (broken / "msgpack.py").write_text("raise ImportError('no msgpack here')\n", encoding="utf-8")
    stage.start(env={"PYTHONPATH": str(broken)}, payload=stage.private / "payload.pyz")
    with pytest.raises(EnvironmentFailure, match="-m pip install numpy pyzmq msgpack"):
        stage.switchboard.greet(LONG_S)


def test_the_tick_runs_while_waiting(stage: Any) -> None:
    ticks: list[int] = []
    stage.switchboard._on_tick = lambda: ticks.append(1)
    with pytest.raises(DeadlineExceeded, match="no answer came in phase start"):
        stage.switchboard.next(time.monotonic() + 0.35, [], "start")
    assert len(ticks) >= 3
