"""Coordinators that are ended: by a signal, twice, by their terminal, while workers are inside native code."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.faults.cell import Cell, Expected, Running
from benchmarks.faults.running import wait_for

POINTS = {"start": "start", "build": "build", "weights": "weights", "step": "forward:3"}
KEPT = 3
"""A worker that hangs in step 3 has finished so many."""


def sending(*numbers: signal.Signals) -> Callable[[Running], None]:
    """Return what sends these signals to the command, one after the other."""

    def act(running: Running) -> None:
        for position, number in enumerate(numbers):
            time.sleep(0.3 if position else 0.0)
            running.process.send_signal(number)

    return act


def once_steps_are_kept(act: Callable[[Running], None]) -> Callable[[Running], None]:
    """Return ``act`` such that it waits until the other side has finished its steps too: what came in pairs is kept."""

    def wait_and_act(running: Running) -> float:
        log = running.out / "steps.jsonl"
        wait_for(lambda: log.is_file() and log.read_bytes().count(b"\n") >= KEPT, f"{KEPT} steps in {log}")
        moment = time.monotonic()
        act(running)
        return moment

    return wait_and_act


def close_terminal(running: Running) -> None:
    """Send what the kernel sends to a terminal's foreground group when its window is closed."""
    os.killpg(running.process.pid, signal.SIGHUP)


KILLED = Expected(-9, "interrupted", 2.0, KEPT, report_code=130)


def ends() -> Iterator[Cell]:
    """Yield the ends of a coordinator in each phase, with a worker in native code that holds the interpreter's lock."""
    once, twice = (signal.SIGINT,), (signal.SIGINT,) * 2
    for phase, point in POINTS.items():
        steps = KEPT if phase == "step" else 0
        wait = once_steps_are_kept if steps else lambda act: act
        hang = f"{point}=hang_native"
        killed = replace(KILLED, steps=steps)
        yield Cell("coordinator", "SIGKILL", phase, killed, torch=hang, act=wait(sending(signal.SIGKILL)))
        more = (("SIGTERM", (signal.SIGTERM,)),) if phase == "step" else ()
        for name, numbers in (("Ctrl-C", once), ("Ctrl-C twice", twice), *more):
            told = Expected(130, "interrupted", 6.0, steps)
            quick = (name, phase) in {("Ctrl-C", "step"), ("Ctrl-C twice", "build")}
            yield Cell("coordinator", name, phase, told, torch=hang, act=wait(sending(*numbers)), quick=quick)
    closed = Expected(130, "interrupted by SIGHUP", 6.0, KEPT)
    act = once_steps_are_kept(close_terminal)
    yield Cell("coordinator", "terminal closed", "step", closed, torch="forward:3=hang_native", act=act)
    act = once_steps_are_kept(sending(signal.SIGKILL))
    for point in ("daemon", "fork", "SIGSTOP", "hang_busy", "hang_deaf", "close_lifeline"):
        fault, quick = f"SIGKILL, worker {point}", point == "daemon"
        yield Cell("coordinator", fault, "step", KILLED, torch=f"forward:3={point}", act=act, quick=quick)
    interrupt = once_steps_are_kept(sending(signal.SIGINT))
    told = Expected(130, "interrupted by SIGINT", 6.0, KEPT)
    for side in ("torch", "paddle"):
        hang = {side: "forward:3=hang_native"}
        yield Cell("coordinator", "SIGKILL", "step", KILLED, workers="real", act=act, **hang)
        yield Cell("coordinator", "Ctrl-C", "step", told, workers="real", act=interrupt, **hang)
    stop = Expected(130, "interrupted by SIGINT", 8.0, 6)
    yield Cell(
        "coordinator", "Ctrl-C", "stop", stop, torch="stop=hang_native", act=sending(signal.SIGINT),
        toml="[deadline]\nstop_s = 30\n",
    )  # fmt: skip
