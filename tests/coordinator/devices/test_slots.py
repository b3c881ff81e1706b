"""Shares of a machine: GPUs two by two, cores beside them, and nobody holds what another holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stepalign.coordinator.devices.gpus import Gpu
from stepalign.coordinator.devices.slots import Slot, divide, take_slot
from stepalign.protocol.errors import DeadlineExceeded


def gpus(count: int) -> list[Gpu]:
    return [Gpu(f"GPU-{number}", number, "H100", 80 << 30, 80 << 30, "570.1") for number in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_up_to_three_gpus_are_one_share_which_is_the_whole(count: int) -> None:
    (slot,) = divide(gpus(count), range(8))
    assert slot == Slot(tuple(f"gpu-GPU-{number}" for number in range(count)))


def test_without_gpus_there_is_one_share() -> None:
    assert divide([], range(64)) == (Slot(("pytest",)),)


def test_five_gpus_are_two_shares_that_have_nothing_in_common() -> None:
    first, second = divide(gpus(5), range(7))
    assert first == Slot(("gpu-GPU-0", "gpu-GPU-1"), ("GPU-0", "GPU-1"), (0, 1, 2))
    assert second == Slot(("gpu-GPU-2", "gpu-GPU-3", "gpu-GPU-4"), ("GPU-2", "GPU-3", "GPU-4"), (3, 4, 5, 6))


def test_a_share_has_two_cores_at_least() -> None:
    assert len(divide(gpus(8), range(4))) == 2 and len(divide(gpus(8), range(1))) == 1


def test_a_share_that_is_held_is_passed_over_and_what_was_seen_before_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "a,b,c,d")
    cores = os.sched_getaffinity(0)
    one = (min(cores),)
    slots = (Slot(("gpu-a", "gpu-b"), ("a", "b"), one), Slot(("gpu-c", "gpu-d"), ("c", "d")))
    with take_slot(slots, tmp_path, 0, 5.0) as first:
        assert first == slots[0] and os.environ["CUDA_VISIBLE_DEVICES"] == "a,b" and os.sched_getaffinity(0) == set(one)
        with take_slot(slots, tmp_path, 0, 5.0) as second:
            assert second == slots[1] and os.environ["CUDA_VISIBLE_DEVICES"] == "c,d"
            overlapping = (Slot(("gpu-b", "gpu-e"), ("b", "e")),)
            with pytest.raises(DeadlineExceeded, match="--stepalign-parallel does not wait"), take_slot(
                overlapping, tmp_path, 0, 0.1
            ):
                pass
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "a,b"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "a,b,c,d" and os.sched_getaffinity(0) == cores
    with take_slot((Slot(("gpu-e",)),), tmp_path, 7, 1.0):  # the lock that was taken in vain is free
        pass
