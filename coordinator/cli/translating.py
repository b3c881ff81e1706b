"""``stepalign translate``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Literal

from stepalign.coordinator.atlas.measured import measured
from stepalign.coordinator.atlas.training import Part, TranslatedTraining, training_code
from stepalign.coordinator.cases.loading import load_case
from stepalign.coordinator.cli.running import print_notice
from stepalign.coordinator.cli.starting import INIT_CASE
from stepalign.coordinator.processes.interruption import Interruption
from stepalign.coordinator.running.run_state import Watcher
from stepalign.coordinator.running.run_translate import Expressions, run_translate
from stepalign.protocol.errors import CaseError


def translate(options: argparse.Namespace) -> int:
    """Print the other framework's code for a training."""
    folder = Path(options.what)
    is_case = (folder / "case.toml").is_file()
    side: Literal["torch", "paddle"] = options.side or ("torch" if is_case else _side_of(options.what))
    expressions = None if is_case else Expressions(options.what, options.schedule, options.clip)
    if is_case and (options.schedule or options.clip):
        raise CaseError("--schedule and --clip go with an expression; a case's script builds its own")
    with Interruption() as interruption:
        watcher = Watcher(tick=interruption.raise_if_asked, notice=print_notice)
        translated = run_translate(load_case(folder if is_case else INIT_CASE), side, expressions, watcher)
    if options.json:
        print(json.dumps(_plain(translated), indent=1))
    else:
        print("\n".join([*(line for part in translated.parts for line in _comment(part)), "", training_code(translated)]), end="")
    return 0


def _side_of(expression: str) -> Literal["torch", "paddle"]:
    for side in ("torch", "paddle"):
        if expression.strip().startswith(f"{side}."):
            return side
    raise CaseError(
        f"{expression!r} is neither a case's folder nor an expression that begins with torch. or paddle.: "
        "say whose it is with --from"
    )


def _comment(part: Part) -> list[str]:
    agreement, pairing = part.agreement, part.translation.pairing
    record = measured()
    versions = "" if record is None else f"; torch {record.torch}, paddle {record.paddle}, {record.date}"
    lines = [f"# {pairing.key}: {agreement.verdict}", f"#   measured {_numbers(part)}{versions}"]
    if pairing.difference:
        lines.append(f"#   difference: {pairing.difference}")
    lines += [f"#   NOT the same: {each}" for each in part.translation.lost]
    return lines


def _numbers(part: Part) -> str:
    against = "rate" if part.translation.pairing.kind == "schedule" else "update"
    shown = [f"{dtype} {value:.1e}" for dtype in ("float32", "float64") if (value := getattr(part.agreement, dtype)) is not None]
    return f"{', '.join(shown) or 'nothing'} of the {against}, at worst ({part.agreement.configuration or 'all configurations'})"


def _plain(translated: TranslatedTraining) -> dict[str, object]:
    parts = [
        {
            "pairing": part.translation.pairing.key,
            "verdict": part.agreement.verdict,
            "float32": part.agreement.float32,
            "float64": part.agreement.float64,
            "difference": part.translation.pairing.difference,
            "lost": list(part.translation.lost),
            "does_the_same": part.does_the_same,
        }
        for part in translated.parts
    ]
    return {"framework": translated.side, "code": training_code(translated), "parts": parts}
