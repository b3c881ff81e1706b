"""Runs a piece of code with a framework's own interpreter and the workers' package, as a worker has it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from stepalign.coordinator.processes.payload import write_payload

PRELUDE = """\
import sys
import numpy as np

side = sys.argv[1]
if side == "torch":
    import torch as framework
    from torch import nn
    Module = nn.Module
    from stepalign.workers.torch_worker import activations, dropout
    tensor = framework.from_numpy
else:
    import paddle as framework
    from paddle import nn
    Module = nn.Layer
    from stepalign.workers.paddle_worker import activations, dropout
    tensor = framework.to_tensor
F = nn.functional
results = {}
"""
"""What both sides' code begins with; it leaves arrays in ``results`` and prints."""


def run_code(python: Path, side: str, code: str, folder: Path) -> tuple[str, Path]:
    """Run ``code`` after `PRELUDE`; return what it printed and the .npz of its ``results``."""
    payload, script, saved = folder / "payload.pyz", folder / f"{side}_code.py", folder / f"{side}.npz"
    write_payload(payload)
    script.write_text(f"{PRELUDE}{code}\nnp.savez(sys.argv[2], **results)\n", encoding="utf-8")
    done = subprocess.run(
        [python, "-W", "ignore", script, side, saved],
        env={"PYTHONPATH": str(payload), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, saved
