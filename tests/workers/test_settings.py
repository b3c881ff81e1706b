"""What the torch worker sets of torch, in torch's own interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .in_framework import run_code

DETERMINISTIC = """
from stepalign.workers.capture import Settings
from stepalign.workers.torch_worker.settings import prepare

torch = framework
prepare(Settings("float32", 0, "cpu", 1))
results["enabled"] = torch.are_deterministic_algorithms_enabled()
results["warns"] = torch.is_deterministic_algorithms_warn_only_enabled()
results["imported"] = "torch._inductor" in sys.modules
import torch._inductor.config
results["compiler"] = torch._inductor.config.deterministic
"""


def test_torch_and_its_compiler_are_deterministic_without_importing_the_compiler_for_it(
    torch_python: Path, tmp_path: Path
) -> None:
    _, saved = run_code(torch_python, "torch", DETERMINISTIC, tmp_path)
    with np.load(saved) as found:
        assert {name: bool(found[name]) for name in found.files} == {
            "enabled": True, "warns": True, "imported": False, "compiler": True,
        }  # fmt: skip
