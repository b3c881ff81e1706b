"""``python -m benchmarks.evidence``: the suite's ports as reprod_log's rule judges them, beside stepalign's verdicts.

Reads what ``python -m benchmarks.ports --json FILE --keep DIR`` left: the judgements and, in each run folder, the .npy
pairs of losses and rates. reprod_log 1.0.1 itself, in the environment ``reprod_log``, compares each pair by its own default
(mean absolute difference of at most 1e-6).
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ports.catalogue import PORTS
from stepalign.coordinator.environments import managed

RULE = """\
import importlib, json, sys
from pathlib import Path

module = importlib.import_module("reprod_log.ReprodDiffHelper")

def passed(torch, paddle):
    helper = module.ReprodDiffHelper()
    try:
        helper.compare_info(helper.load_info(str(torch)), helper.load_info(str(paddle)))
        rule = {"diff_method": "mean", "diff_threshold": 1e-6, "print_func": lambda line: None}
        return bool(module.check_print_diff(helper.diff_dict, **rule))
    except Exception as error:
        return type(error).__name__

found = {}
for run in sorted(Path(sys.argv[1]).glob("*/run")):
    pairs = {stem: (run / f"{stem}_torch.npy", run / f"{stem}_paddle.npy") for stem in ("bp_align", "lr_align")}
    found[run.parent.name] = {
        stem: passed(*pair) if all(path.is_file() for path in pair) else None for stem, pair in pairs.items()
    }
Path("reprod_log_verdicts.json").write_text(json.dumps(found))
"""


def read_rule(keep: Path, scratch: Path) -> dict[str, dict[str, Any]]:
    """Return what reprod_log says of each run folder's pairs: True, False, an exception's name, or None without a pair."""
    python = managed.find("reprod_log", "paddle").path
    subprocess.run(
        [str(python), "-c", RULE, str(keep.resolve())], cwd=scratch, check=True, capture_output=True, timeout=1800
    )
    found: dict[str, dict[str, Any]] = json.loads((scratch / "reprod_log_verdicts.json").read_text())
    return found


def count(ports: Sequence[Mapping[str, Any]], rule: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return, for each judge, (faulty ports detected, correct ports called faulty)."""
    judges = {
        "stepalign": lambda port: port["verdict"] != "aligned" if port["faulty"] else port["verdict"] == "diverged",
        "reprod_log, losses": lambda port: _alarm(rule.get(port["name"], {}), ("bp_align",)),
        "reprod_log, losses and rates": lambda port: _alarm(rule.get(port["name"], {}), ("bp_align", "lr_align")),
    }
    return {
        name: (
            sum(judge(port) for port in ports if port["faulty"]),
            sum(judge(port) for port in ports if not port["faulty"]),
        )
        for name, judge in judges.items()
    }


def _alarm(said: Mapping[str, Any], stems: Sequence[str]) -> bool:
    """Say whether the rule rejects a port. A run that ended before its first step has no pair, and is not judged by it."""
    return any(said.get(stem) is not None and said[stem] is not True for stem in stems)


def page(judged: Mapping[str, Any], rule: Mapping[str, Mapping[str, Any]], when: datetime.date) -> str:
    """Return docs/evidence.md."""
    ports, totals = judged["ports"], judged["totals"]
    faulty = sum(port["faulty"] for port in ports)
    correct = len(ports) - faulty
    families = len({port.family for port in PORTS})
    lines = [
        "# Evidence",
        "",
        f"Made on {when.isoformat()} by the two commands at the end, on a CPU, with torch 2.13.0 and paddlepaddle 3.3.1:",
        f"{faulty} faulty and {correct} correct ports of {families} model families (`benchmarks/ports/`). A faulty port counts as",
        "detected when it is not called aligned; a correct one is a false alarm when it is called diverged.",
        "",
        f"| judge | faulty ports detected, of {faulty} | false alarms, of {correct} |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {found} | {alarms} |" for name, (found, alarms) in count(ports, rule).items()]
    silent = [port["name"] for port in ports if port["faulty"] and port["verdict"] == "aligned"]
    lines += [
        "",
        f"Of the faulty ports stepalign put the first divergence where it was expected in {totals['located']} of "
        f"{totals['to_locate']}, and its first "
        f"cause had an expected category in {totals['explained_first']} ({totals['named']} by a cause that says more than where).",
        f"Faulty ports that it called aligned: {', '.join(silent) or 'none'}.",
        "",
        "reprod_log's rule reads ten numbers: a mean absolute difference of at most 1e-6. It sees a mistake only once it has",
        "reached the loss, says neither where nor why, and rejects a correct port whose losses are large or whose training is",
        "sensitive. The ports of the suite have higher rates than fine-tuning has, which helps it: at a rate of 3e-5 a missing",
        "weight decay moves a loss by less than 1e-6 in ten steps.",
        "",
        "PaDiff was not run: it needs both frameworks in one process.",
        "",
        "## Each port",
        "",
        "| port | faulty | stepalign | said | reprod_log: losses | rates |",
        "|---|---|---|---|---|---|",
    ]
    words = {True: "pass", False: "fail", None: "-"}
    for port in ports:
        said = rule.get(port["name"], {})
        cells = [words.get(said.get(stem), str(said.get(stem))) for stem in ("bp_align", "lr_align")]
        text = str(port["said"]).replace("|", "\\|").replace("\n", " ")[:110]
        kind = "yes" if port["faulty"] else ""
        lines.append(f"| {port['name']} | {kind} | {port['verdict']} | {text} | {cells[0]} | {cells[1]} |")
    lines += [
        "",
        "## Commands",
        "",
        "    python -m benchmarks.ports --json ports.json --keep ports",
        "    python -m benchmarks.evidence --json ports.json --keep ports --write docs/evidence.md",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Write or print the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description="compare with reprod_log's rule")
    parser.add_argument("--json", type=Path, required=True, help="what benchmarks.ports wrote with --json")
    parser.add_argument("--keep", type=Path, required=True, help="the folder that benchmarks.ports kept")
    parser.add_argument("--write", type=Path, help="the page to write (default: standard output)")
    options = parser.parse_args()
    judged = json.loads(options.json.read_text(encoding="utf-8"))
    text = page(judged, read_rule(options.keep, options.keep), datetime.date.today())
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
