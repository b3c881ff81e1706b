"""Completion: real shells ask the real program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent

_ASK_BASH = """
eval "$(stepalign completion bash)"
words=({line}"$0")
COMP_LINE="stepalign {line}$0"; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9; COMP_KEY=9
COMP_WORDS=(stepalign "${{words[@]}}"); COMP_CWORD=${{#words[@]}}
_python_argcomplete stepalign "$0" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def _completed(before: str, word: str, environment: dict[str, str] | None = None) -> list[str]:
    """Return what bash offers for ``word`` after ``before``."""
    done = subprocess.run(
        ["bash", "--norc", "-c", _ASK_BASH.format(line=before), word],
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def test_bash_completes_commands_options_and_choices() -> None:
    assert {"schedule"} == set(_completed("", "sch"))
    assert {"run", "demo", "env", "completion"} <= set(_completed("", ""))
    assert "--dtype" in _completed("run my_case ", "--dt")
    assert set(_completed("run my_case --dtype ", "f")) == {"float32", "float64"}


def test_bash_completes_the_keys_of_a_case_and_the_names_of_environments(tmp_path: Path) -> None:
    assert "compare.resync=" in _completed("run my_case --set ", "compare.re")
    assert _completed("env remove ", "padd") == ["paddle"]
    assert _completed("env remove ", "padd", {"STEPALIGN_HOME": str(tmp_path)}) == []


@pytest.mark.parametrize(("shell", "check"), [("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_scripts_of_other_shells_are_read_by_them(shell: str, check: list[str], tmp_path: Path) -> None:
    script = tmp_path / f"script.{shell}"
    printed = subprocess.run(
        [BIN / "stepalign", "completion", shell], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert "stepalign" in printed
    script.write_text(printed)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its script was made but not read")
    subprocess.run([shell, *check, script], timeout=60, check=True)
