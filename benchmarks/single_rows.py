"""What one process does alone: comparing two tensors, taking one in, answering ``--help``."""

from __future__ import annotations

import ctypes
import sys

import numpy as np

from benchmarks.row import Measured, Options, Row
from benchmarks.timing import cpu_of, least
from benchmarks.transport import transfer
from stepalign.coordinator.comparison.measures import measure, screen

TENSOR_ELEMENTS = 16 << 20
"""64 MiB of float32: beyond the caches of most machines."""

_RTOL, _ATOL = 1e-5, 1e-7


def _pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    reference = random.standard_normal(TENSOR_ELEMENTS, dtype=np.float32)
    noise = random.standard_normal(TENSOR_ELEMENTS, dtype=np.float32)
    return reference, reference * (1 + np.float32(1e-7) * noise)


def _against_copy(name: str) -> Measured:
    reference, candidate = _pair()
    rooms = np.zeros_like(reference), np.zeros_like(candidate)

    def copy() -> None:
        np.copyto(rooms[0], reference)
        np.copyto(rooms[1], candidate)

    call = {"measure": measure, "screen": screen}[name]
    assert call(reference, candidate, _RTOL, _ATOL) is not None, "the screen must go to its end"
    copied, compared = least(copy), least(lambda: call(reference, candidate, _RTOL, _ATOL))
    return Measured(compared / copied, f"{1e3 * compared:.1f} ms against {1e3 * copied:.1f} ms of CPU time")


def equal(options: Options) -> Measured:
    """Measure the comparison of equal tensors against memcmp of them."""
    reference, _ = _pair()
    candidate = reference.copy()
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    plain = least(lambda: memcmp(reference.ctypes.data, candidate.ctypes.data, reference.nbytes))
    compared = least(lambda: screen(reference, candidate, _RTOL, _ATOL))
    return Measured(compared / plain, f"{1e3 * compared:.1f} ms against {1e3 * plain:.1f} ms of CPU time")


def transport(shared: bool) -> Measured:
    """Measure one tensor's way from another process into an array here against memcpy of it."""
    taken_s, copied_s = transfer(TENSOR_ELEMENTS, shared)
    return Measured(taken_s / copied_s, f"{1e3 * taken_s:.1f} ms against {1e3 * copied_s:.1f} ms, the least of 15 each")


def help_text(options: Options) -> Measured:
    """Measure the CPU time of ``--help`` against that of an interpreter that does nothing."""
    ours = cpu_of([sys.executable, "-m", "stepalign.coordinator.cli", "--help"], 15)
    nothing = cpu_of([sys.executable, "-c", "pass"], 15)
    return Measured(ours / nothing, f"{1e3 * ours:.0f} ms against {1e3 * nothing:.0f} ms of CPU time, the least of 15 each")


ROWS = (
    Row("transport", "one tensor of 64 MiB from worker to comparison", "memcpy of it", "2", lambda options: transport(True)),
    Row("transport_frames", "the same where nothing is shared", "memcpy of it", "2", lambda options: transport(False)),
    Row("measure", "comparing two tensors, all measures", "memcpy of both", "3", lambda options: _against_copy("measure")),
    Row("screen", "comparing two tensors, what every step does", "memcpy of both", "3", lambda options: _against_copy("screen")),
    Row("equal", "comparing two equal tensors", "memcmp of both", "1.5", equal),
    Row("help", "stepalign --help", "python -c pass", "4", help_text),
)  # fmt: skip
