"""Meets the sides that run on other machines: makes their keys, tells a person what to start there, waits for them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Sequence

from stepalign.coordinator.cases.case import Case
from stepalign.coordinator.devices.placement import Placement
from stepalign.coordinator.processes.payload import write_payload
from stepalign.coordinator.processes.remote_link import RemoteLink, address_of
from stepalign.protocol.errors import CaseError
from stepalign.protocol.keys import write_key
from stepalign.protocol.messages import Attached

FOLDER_NAME = "remote"
ARCHIVE_NAME = "stepalign-worker.pyz"


@dataclass(frozen=True)
class Meeting:
    """Where a run meets its other machines: the run folder, who is told what to start there, and the run's tick."""

    folder: Path
    tell: Callable[[str], None]
    on_tick: Callable[[], None]


class Machines:
    """The other machines of one run, by side. Their keys and the archive are in the run folder until `close`."""

    def __init__(self, case: Case, sides: Sequence[str], meeting: Meeting) -> None:
        self._folder = meeting.folder / FOLDER_NAME
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        self.introductions: Dict[str, Attached] = {}
        self.link = RemoteLink(case.file.network.bind, tuple(sides))
        try:
            write_payload(self._folder / ARCHIVE_NAME)
            for side in sides:
                write_key(self._folder / f"{side}.key", self.link.keys[side])
                meeting.tell(self._instructions(case, side))
            for side in sides:
                self.introductions[side] = self.link.wait_for(side, case.file.network.wait_s, meeting.on_tick)
        except BaseException:
            self.close()
            raise

    def _instructions(self, case: Case, side: str) -> str:
        connect = f"--connect {address_of(self.link.endpoint)} --key {side}.key --case DIR"
        return (
            f"the {side} side runs on {case.side(side).host}: copy these there, the key for nobody else to read,\n"
            f"  {self._folder / ARCHIVE_NAME}\n  {self._folder / f'{side}.key'}\n"
            f"and start there, with a Python that has {side}, numpy, pyzmq and msgpack (DIR is the case's folder there):\n"
            f"  python {ARCHIVE_NAME} {connect}\n"
            f"or, where stepalign is installed:\n"
            f"  stepalign worker {connect}"
        )

    def place(self, case: Case, placement: Placement) -> Placement:
        """Return the placement with the other machines' devices in it."""
        devices = dict(placement.devices)
        for side, introduction in self.introductions.items():
            wanted = case.side(side).device
            if wanted.startswith("gpu") and not introduction.gpu:
                raise CaseError(
                    f"[{side}] device = {wanted!r}, but its worker was started without a GPU: start it with --gpu 0 on "
                    f"{introduction.host}"
                )
            env = {name: value for name, value in devices[side].env.items() if name != "CUDA_VISIBLE_DEVICES"}
            kind = "gpu" if introduction.gpu and wanted != "cpu" else "cpu"
            devices[side] = replace(devices[side], kind=kind, gpu=None, cores=(), env=env)
        return replace(placement, devices=devices)

    def fewest_cores(self) -> int:
        """Return the number of cores of the smallest of these machines."""
        return min(each.cores for each in self.introductions.values())

    def close(self) -> None:
        """Dismiss the machines and delete their keys."""
        self.link.close()
        shutil.rmtree(self._folder, ignore_errors=True)
