"""Lockstep against the bare loops, the way to the first step, and the coordinator's memory over many steps."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.loops.cases import BERT_BASE, NEVER_FAILS, SMALL_BERT, TINY_MLP, Model
from benchmarks.row import Measured, Options, Row
from benchmarks.timing import SIDES, Stepping, mean_gap, run_bare, run_stepalign, with_case

SHORT_ROUNDS = 7
"""Of a run of seconds, whose ratio is one or the other way by what the machine's neighbours do."""

FIRST_STEPS = 10
"""What a case runs where it does not say otherwise."""


def lockstep(model: Model, kinds: tuple[str, ...] | None, steps: int, repeats: int) -> Measured:
    """Measure a case's steps; each repeat runs the bare loops and then stepalign, so that both see the same machine.

    With the default collection (``kinds`` None) steps are not alike: the whole run counts, and the first `FIRST_STEPS` are
    shown apart.
    """
    ratios, rounds, texts = [], [], []
    for _ in range(repeats):

        def both(folder: Path, out: Path) -> tuple[dict[str, Stepping], Stepping]:
            if model is TINY_MLP:
                with open(folder / "case.toml", "a", encoding="utf-8") as file:
                    file.write(NEVER_FAILS)
            return run_bare(model, folder, steps)[0], run_stepalign(folder, out)[0]

        bare, ours = with_case(model, steps, kinds, both)
        slower = max(side.step_s for side in bare.values())
        step_s = ours.step_s if kinds is not None else mean_gap(ours.detail["ends"])
        if kinds is None:
            slower = max(mean_gap(side.detail["ends"]) for side in bare.values())
        ratios.append(step_s / slower)
        cpu = {side: bare[side].cpu_s[side] for side in SIDES}
        beyond = max(ours.cpu_s.get(side, 0.0) for side in SIDES) / max(cpu.values())
        first_s = mean_gap(ours.detail["ends"][:FIRST_STEPS])
        texts.append(
            f"step {1e3 * step_s:.2f} ms against {1e3 * slower:.2f} ms; CPU of the slower worker {beyond:.2f}, "
            f"of the coordinator {ours.cpu_s['coordinator'] / max(cpu.values()):.2f} of the slower bare loop's; "
            + (f"the first {FIRST_STEPS} steps {first_s / slower:.2f}; " if kinds is None else "")
            + f"coordinator's peak memory {ours.detail['peak_rss_bytes'] / 2**20:.0f} MiB in the steps"
        )
        rounds.append({
            "bare_s": {side: bare[side].step_s for side in SIDES}, "stepalign_s": step_s, "first_steps_s": first_s,
            "bare_cpu_s": cpu, "stepalign_cpu_s": dict(ours.cpu_s), "peak_rss_bytes": ours.detail["peak_rss_bytes"],
            "verdict": ours.detail["verdict"],
        })  # fmt: skip
    middle = sorted(range(repeats), key=lambda number: ratios[number])[(repeats - 1) // 2]
    every = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return Measured(ratios[middle], f"{texts[middle]}; the middle of {every}", {"rounds": rounds})


def first_step(options: Options) -> Measured:
    """Measure the way from a run's start to the end of its first step against that of the bare loops: what were put off
    until that step would be no gain. The least of each is taken, and shown with all differences.
    """

    def both(folder: Path, out: Path) -> tuple[float, float, dict[str, float]]:
        bare_s = max(run_bare(SMALL_BERT, folder, 1)[1].values())
        ours, stepped_s = run_stepalign(folder, out)
        phases = {**ours.detail["phases"], "stepped": ours.detail["ends"][0]}
        return stepped_s, bare_s, phases

    found = [with_case(SMALL_BERT, 2, (), both) for _ in range(max(5, options.repeats))]
    stepped_s, _, phases = min(found, key=lambda item: item[0])
    bare_s = min(item[1] for item in found)
    times = sorted(phases.items(), key=lambda item: item[1])
    shown = ", ".join(f"{name} {after - before:.2f} s" for (name, before), (_, after) in zip(times, times[1:]) if name != "stepped")
    differences = ", ".join(f"{ours - bare:+.2f}" for ours, bare, _ in found)
    text = f"{stepped_s:.2f} s against {bare_s:.2f} s: {stepped_s - bare_s:+.2f} s ({shown}); pairs {differences} s"
    return Measured(stepped_s / bare_s, text)


def schedule(options: Options) -> Measured:
    """Measure `stepalign schedule` of 5,000 steps against the slower framework's import."""

    def both(folder: Path, out: Path) -> tuple[float, float]:
        imported = max(run_bare(SMALL_BERT, folder, -1)[1].values())
        started = time.monotonic()
        command = [sys.executable, "-m", "stepalign.coordinator.cli", "schedule", str(folder), "--steps", "5000"]
        subprocess.run([*command, "--quiet", "--out", str(out)], capture_output=True, check=True)
        return time.monotonic() - started, imported

    found = [with_case(SMALL_BERT, 2, (), both) for _ in range(options.repeats)]
    ours, imported = min(found, key=lambda item: item[0] - item[1])
    return Measured(ours / imported, f"{ours:.2f} s against {imported:.2f} s: + {ours - imported:.2f} s")


def memory(options: Options) -> Measured:
    """Measure the coordinator's resident memory late in a long run of the tiny MLP against early, all kinds collected."""
    steps = 1000

    def run(folder: Path, out: Path) -> dict[str, Any]:
        return dict(run_stepalign(folder, out)[0].detail)

    found = []
    for _ in range(options.repeats):
        detail = with_case(TINY_MLP, steps, None, run)
        at = {int(item["step"]): size for item, size in zip(detail["cpu"], detail["rss_bytes"])}
        found.append((at[max(at)] / at[10], at[max(at)], at[10]))
    ratio, late, early = sorted(found)[(len(found) - 1) // 2]
    runs = ", ".join(f"{each:.2f}" for each, _, _ in found)
    return Measured(
        ratio, f"{late / 2**20:.0f} MiB at step {steps - 1}, {early / 2**20:.0f} MiB at step 10, the middle of {runs}"
    )


ROWS = (
    Row("lockstep_small_bert", "lockstep of a small BERT (4 layers, hidden 256), LR and loss", "the slower bare loop",
        "1.05", lambda options: lockstep(SMALL_BERT, (), options.steps, options.repeats)),
    Row("lockstep_tiny_mlp", "the same for a tiny MLP", "the same",
        "1.3", lambda options: lockstep(TINY_MLP, (), max(options.steps, 4000), max(options.repeats, SHORT_ROUNDS))),
    Row("default_small_bert", "the default collection on the small BERT", "the same",
        "1.25", lambda options: lockstep(SMALL_BERT, None, options.steps, options.repeats)),
    Row("default_bert_base", "the default collection on bert-base size, 10 steps", "the same",
        "1.3", lambda options: lockstep(BERT_BASE, None, 10, 1), optional=True),
    Row("first_step", "start of a run to the end of its first step", "the slower bare loop to there", "+ 0.5 s", first_step),
    Row("schedule", "stepalign schedule, 5,000 steps", "the slower import", "+ 2 s", schedule),
    Row("memory", "the coordinator's memory after 1,000 steps", "after 10", "1.0", memory),
)  # fmt: skip
