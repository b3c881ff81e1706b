"""GPUs through a made-up NVML: what it answers, how it fails, and what the user's variable allows of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from stepalign.coordinator.devices.gpus import Gpu, gpu_inventory, list_gpus, visible_gpus

FIRST, SECOND, THIRD = "GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb3333-0000"


class NVMLError(Exception):
    """What the made-up library raises."""


@dataclass
class Memory:
    total: int = 80 << 30
    free: int = 79 << 30


@dataclass
class Card:
    uuid: Any
    name: Any = "NVIDIA H200"
    parts: list[str] = field(default_factory=list)
    is_broken: bool = False


class Nvml(ModuleType):
    """As much of pynvml as is used, over a list of cards."""

    NVMLError = NVMLError
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, cards: list[Card], init_error: str = "") -> None:
        super().__init__("pynvml")
        self.cards, self.init_error, self.opened = cards, init_error, 0

    def nvmlInit(self) -> None:
        if self.init_error:
            raise NVMLError(self.init_error)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:
        return self.cards[index]

    def nvmlDeviceGetMigMode(self, card: Card) -> tuple[int, int]:
        if not card.parts:
            raise NVMLError("Not Supported")
        return 1, 1

    def nvmlDeviceGetMaxMigDeviceCount(self, card: Card) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card: Card, place: int) -> Card:
        if place >= len(card.parts):
            raise NVMLError("Not Found")
        return Card(card.parts[place], "NVIDIA H200 MIG 1g.18gb")

    def nvmlDeviceGetUUID(self, card: Card) -> Any:
        return card.uuid

    def nvmlDeviceGetName(self, card: Card) -> Any:
        return card.name

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Memory:
        if card.is_broken:
            raise NVMLError("GPU is lost")
        return Memory()


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def pretend(monkeypatch: pytest.MonkeyPatch, *cards: Card, init_error: str = "") -> Nvml:
    library = Nvml(list(cards), init_error)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def three() -> list[Gpu]:
    return [Gpu(uuid, index, "NVIDIA H200", 1, 1, "570.86") for index, uuid in enumerate((FIRST, SECOND, THIRD))]


def test_every_gpu_is_described_and_the_library_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    library = pretend(monkeypatch, Card(FIRST), Card(SECOND.encode(), b"NVIDIA A100"))
    inventory = gpu_inventory()
    assert inventory.gpus == (
        Gpu(FIRST, 0, "NVIDIA H200", 80 << 30, 79 << 30, "570.86"),
        Gpu(SECOND, 1, "NVIDIA A100", 80 << 30, 79 << 30, "570.86"),
    )
    assert (inventory.reason, inventory.driver) == ("", "570.86")
    assert list_gpus() == inventory.gpus
    assert library.opened == 0


def test_no_driver_no_library_and_no_gpu_are_answers_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, init_error="NVML Shared Library Not Found")
    assert gpu_inventory().gpus == () and "NVML Shared Library Not Found" in gpu_inventory().reason
    pretend(monkeypatch)
    assert gpu_inventory().gpus == () and gpu_inventory().reason == "the driver reports no GPU"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_inventory().gpus == () and "nvidia-ml-py cannot be imported" in gpu_inventory().reason


def test_a_gpu_that_cannot_be_read_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Card(FIRST, is_broken=True), Card(SECOND))
    inventory = gpu_inventory()
    assert [gpu.uuid for gpu in inventory.gpus] == [SECOND]
    assert inventory.reason == "GPU 0 cannot be read: GPU is lost"


def test_a_split_gpu_counts_as_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Card(FIRST, parts=["MIG-1", "MIG-2"]), Card(SECOND))
    assert [(gpu.uuid, gpu.index) for gpu in list_gpus()] == [("MIG-1", 0), ("MIG-2", 0), (SECOND, 1)]
    assert [gpu.uuid for gpu in gpu_inventory("MIG-2").gpus] == ["MIG-2"]
    assert [gpu.uuid for gpu in gpu_inventory("1,0").gpus] == [SECOND, "MIG-1"]


def test_the_variable_of_the_user_is_respected_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, Card(FIRST), Card(SECOND))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.uuid for gpu in list_gpus()] == [SECOND]
    assert gpu_inventory().reason == "CUDA_VISIBLE_DEVICES='1' allows 1 of 2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_inventory().gpus == () and gpu_inventory().reason == "CUDA_VISIBLE_DEVICES='' allows 0 of 2"


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [FIRST, SECOND, THIRD]),
        ("", []),
        ("0", [FIRST]),
        ("2,0", [THIRD, FIRST]),
        (" 1 , 2 ", [SECOND, THIRD]),
        ("1,-1,2", [SECOND]),
        ("1,7,2", [SECOND]),
        ("-1", []),
        ("NoDevFiles", []),
        ("none", []),
        ("0,0", []),
        ("1gpu,2", [SECOND, THIRD]),
        ("GPU-bbbb", [THIRD]),
        (f"{SECOND},{FIRST}", [SECOND, FIRST]),
        ("GPU-aaaa", []),
        (f"{SECOND},GPU-aaaa,{THIRD}", [SECOND]),
        (f"{FIRST},{FIRST}", []),
        ("gpu-bbbb", []),
        ("²", []),
    ],
)
def test_the_variable_is_read_as_cuda_reads_it(visible: str | None, expected: list[str]) -> None:
    assert [gpu.uuid for gpu in visible_gpus(three(), visible)] == expected


def test_no_framework_is_imported() -> None:
    script = (
        "import sys\nfrom stepalign.coordinator.devices.gpus import gpu_inventory\ngpu_inventory()\n"
        "print([name for name in ('torch', 'paddle') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == "[]"
