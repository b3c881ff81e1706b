"""torch's settings that change numbers: made the same as the other side's, and read back to be compared.

`prepare` runs once, after the import and before the user's script.
"""

from __future__ import annotations

import os
import random
from typing import Any, Dict

import numpy as np
import torch

from stepalign.protocol.errors import CaseError, EnvironmentFailure
from stepalign.protocol.specs import Scalar
from stepalign.workers.capture import Settings


def version() -> str:
    """Return the framework's version."""
    return str(torch.__version__)


def prepare(settings: Settings) -> None:
    """Set default dtype, device, seeds and threads; ask for deterministic kernels and for no TF32.

    Raises CaseError for a dtype that cannot be the default, EnvironmentFailure for a device that is not there.
    """
    _use_device(settings.device)
    _use_dtype(settings.dtype)
    _use_threads(settings.threads)
    random.seed(settings.seed)
    np.random.seed(settings.seed % 2**32)
    torch.manual_seed(settings.seed)
    _use_exact_kernels()


def read_settings() -> Dict[str, Scalar]:
    """Read every setting that changes numbers: shared ones under common keys, others prefixed ``torch.``."""
    return {
        "default_dtype": str(torch.get_default_dtype()).rpartition(".")[2],
        "device": "gpu" if torch.empty(0).device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.deterministic,
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        **_own_settings(),
    }


def _use_device(device: str) -> None:
    """Make new tensors live on ``device``: ``"cpu"`` or ``"gpu"``, the one visible GPU."""
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        raise EnvironmentFailure(
            f"the torch side is to run on {device!r}, but torch {version()} sees no GPU "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}, built for CUDA {torch.version.cuda}); "
            'install a CUDA build of torch or set device = "cpu"'
        )
    torch.cuda.set_device(0)
    torch.set_default_device("cuda")


def _use_dtype(dtype: str) -> None:
    """Make ``dtype`` the default of new floating-point tensors."""
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise CaseError(f'dtype = {dtype!r} cannot be the default dtype; expected "float32" or "float64"')
    torch.set_default_dtype(getattr(torch, dtype))


def _use_threads(threads: int) -> None:
    """Let kernels on the CPU use this many threads."""
    torch.set_num_threads(threads)


def _use_exact_kernels() -> None:
    """Ask for kernels that repeat bit by bit and for full float32 precision.

    An operator without a deterministic kernel warns and runs on: refusing it would refuse a correct port. This is what
    ``torch.use_deterministic_algorithms(True, warn_only=True)`` does, which imports torch's compiler to tell it; the
    compiler reads the variable when it is imported.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
    torch.set_deterministic_debug_mode("warn")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def _own_settings() -> Dict[str, Scalar]:
    """Read the settings that only torch has."""
    backends: Any = torch.backends
    return {
        "torch.cpu_capability": str(backends.cpu.get_cpu_capability()),
        "torch.float32_matmul_precision": torch.get_float32_matmul_precision(),
        "torch.fp16_reduced_precision_reduction": backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        "torch.mkldnn": backends.mkldnn.enabled,
        "torch.cuda": torch.version.cuda,
        "torch.cudnn": backends.cudnn.version() if torch.cuda.is_available() else None,
    }
