"""The status page: what a worker noted last, readable from outside whatever became of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stepalign.protocol.status import Status, StatusWriter, create_status, read_status


def test_what_is_noted_is_read_at_once(tmp_path: Path) -> None:
    descriptor = create_status(str(tmp_path / "status"))
    assert read_status(descriptor) == Status(None, "start")
    writer = StatusWriter(str(tmp_path / "status"))
    writer.enter("build")
    assert read_status(descriptor) == Status(None, "build")
    writer.enter("batch", 0)
    assert read_status(descriptor) == Status(0, "batch")
    writer.enter("forward")
    assert read_status(descriptor) == Status(0, "forward"), "the step stays within the step"
    writer.enter("batch", 1 << 40)
    assert read_status(descriptor).step == 1 << 40
    writer.leave_step()
    assert read_status(descriptor) == Status(None, "wait")
    os.close(descriptor)


@pytest.mark.parametrize(("phase", "shown"), [("x" * 40, "x" * 16), ("", ""), ("phäse", "ph\ufffd\ufffdse")])
def test_any_phase_is_cut_to_its_place(tmp_path: Path, phase: str, shown: str) -> None:
    descriptor = create_status(str(tmp_path / "status"))
    StatusWriter(str(tmp_path / "status")).enter(phase)
    assert read_status(descriptor) == Status(None, shown)
    os.close(descriptor)


def test_the_page_is_read_although_its_file_is_gone_and_is_nobody_elses(tmp_path: Path) -> None:
    descriptor = create_status(str(tmp_path / "status"))
    assert (tmp_path / "status").stat().st_mode & 0o777 == 0o600
    writer = StatusWriter(str(tmp_path / "status"))
    (tmp_path / "status").unlink()
    writer.enter("update", 3)
    assert read_status(descriptor) == Status(3, "update")
    os.close(descriptor)


def test_a_page_that_is_there_already_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "status").write_bytes(b"")
    with pytest.raises(FileExistsError):
        create_status(str(tmp_path / "status"))
