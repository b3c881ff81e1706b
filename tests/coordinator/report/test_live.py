"""The view of a run that goes on: drawn from a snapshot on a terminal, still elsewhere."""

from __future__ import annotations

import dataclasses
import io
import threading

import pytest
from rich.console import Console

from stepalign.coordinator.comparison.comparison import Comparison
from stepalign.coordinator.comparison.measures import Measures
from stepalign.coordinator.report.live import LiveView, state_words
from stepalign.protocol.status import Status


class _Terminal(io.StringIO):
    """A terminal that keeps what it is shown."""

    def isatty(self) -> bool:
        return True


class _Clock:
    """A clock that goes on by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _comparison(passed: bool) -> Comparison:
    measures = Measures(
        max_abs=3e-6, max_rel=1e-6, rel_l2=1e-6, max_ulp=9, cosine=1.0, outside=0, count=8, smallest_rtol=1e-6,
        index=(1,), reference=1.0, candidate=1.000003,
    )  # fmt: skip
    return Comparison(4, "parameter", "fc.weight", "fc.weight", passed, 1e-5, 0.0, measures)


def _drawn(view: LiveView) -> list[str]:
    """Return the lines of one drawing, as the drawing thread makes it."""
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(view._draw())
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def view(clock: _Clock, monkeypatch: pytest.MonkeyPatch) -> LiveView:
    monkeypatch.setenv("TERM", "xterm-256color")
    return LiveView(enabled=True, file=_Terminal(), clock=clock)


def test_off_a_terminal_it_is_a_line_a_phase_and_the_workers_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveView(enabled=True) as view:
        view.phase("starting both workers")
        view.step(0, 10, (0.5, 0.5))
        view.worker_line("torch", "loading [bold]weights[/bold] \x1b[31mred\x1b[0m" + "x" * 100 + "\n")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "starting both workers\n[torch] loading [bold]weights[/bold] red" + "x" * 100 + "\n"


def test_a_view_that_is_not_enabled_says_nothing() -> None:
    for file in (io.StringIO(), _Terminal()):
        with LiveView(enabled=False, file=file) as view:
            view.phase("starting both workers")
            view.step(0, 10, (0.5, 0.5))
            view.worker_line("torch", "hello")
        assert file.getvalue() == ""


def test_before_the_first_step_it_shows_what_each_worker_does(view: LiveView) -> None:
    view.phase("building both sides")
    view.follow_workers(lambda: {"torch": Status(None, "build"), "paddle": Status(None, "import")})
    lines = _drawn(view)
    assert "building both sides" in lines[0]
    assert lines[1].split() == ["torch", "building"] and lines[2].split() == ["paddle", "importing"]


def test_while_it_runs_it_shows_steps_losses_rates_speed_and_the_greatest_difference(
    view: LiveView, clock: _Clock
) -> None:
    view.phase("running 1000 steps")
    view.follow_workers(lambda: {"torch": Status(12, "forward"), "paddle": Status(11, "update")})
    view.follow_worst({"parameter": _comparison(passed=True)})
    view.step(0, 1000, (0.7, 0.7), ([3e-5], [3e-5]))
    _drawn(view)
    clock.now_s += 2.0
    view.step(10, 1000, (0.5, 0.25), ([2e-5, 1e-4], [1e-5, 1e-4]))
    lines = _drawn(view)
    assert "11/1000, 5 steps/s, 3:18 left" in lines[0]
    assert "step 12, forward" in lines[1] and "loss 0.5" in lines[1] and "rate 2e-05 +1" in lines[1]
    assert "step 11, update" in lines[2] and "loss 0.25" in lines[2] and "rate 1e-05 +1" in lines[2]
    assert lines[3].strip() == "furthest apart so far: step 4, parameter fc.weight, 0.3 of the tolerance"
    assert max(map(len, lines)) <= 80


def test_what_a_rule_explains_beyond_its_tolerance_is_not_shown_as_the_furthest(view: LiveView) -> None:
    explained = dataclasses.replace(_comparison(passed=True), kind="buffer", rtol=1e-9)
    view.step(4, 10, (0.5, 0.5))
    view.follow_worst({"buffer": explained, "parameter": _comparison(passed=True)})
    assert "parameter fc.weight" in _drawn(view)[-1]
    view.follow_worst({"buffer": dataclasses.replace(explained, passed=False)})
    assert "buffer fc.weight, 3e+03 of the tolerance" in _drawn(view)[-1]


def test_a_step_draws_nothing(view: LiveView, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(view, "_draw", lambda: drawn.append(1))
    for step in range(5000):
        view.step(step, 5000, (0.5, 0.5), ([1e-3], [1e-3]))
    assert not drawn


def test_the_terminal_is_left_clean_and_no_thread_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    file = _Terminal()
    before = set(threading.enumerate())
    with LiveView(enabled=True, file=file) as view:
        view.phase("running 3 steps")
        view.step(2, 3, (0.5, 0.25))
        view.worker_line("paddle", "hello [there]")
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()
    shown = file.getvalue()
    assert "3/3" in shown and "[paddle] hello [there]" in shown
    assert shown.rstrip().endswith("\x1b[?25h") or shown.count("\x1b[?25l") == shown.count("\x1b[?25h")


def test_a_phase_without_a_name_of_its_own_is_shown_as_it_is() -> None:
    assert state_words(Status(3, "after_backward")) == "step 3, after backward"
    assert state_words(Status(None, "start")) == "starting"
