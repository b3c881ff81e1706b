"""What people do today, on the same models and steps: both frameworks one after the other, np.save and np.load between.

Each framework has all the machine's cores while it runs, as a script has that somebody starts. stepalign runs both at once
and its time is that of the whole command, report included. The two need not agree on how much they compare: STEP4's way
compares losses; dumping everything compares gradients and parameters by their mean difference, and neither optimizer state
nor updates.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.loops.cases import SMALL_BERT, Model
from benchmarks.row import Measured, Row
from benchmarks.timing import BARE, SIDES, pythons, wall_of, with_case

STEPS = 10
"""As many as STEP4 asks for."""


def by_hand(model: Model, folder: Path, out: Path, steps: int, what: str) -> tuple[dict[str, float], dict[str, object]]:
    """Return the wall seconds of each command, and what the comparison said."""
    options = json.dumps(dict(model.options))
    dumps = out.with_name("dumps")
    seconds = {}
    for side in SIDES:
        script = BARE.with_name("step4_side.py")
        command = [str(pythons()[side]), str(script), side, str(folder), str(steps), options, str(dumps), what]
        seconds[side] = wall_of(command)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(BARE.with_name("step4_compare.py")), str(dumps), str(steps)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds["compare"] = time.monotonic() - started
    return seconds, {
        **json.loads(done.stdout), "dumped_bytes": sum(path.stat().st_size for path in dumps.iterdir()),
    }  # fmt: skip


def step4(what: str, kinds: tuple[str, ...] | None, repeats: int) -> Measured:
    """Measure stepalign's whole run against the same training dumped and compared by hand."""

    def both(folder: Path, out: Path) -> tuple[float, dict[str, float], dict[str, object]]:
        seconds, said = by_hand(SMALL_BERT, folder, out, STEPS, what)
        command = [sys.executable, "-m", "stepalign.coordinator.cli", "run", str(folder), "--quiet", "--out", str(out)]
        return wall_of(command), seconds, said

    rounds = [with_case(SMALL_BERT, STEPS, kinds, both) for _ in range(repeats)]
    ours, seconds, said = sorted(rounds, key=lambda item: item[0] / sum(item[1].values()))[(repeats - 1) // 2]
    parts = ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds.items())
    return Measured(
        ours / sum(seconds.values()),
        f"{ours:.1f} s against {sum(seconds.values()):.1f} s ({parts}; {int(str(said['dumped_bytes'])) >> 20} MiB of files)",
        {"rounds": [{"stepalign_s": item[0], "by_hand_s": item[1], "said": item[2]} for item in rounds]},
    )


ROWS = (
    Row("step4_losses", "ten steps of the small BERT, rates and losses", "one framework after the other, losses by np.save",
        "none", lambda options: step4("losses", (), options.repeats)),
    Row("step4_everything", "the same, the default collection", "gradients and parameters of every step by np.save",
        "none", lambda options: step4("everything", None, options.repeats)),
)  # fmt: skip
