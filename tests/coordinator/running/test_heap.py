"""Large blocks in pages of their own: seen from outside, in processes that do nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """\
import ctypes, sys
from stepalign.coordinator.running.heap import keep_large_blocks_apart

if sys.argv[1] == "apart":
    keep_large_blocks_apart()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.free(libc.malloc(8 << 20))  # from here on the C library takes blocks of that size from the heap
block = libc.malloc(1 << 20)
heap = next(line for line in open("/proc/self/maps") if line.rstrip().endswith("[heap]")).split()[0].split("-")
print(int(heap[0], 16) <= block < int(heap[1], 16))
"""


@pytest.mark.parametrize(("how", "in_the_heap"), [("apart", "False"), ("as it is", "True")])
def test_a_large_block_is_in_pages_of_its_own_whatever_was_freed_before(how: str, in_the_heap: str) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == in_the_heap
