"""Placements on made-up machines of none, one, two and four GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from stepalign.coordinator.devices.cores import available_cores
from stepalign.coordinator.devices.gpus import Gpu, visible_gpus
from stepalign.coordinator.devices.placement import MOST_THREADS, Placement, place
from stepalign.protocol.errors import CaseError, EnvironmentFailure

BOTH = {"torch": True, "paddle": True}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def gpus(count: int, names: tuple[str, ...] = (), free_gib: tuple[int, ...] = ()) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(
            f"GPU-{index}",
            index,
            names[index] if names else "NVIDIA H200",
            140 << 30,
            (free_gib[index] if free_gib else 140) << 30,
            "570.86",
        )
        for index in range(count)
    )


def decide(
    torch: str = "auto",
    paddle: str = "auto",
    there: tuple[Gpu, ...] = (),
    cores: tuple[int, ...] = tuple(range(8)),
    supports: Mapping[str, bool] = BOTH,
    threads: int | None = None,
) -> Placement:
    placement = place({"torch": torch, "paddle": paddle}, supports, there, cores, threads)
    first, second = placement.devices["torch"].env, placement.devices["paddle"].env
    differing = {name for name in {*first, *second} if first.get(name) != second.get(name)}
    assert differing <= {"CUDA_VISIBLE_DEVICES"}
    for device in placement.devices.values():
        assert device.env["CUDA_VISIBLE_DEVICES"] == (device.gpu_uuid or "")
        assert device.kind == ("gpu" if device.gpu_uuid else "cpu")
        assert all(device.env[name] == str(device.threads) for name in THREADS)
    return placement


def uuids(placement: Placement) -> tuple[str | None, str | None]:
    return placement.devices["torch"].gpu_uuid, placement.devices["paddle"].gpu_uuid


def test_without_a_gpu_each_side_gets_its_own_cores_and_the_same_number_of_threads() -> None:
    placement = decide(cores=(0, 4, 1, 5, 2))
    assert placement.devices["torch"].cores == (0, 4)
    assert placement.devices["paddle"].cores == (1, 5)
    assert {device.threads for device in placement.devices.values()} == {2}
    assert uuids(placement) == (None, None)
    assert placement.warnings == placement.notes == ()


def test_one_core_is_shared_with_a_warning() -> None:
    placement = decide(cores=(3,))
    assert placement.devices["torch"].cores == placement.devices["paddle"].cores == (3,)
    assert placement.warnings == ("there is one CPU core: both sides share it.",)


def test_no_core_at_all_is_refused() -> None:
    with pytest.raises(CaseError, match="list of cores is empty"):
        decide(cores=())


def test_two_gpus_are_both_used() -> None:
    for request in ("auto", "gpu"):
        placement = decide(request, request, gpus(2))
        assert uuids(placement) == ("GPU-0", "GPU-1")
        assert placement.warnings == ()


def test_one_gpu_is_shared_with_a_warning() -> None:
    placement = decide(there=gpus(1))
    assert uuids(placement) == ("GPU-0", "GPU-0")
    assert "both sides share one GPU (NVIDIA H200, GPU-0)" in placement.warnings[0]


def test_of_four_gpus_the_emptiest_are_taken() -> None:
    assert uuids(decide(there=gpus(4, free_gib=(10, 80, 2, 140)))) == ("GPU-3", "GPU-1")


def test_gpus_of_one_kind_are_preferred_and_a_mixed_pair_is_warned_of() -> None:
    there = gpus(3, names=("A100", "H200", "A100"), free_gib=(90, 80, 70))
    assert uuids(decide(there=there)) == ("GPU-0", "GPU-2")
    assert decide(there=there).warnings == ()
    mixed = decide(there=gpus(2, names=("A100", "H200")))
    assert uuids(mixed) == ("GPU-0", "GPU-1")
    assert "of different kinds (A100, H200)" in mixed.warnings[0]


def test_a_numbered_gpu_is_kept_for_the_side_that_named_it() -> None:
    assert uuids(decide("auto", "gpu:0", gpus(2))) == ("GPU-1", "GPU-0")
    assert uuids(decide("gpu:1", "gpu", gpus(4))) == ("GPU-1", "GPU-0")
    shared = decide("gpu:1", "gpu:1", gpus(2))
    assert uuids(shared) == ("GPU-1", "GPU-1")
    assert "share one GPU" in shared.warnings[0]


def test_numbers_count_the_gpus_that_the_user_allows() -> None:
    allowed = visible_gpus(gpus(4), "3,GPU-1")
    assert uuids(decide("gpu:0", "gpu:1", allowed)) == ("GPU-3", "GPU-1")
    assert uuids(decide(there=visible_gpus(gpus(4), ""))) == (None, None)
    with pytest.raises(
        CaseError, match=r"\[torch\] device = 'gpu:2': there are 2 GPUs to use: gpu:0 \(NVIDIA H200\), gpu:1"
    ):
        decide("gpu:2", "cpu", allowed)


def test_one_side_may_use_a_gpu_and_the_other_the_cpu() -> None:
    placement = decide("gpu", "cpu", gpus(1))
    assert uuids(placement) == ("GPU-0", None)
    assert placement.warnings == ()
    assert "torch runs on a GPU and the other side on the CPU" in placement.notes[0]


def test_auto_with_a_build_for_the_cpu_stays_there_and_says_so() -> None:
    placement = decide(there=gpus(1), supports={"torch": True, "paddle": False})
    assert uuids(placement) == ("GPU-0", None)
    assert placement.notes[0].startswith("paddle runs on the CPU although there is a GPU")
    assert decide(supports={"torch": False, "paddle": False}).notes == ()


def test_a_gpu_asked_of_a_build_for_the_cpu_is_the_environments_fault() -> None:
    with pytest.raises(EnvironmentFailure, match=r"\[paddle\] device = 'gpu:0': .* a build for the CPU only"):
        decide("cpu", "gpu:0", gpus(1), supports={"torch": True, "paddle": False})


@pytest.mark.parametrize("request_", ["gpu", "gpu:0"])
def test_a_gpu_where_there_is_none_is_refused(request_: str) -> None:
    with pytest.raises(
        CaseError, match=rf"\[paddle\] device = '{request_}': no GPU may be used here \(stepalign doctor"
    ):
        decide("cpu", request_)


@pytest.mark.parametrize(
    "request_", ["", "GPU", "cuda", "gpu:", "gpu:-1", "gpu:x", "gpu:1 ", "gpu: 1", "gpu:99999", "gpu:²"]
)
def test_a_request_that_cannot_be_read_is_refused(request_: str) -> None:
    with pytest.raises(CaseError, match=r'\[torch\] device: expected "auto", "cpu", "gpu" or "gpu:N", came '):
        decide(request_, "cpu", gpus(2))


def test_threads_can_be_chosen_and_too_many_are_warned_of() -> None:
    assert decide(threads=1).devices["torch"].threads == 1
    assert decide(threads=1).warnings == ()
    assert "9 threads a side on 4 core(s) a side" in decide(threads=9).warnings[0]
    with pytest.raises(CaseError, match="threads: expected a number from 1, came 0"):
        decide(threads=0)


def test_a_large_machine_uses_no_more_threads_than_the_limit() -> None:
    placement = decide(cores=tuple(range(128)))
    assert {device.threads for device in placement.devices.values()} == {MOST_THREADS}
    assert len(placement.devices["paddle"].cores) == 64


def test_tf32_and_nondeterministic_kernels_are_off_on_both_sides() -> None:
    for device in decide(there=gpus(2)).devices.values():
        expected = {
            "NVIDIA_TF32_OVERRIDE": "0",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }
        assert expected.items() <= device.env.items()
        assert device.env["FLAGS_cudnn_deterministic"] == "1"


def write_topology(folder: Path, core: int, siblings: str, package: int) -> None:
    topology = folder / f"cpu{core}" / "topology"
    topology.mkdir(parents=True)
    (topology / "thread_siblings_list").write_text(siblings + "\n")
    (topology / "physical_package_id").write_text(f"{package}\n")


def test_hyper_threads_and_sockets_stay_together_and_a_quota_shortens_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7})
    for core in range(8):
        write_topology(tmp_path, core, f"{core % 4},{core % 4 + 4}", package=core % 2)
    quota = tmp_path / "cpu.max"
    assert available_cores(tmp_path, quota) == (0, 4, 2, 6, 1, 5, 3, 7)
    quota.write_text("max 100000\n")
    assert len(available_cores(tmp_path, quota)) == 8
    quota.write_text("250000 100000\n")
    assert available_cores(tmp_path, quota) == (0, 4, 2)
    assert available_cores(tmp_path / "none", tmp_path / "none") == (0, 1, 2, 3, 4, 5, 6, 7)
