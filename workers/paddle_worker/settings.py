"""paddle's settings that change numbers: made the same as the other side's, and read back to be compared.

`prepare` runs once, after the import and before the user's script. Which flags exist depends on the build (a CPU
wheel has no cudnn flags), so each is set only where it is known.
"""

from __future__ import annotations

import os
import random
from typing import Any, Dict

import numpy as np
import paddle

from stepalign.protocol.errors import CaseError, EnvironmentFailure
from stepalign.protocol.specs import Scalar
from stepalign.workers.capture import Settings

_DETERMINISTIC_FLAGS = {"FLAGS_cudnn_deterministic": True, "FLAGS_embedding_deterministic": 1}
_OWN_FLAGS = ("FLAGS_use_mkldnn", "FLAGS_use_accuracy_compatible_kernel", "FLAGS_prim_forward", "FLAGS_prim_backward")


def version() -> str:
    """Return the framework's version."""
    return str(paddle.__version__)


def prepare(settings: Settings) -> None:
    """Set default dtype, device, seeds and threads; ask for deterministic kernels and for no TF32.

    Raises CaseError for a dtype that cannot be the default, EnvironmentFailure for a device that is not there.
    """
    _use_device(settings.device)
    _use_dtype(settings.dtype)
    _use_threads(settings.threads)
    random.seed(settings.seed)
    np.random.seed(settings.seed % 2**32)
    paddle.seed(settings.seed)
    _use_exact_kernels()


def read_settings() -> Dict[str, Scalar]:
    """Read every setting that changes numbers: shared ones under common keys, others prefixed ``paddle.``."""
    core: Any = paddle.base.core
    return {
        "default_dtype": str(paddle.get_default_dtype()),
        "device": "gpu" if paddle.get_device().startswith("gpu") else "cpu",
        "threads": _read_flag("FLAGS_paddle_num_threads"),
        "deterministic": all(_read_flag(flag) in (None, value) for flag, value in _DETERMINISTIC_FLAGS.items()),
        "tf32": paddle.is_compiled_with_cuda() and bool(core.get_cublas_switch() or core.get_cudnn_switch()),
        "cudnn_benchmark": bool(_read_flag("FLAGS_cudnn_exhaustive_search")),
        **_own_settings(),
    }


def _use_device(device: str) -> None:
    """Make new tensors live on ``device``: ``"cpu"`` or ``"gpu"``, the one visible GPU."""
    if device == "cpu":
        paddle.set_device("cpu")
        return
    if not paddle.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
        raise EnvironmentFailure(
            f"the paddle side is to run on {device!r}, but paddle {version()} sees no GPU "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')!r}, "
            f'built with CUDA: {paddle.is_compiled_with_cuda()}); install paddlepaddle-gpu or set device = "cpu"'
        )
    paddle.set_device("gpu:0")


def _use_dtype(dtype: str) -> None:
    """Make ``dtype`` the default of new floating-point tensors."""
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        raise CaseError(f'dtype = {dtype!r} cannot be the default dtype; expected "float32" or "float64"')
    paddle.set_default_dtype(dtype)


def _use_threads(threads: int) -> None:
    """Let kernels on the CPU use this many threads."""
    paddle.base.core.set_num_threads(threads)
    _set_flag("FLAGS_paddle_num_threads", threads)


def _use_exact_kernels() -> None:
    """Ask for kernels that repeat bit by bit and for full float32 precision."""
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    for flag, value in _DETERMINISTIC_FLAGS.items():
        _set_flag(flag, value)
    _set_flag("FLAGS_cudnn_exhaustive_search", False)
    paddle.base.core.set_cublas_switch(False)
    paddle.base.core.set_cudnn_switch(False)


def _own_settings() -> Dict[str, Scalar]:
    """Read the settings that only paddle has."""
    cuda = paddle.is_compiled_with_cuda()
    return {
        **{f"paddle.{flag}": _read_flag(flag) for flag in _OWN_FLAGS},
        "paddle.cuda": str(paddle.version.cuda()) if cuda else None,
        "paddle.cudnn": paddle.get_cudnn_version() if cuda else None,
    }


def _set_flag(flag: str, value: Any) -> None:
    """Set a flag where this build has it."""
    if _read_flag(flag) is not None:
        paddle.set_flags({flag: value})


def _read_flag(flag: str) -> Any:
    """Read a flag; None where this build lacks it."""
    try:
        return paddle.get_flags([flag])[flag]
    except ValueError:
        return None
