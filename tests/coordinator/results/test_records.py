"""What a run leaves on disk: strict JSON, whole files, complete lines, a folder of its own."""

from __future__ import annotations

import datetime
import enum
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.results.records import (
    StepsLog,
    create_run_folder,
    from_strict_number,
    read_result,
    read_steps,
    to_strict,
    write_bytes,
    write_json,
    write_text,
)
from stepalign.protocol.errors import CaseError, EnvironmentFailure

_NOW = datetime.datetime(2022, 4, 14, 15, 51, 12)


class _Color(enum.Enum):
    RED = "red"


class TestStrictValues:
    VALUES = pytest.mark.parametrize(
        ("value", "strict"),
        [
            (math.nan, "NaN"),
            (math.inf, "Infinity"),
            (-math.inf, "-Infinity"),
            (np.float32("nan"), "NaN"),
            (np.float16(-np.inf), "-Infinity"),
            (np.longdouble(0.5), 0.5),
            (np.longdouble("inf"), "Infinity"),
            (np.int64(7), 7),
            (np.bool_(True), True),
            (np.array([[1.0, np.nan]], np.float32), [[1.0, "NaN"]]),
            (np.array(2.5), 2.5),
            ((1, (2.0, None)), [1, [2.0, None]]),
            ({"a": {"b": (np.float64(1.5),)}}, {"a": {"b": [1.5]}}),
            (_Color.RED, "red"),
            (Path("/tmp/x"), "/tmp/x"),
            (True, True),
            ("NaN", "NaN"),
        ],
    )

    @VALUES
    def test_values_become_plain_strict_json(self, value: Any, strict: Any) -> None:
        assert to_strict(value) == strict
        assert type(to_strict(value)) is type(strict)
        json.dumps(to_strict(value), allow_nan=False)

    @VALUES
    def test_a_line_holds_the_same(self, value: Any, strict: Any, tmp_path: Path) -> None:
        record = {"step": 3, "value": value, "list": [0.1, value], "last": 1e-300}
        with StepsLog(tmp_path / "steps.jsonl") as log:
            log.append(record)
        text = (tmp_path / "steps.jsonl").read_text(encoding="ascii")
        assert text == json.dumps(to_strict(record), separators=(",", ":"), allow_nan=False) + "\n"
        assert json.loads(text)["value"] == strict

    def test_a_float32_and_a_float64_keep_their_value_to_the_last_bit(self) -> None:
        for value in (np.float32(0.1), np.float64(0.1) * 3, np.float32(1e-45), -0.0):
            read = json.loads(json.dumps(to_strict(value)))
            assert type(value)(read) == value and math.copysign(1, read) == math.copysign(1, value)

    @pytest.mark.parametrize("value", [{1: 2}, {1, 2}, 1j, np.complex64(1), object(), b"bytes"])
    def test_what_json_cannot_hold_is_refused(self, value: Any) -> None:
        with pytest.raises(TypeError):
            to_strict(value)

    @pytest.mark.parametrize("value", [1.5, 2, math.inf, -math.inf])
    def test_numbers_come_back(self, value: float) -> None:
        assert from_strict_number(to_strict(value)) == value

    def test_nan_comes_back(self) -> None:
        assert math.isnan(from_strict_number("NaN"))

    @pytest.mark.parametrize("value", ["nan", "1", None, True, [1.0]])
    def test_anything_else_is_no_number(self, value: Any) -> None:
        with pytest.raises(ValueError, match="expected a number"):
            from_strict_number(value)


class TestSteps:
    def test_a_line_is_in_the_file_as_soon_as_it_is_appended(self, tmp_path: Path) -> None:
        with StepsLog(tmp_path / "steps.jsonl") as log:
            log.append({"step": 0, "loss": np.float32("nan")})
            assert (tmp_path / "steps.jsonl").read_bytes() == b'{"step":0,"loss":"NaN"}\n'
            log.append({"step": 1, "text": "two\nlines"})
            assert read_steps(tmp_path) == [{"step": 0, "loss": "NaN"}, {"step": 1, "text": "two\nlines"}]

    @pytest.mark.parametrize("torn", [b'{"st', b'{"step": 2}', b"\0\0\0", b"\xff"])
    def test_a_torn_last_line_is_dropped_by_the_reader_and_cut_off_by_the_writer(
        self, tmp_path: Path, torn: bytes
    ) -> None:
        path = tmp_path / "steps.jsonl"
        path.write_bytes(b'{"step": 0}\n{"step": 1}\n' + torn)
        assert read_steps(path) == [{"step": 0}, {"step": 1}]
        with StepsLog(path) as log:
            log.append({"step": 2})
        assert read_steps(path) == [{"step": 0}, {"step": 1}, {"step": 2}]

    def test_a_torn_line_longer_than_a_block_is_cut_off_whole(self, tmp_path: Path) -> None:
        path = tmp_path / "steps.jsonl"
        path.write_bytes(b'{"step": 0}\n' + b"x" * 300_000)
        StepsLog(path).close()
        assert path.read_bytes() == b'{"step": 0}\n'
        path.write_bytes(b"x" * 300_000)
        StepsLog(path).close()
        assert path.read_bytes() == b""

    @pytest.mark.parametrize("line", [b"{", b"[1]", b'{"a": NaN}', b"\xff", b""])
    def test_a_bad_line_in_the_middle_is_an_error_with_its_number(self, tmp_path: Path, line: bytes) -> None:
        (tmp_path / "steps.jsonl").write_bytes(b'{"step": 0}\n' + line + b'\n{"step": 2}\n')
        with pytest.raises(CaseError, match=r"steps\.jsonl, line 2: expected"):
            read_steps(tmp_path)

    def test_no_steps_file_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(CaseError, match=r"steps\.jsonl: cannot be read: No such file"):
            read_steps(tmp_path)

    def test_a_vanished_folder_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(EnvironmentFailure, match=r"gone.*cannot be written.*folder is still there"):
            StepsLog(tmp_path / "gone" / "steps.jsonl")

    def test_a_full_disk_is_said_with_what_to_do(self) -> None:
        with StepsLog(Path("/dev/full")) as log, pytest.raises(EnvironmentFailure, match=r"No space left.*Free some"):
            log.append({"step": 0})


class TestWholeFiles:
    def test_result_json_is_strict_and_read_by_file_or_folder(self, tmp_path: Path) -> None:
        write_json(tmp_path / "result.json", {"verdict": "aligned", "loss": [math.nan, 0.5]})
        assert read_result(tmp_path) == {"verdict": "aligned", "loss": ["NaN", 0.5]}
        assert read_result(tmp_path / "result.json") == read_result(tmp_path)

    def test_a_value_that_cannot_be_written_leaves_the_old_file(self, tmp_path: Path) -> None:
        write_json(tmp_path / "result.json", {"old": 1})
        with pytest.raises(TypeError):
            write_json(tmp_path / "result.json", {"new": object()})
        assert read_result(tmp_path) == {"old": 1}
        assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]

    def test_a_failed_write_leaves_no_temporary_file(self, tmp_path: Path) -> None:
        (tmp_path / "taken").mkdir()
        with pytest.raises(EnvironmentFailure, match="taken: cannot be written"):
            write_bytes(tmp_path / "taken", b"x")
        assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]

    def test_a_reader_never_sees_half_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "result.json"
        write_json(path, {"number": 0, "body": ["x"] * 5000})
        done = threading.Event()

        def rewrite() -> None:
            for number in range(30):
                write_json(path, {"number": number, "body": ["x"] * 5000})
            done.set()

        writer = threading.Thread(target=rewrite)
        writer.start()
        while not done.is_set():
            assert len(read_result(path)["body"]) == 5000
        writer.join()

    def test_any_text_can_be_written(self, tmp_path: Path) -> None:
        write_text(tmp_path / "a.md", "对齐 \udc80\n")
        assert (tmp_path / "a.md").read_bytes() == "对齐 \\udc80\n".encode()

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": Infinity}', b"\xff\xfe"])
    def test_a_damaged_result_is_refused_by_name(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "result.json").write_bytes(content)
        with pytest.raises(CaseError, match=r"result\.json: expected"):
            read_result(tmp_path)

    def test_a_folder_without_a_result_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CaseError, match="may not have ended"):
            read_result(tmp_path)


class TestRunFolder:
    def test_the_name_is_the_case_and_the_local_time(self, tmp_path: Path) -> None:
        folder = create_run_folder("bert_sst2", now=_NOW, root=tmp_path / "runs")
        assert folder == tmp_path / "runs" / "bert_sst2-20220414-155112"
        assert [entry.name for entry in folder.iterdir()] == ["steps.jsonl"]

    def test_an_existing_folder_is_never_reused(self, tmp_path: Path) -> None:
        names = [create_run_folder("a", now=_NOW, root=tmp_path).name for _ in range(3)]
        assert names == ["a-20220414-155112", "a-20220414-155112-2", "a-20220414-155112-3"]

    def test_many_runs_at_once_never_share_a_folder(self, tmp_path: Path) -> None:
        folders: list[Path] = []
        start = threading.Barrier(8)

        def create() -> None:
            start.wait()
            folders.append(create_run_folder("a", now=_NOW, root=tmp_path))

        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(folders)) == 8

    def test_of_many_runs_at_once_one_gets_the_folder_named_by_out(self, tmp_path: Path) -> None:
        outcomes: list[str] = []
        start = threading.Barrier(8)

        def create() -> None:
            start.wait()
            try:
                create_run_folder("a", now=_NOW, out=tmp_path / "out")
                outcomes.append("taken")
            except CaseError:
                outcomes.append("refused")

        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["refused"] * 7 + ["taken"]

    @pytest.mark.parametrize(
        ("name", "stem"),
        [
            ("../../etc/passwd", "etc_passwd"),
            ("a/b c", "a_b_c"),
            ("", "case"),
            ("..", "case"),
            ("-rf", "rf"),
            ("对齐", "对齐"),
            ("a\0b\nc", "a_b_c"),
            ("x" * 500, "x" * 120),
            ("对" * 500, "对" * 40),
            ("\udc80", "case"),
        ],
    )
    def test_a_case_name_never_becomes_a_path(self, tmp_path: Path, name: str, stem: str) -> None:
        assert create_run_folder(name, now=_NOW, root=tmp_path) == tmp_path / f"{stem}-20220414-155112"

    def test_out_may_be_new_or_empty(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for out in (tmp_path / "new" / "deep", tmp_path / "empty"):
            assert create_run_folder("a", now=_NOW, out=out) == out

    @pytest.mark.parametrize(("held", "found"), [("result.json", "a run's files"), ("thesis.tex", "other files")])
    def test_out_with_anything_in_it_is_refused_and_left_alone(self, tmp_path: Path, held: str, found: str) -> None:
        (tmp_path / held).write_text("mine")
        with pytest.raises(CaseError, match=f"expected a new or empty folder, found {found}"):
            create_run_folder("a", now=_NOW, out=tmp_path)
        assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [(held, "mine")]

    def test_out_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("mine")
        with pytest.raises(CaseError, match="it is not a folder"):
            create_run_folder("a", now=_NOW, out=tmp_path / "out")

    def test_a_place_where_no_folder_can_be_made_is_said_with_what_to_do(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for place in ({"root": tmp_path / "file" / "runs"}, {"out": tmp_path / "file" / "out"}):
            with pytest.raises(CaseError, match=r"cannot make a run folder there: Not a directory.*with --out DIR"):
                create_run_folder("a", now=_NOW, **place)

    @pytest.mark.parametrize("place", [{"root": Path("/proc")}, {"out": Path("/proc/run")}])
    def test_an_unwritable_place_is_said_with_what_to_do(self, place: dict[str, Path]) -> None:
        with pytest.raises(CaseError, match=r"/proc.*: cannot make a run folder there: .*with --out DIR"):
            create_run_folder("a", now=_NOW, **place)
