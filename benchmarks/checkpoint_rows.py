"""What keeping a run's state costs, in CPU time of all its processes: the same run with checkpoints and without any.

By default a run keeps its state every 30 s, and never for more than a twentieth of its time. Here it does so every
`EVERY_S` without that bound, so that a short run has enough checkpoints to tell their cost from noise; what the default
comes to is in docs/performance.md.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.loops.cases import SMALL_BERT
from benchmarks.row import Measured, Options, Row
from benchmarks.timing import Stepping, run_stepalign, skip, with_case

EVERY_S = 4.0


def checkpoints(options: Options) -> Measured:
    """Measure the small BERT, rates and losses alone; each repeat runs without checkpoints and then with them."""
    rounds = []
    for _ in range(options.repeats):
        without, kept = _run(options.steps, 0.0), _run(options.steps, EVERY_S)
        count = sum(step >= skip(options.steps) for step in kept.detail["checkpoints"])
        if not count or without.detail["checkpoints"]:
            raise RuntimeError(f"{count} checkpoints in {options.steps} steps: expected some with, and none without")
        more_s = (_cpu_s(kept) - _cpu_s(without)) * (options.steps - skip(options.steps))
        rounds.append({
            "ratio": _cpu_s(kept) / _cpu_s(without), "checkpoints": count, "each_s": more_s / count,
            "step_cpu_s": _cpu_s(without), "step_s": without.step_s, "size_bytes": kept.detail["checkpoint_bytes"],
            "verdict": kept.detail["verdict"],
        })  # fmt: skip
    middle = sorted(rounds, key=lambda item: item["each_s"])[(options.repeats - 1) // 2]
    spread = sorted(item["each_s"] for item in rounds)
    text = (
        f"{middle['checkpoints']} checkpoints in {options.steps} steps, {middle['size_bytes'] / 2**20:.0f} MiB each: "
        f"{middle['each_s']:.2f} s of CPU each ({spread[0]:.2f} to {spread[-1]:.2f} in {options.repeats} rounds), a step takes "
        f"{middle['step_cpu_s']:.3f} s of CPU"
    )
    return Measured(middle["ratio"], text, {"rounds": rounds})


def _run(steps: int, every_s: float) -> Stepping:
    def call(folder: Path, out: Path) -> Stepping:
        with open(folder / "case.toml", "a", encoding="utf-8") as file:
            file.write(f"[resume]\nevery_s = {every_s}\n")
        return run_stepalign(folder, out, "1.0")[0]

    found: Stepping = with_case(SMALL_BERT, steps, (), call)
    return found


def _cpu_s(run: Stepping) -> float:
    """Return the CPU seconds of a step, of the coordinator and both workers together."""
    return sum(run.cpu_s.values())


ROWS = (
    Row("checkpoints", f"state kept every {EVERY_S:.0f} s, the small BERT, LR and loss; CPU", "the same without",
        "none", checkpoints, optional=True),
)  # fmt: skip
