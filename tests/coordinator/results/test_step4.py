"""The STEP4 files: reprod_log must read ours and report what we report; a file from elsewhere must run nothing."""

from __future__ import annotations

import builtins
import datetime
import io
import itertools
import os
import pickle
import struct
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepalign.coordinator.results.reprod_npy import read_reprod_npy, write_reprod_npy
from stepalign.coordinator.results.result import (
    CaseFacts,
    ErrorFacts,
    FirstDivergence,
    Result,
    Series,
    SideFacts,
    Verdict,
)
from stepalign.coordinator.results.step4 import (
    DiffRow,
    diff_rows,
    loss_arrays,
    losses_markdown,
    lr_arrays,
    mean_difference,
    write_diff_log,
    write_losses_md,
)
from stepalign.protocol.errors import CaseError

_STAMP_LENGTH = len("[2022/04/14 15:51:12]")


def _clock() -> datetime.datetime:
    return datetime.datetime(2022, 4, 14, 15, 51, 12)


def _save_as_numpy_does(path: Path, content: Any) -> Path:
    with open(path, "wb") as file:
        np.save(file, content)
    return path


def _save_payload(path: Path, payload: bytes) -> Path:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(file.getvalue() + payload)
    return path


class TestRoundTrip:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool", "complex64"])
    @pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)])
    def test_arrays_come_back_with_their_bits_shape_and_dtype(
        self, tmp_path: Path, dtype: str, shape: tuple[int, ...]
    ) -> None:
        array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
        write_reprod_npy(tmp_path / "a.npy", {"x": array, "again": array})
        read = read_reprod_npy(tmp_path / "a.npy")
        assert list(read) == ["x", "again"]
        assert (read["x"].dtype, read["x"].shape) == (array.dtype, array.shape)
        assert read["x"].tobytes() == array.tobytes()

    def test_nan_and_infinity_keep_their_bits(self, tmp_path: Path) -> None:
        array = np.array([np.nan, -np.inf, -0.0], np.float32)
        write_reprod_npy(tmp_path / "a.npy", {"x": array})
        assert read_reprod_npy(tmp_path / "a.npy")["x"].tobytes() == array.tobytes()

    def test_numpy_itself_loads_the_file_without_a_warning(self, tmp_path: Path) -> None:
        write_reprod_npy(
            tmp_path / "a.npy", {"loss_0": np.array(0.5, np.float32), "w": np.asfortranarray(np.eye(3)[:2])}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = np.load(tmp_path / "a.npy", allow_pickle=True).item()
        assert loaded["loss_0"].shape == () and loaded["loss_0"] == np.float32(0.5)
        assert np.array_equal(loaded["w"], np.eye(3)[:2])

    def test_the_file_names_only_modules_that_every_numpy_has(self, tmp_path: Path) -> None:
        write_reprod_npy(tmp_path / "a.npy", {"numpy._core.multiarray": np.zeros(2)})
        content = (tmp_path / "a.npy").read_bytes()
        assert b"cnumpy.core.multiarray\n_reconstruct\n" in content and b"cnumpy._core" not in content
        assert list(read_reprod_npy(tmp_path / "a.npy")) == ["numpy._core.multiarray"]

    def test_a_file_of_numpy_2_is_read(self, tmp_path: Path) -> None:
        content = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.float64(2.5), "c": np.array(3)}
        read = read_reprod_npy(_save_as_numpy_does(tmp_path / "a.npy", content))
        assert {key: value.tolist() for key, value in read.items()} == {"a": content["a"].tolist(), "b": 2.5, "c": 3}

    @pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
    def test_every_protocol_that_numpy_has_written_is_read(self, tmp_path: Path, protocol: int) -> None:
        outer = np.empty((), dtype=object)
        outer[()] = {"loss_0": np.array(0.25, np.float32), "s": np.float64(7.0)}
        payload = pickle.dumps(outer, protocol=protocol)
        read = read_reprod_npy(_save_payload(tmp_path / "a.npy", payload))
        assert read["loss_0"] == np.float32(0.25) and read["s"] == 7.0

    def test_no_arrays_at_all_are_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no arrays"):
            write_reprod_npy(tmp_path / "a.npy", {})
        assert list(tmp_path.iterdir()) == []

    def test_an_object_array_is_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="x: dtype object"):
            write_reprod_npy(tmp_path / "a.npy", {"x": np.array([None])})


class _Reduces:
    """Pickles to a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


class TestUntrustedFiles:
    @pytest.mark.parametrize("place", ["value", "key", "whole", "inner_object_array", "behind_a_dtype"])
    @pytest.mark.parametrize("protocol", [0, 2, 4, 5])
    def test_a_call_hidden_anywhere_is_named_and_never_runs(self, tmp_path: Path, place: str, protocol: int) -> None:
        trap = tmp_path / "ran"
        evil = _Reduces(os.system, f"touch {trap}")
        content: Any = {
            "value": {"loss_0": evil},
            "key": {evil: np.zeros(1)},
            "whole": evil,
            "inner_object_array": {"loss_0": np.array([evil, 1], dtype=object)},
            "behind_a_dtype": {"loss_0": np.zeros(1), "x": _Reduces(np.dtype, evil)},
        }[place]
        outer = np.empty((), dtype=object)
        outer[()] = content
        path = _save_payload(tmp_path / "a.npy", pickle.dumps(outer, protocol=protocol))
        with pytest.raises(
            CaseError,
            match=r"a\.npy: refused; .* found .*(system|BYTEARRAY8|_frombuffer).* Nothing in the file was run",
        ) as caught:
            read_reprod_npy(path)
        assert caught.value.exit_code == 2
        assert not trap.exists()

    @pytest.mark.parametrize(
        "function", [builtins.eval, builtins.exec, builtins.getattr, subprocess.Popen, np.load, np.save, np.memmap]
    )
    def test_any_other_function_is_refused_by_name(self, tmp_path: Path, function: Callable[..., Any]) -> None:
        path = _save_as_numpy_does(tmp_path / "a.npy", {"loss_0": _Reduces(function, "1+1")})
        with pytest.raises(CaseError, match=function.__name__):
            read_reprod_npy(path)

    @pytest.mark.parametrize(
        ("payload", "found"),
        [
            (b"cnumpy\nndarray.__class__\n.", "numpy.ndarray.__class__"),
            (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", "numpy.ndarray.__init__"),
            (b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromfile"),
            (b"cnumpy.core.multiarray\n_reconstruct\n}(X\x01\x00\x00\x00aK\x01ub.", "a state set on"),
            (b"cnumpy\nndarray\n(tR.", "a call of a name that is not a function"),
            (b"cnumpy\ndtype\n(tR.", "a dtype that is not given by its short name"),
            (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\ntR.", "a class other than ndarray"),
            (
                b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00bz2_tR.",
                "_codecs.encode for anything but latin1",
            ),
            (b"(S'a'\ni__main__\nx\n.", "the pickle instruction STRING"),
            (b"(ios\nsystem\n.", "the pickle instruction INST"),
            (b"Pname\n.", "the pickle instruction PERSID"),
            (b"\x82\x01.", "the pickle instruction EXT1"),
            (b"cnumpy\nndarray\n)\x81.", "the pickle instruction NEWOBJ"),
            (b"Nr\xff\xff\xff\xff.", "memo index"),
            (b"B\xff\xff\xff\x7f.", "a damaged pickle"),
            (b"h\x07.", "a damaged pickle"),
            (b"\x96\x01\0\0\0\0\0\0\0x.", "the pickle instruction BYTEARRAY8"),
            (b"0.", "the pickle instruction POP"),
            (b"u.", "a damaged pickle"),
            (b"}", "a damaged pickle"),
            (b"", "a damaged pickle"),
            (b"}.trailing", "8 bytes behind the end"),
            (b"].", "a Python list"),
            (b"cnumpy\nndarray\n.", "a bare reference to numpy"),
            (b"}K\x01K\x02s.", "a key that is a Python int"),
            (b"}X\x01\x00\x00\x00aG?\xf0\x00\x00\x00\x00\x00\x00s.", "a Python float under the key 'a'"),
            (b"}X\x01\x00\x00\x00a}s.", "a Python dict under the key 'a'"),
        ],
    )
    def test_a_crafted_pickle_is_refused_and_what_was_found_is_said(
        self, tmp_path: Path, payload: bytes, found: str
    ) -> None:
        with pytest.raises(CaseError, match="refused") as caught:
            read_reprod_npy(_save_payload(tmp_path / "a.npy", payload))
        assert found in str(caught.value)

    @pytest.mark.parametrize(
        ("array", "found"),
        [
            (np.array([1, "a"], dtype=object), "dtype 'O8' under the key 'x'"),
            (np.array(["text"]), "dtype 'U4'"),
            (np.zeros(2, [("a", "f4"), ("b", "i4")]), "a structured or sub-array dtype"),
            (np.array(["2022-04-14"], "datetime64[D]"), "dtype 'M8'"),
            (np.ma.masked_array([1.0], [True]), "refused"),
        ],
    )
    def test_an_array_that_is_not_numeric_is_refused(self, tmp_path: Path, array: np.ndarray, found: str) -> None:
        with pytest.raises(CaseError) as caught:
            read_reprod_npy(_save_as_numpy_does(tmp_path / "a.npy", {"x": array}))
        assert found in str(caught.value)

    @pytest.mark.parametrize(
        ("shape", "data"), [((3,), b"\0" * 8), ((10**6, 10**6, 10**6), b"\0" * 4), ((), b""), ((2**62, 4, 0), b"\0")]
    )
    def test_a_shape_that_its_bytes_do_not_fill_is_refused(
        self, tmp_path: Path, shape: tuple[int, ...], data: bytes
    ) -> None:
        path = tmp_path / "a.npy"
        write_reprod_npy(path, {"x": np.array([1.0, 2.0, 3.0], np.float32)})
        honest = path.read_bytes()
        old = b"K\x03\x85" + honest.split(b"K\x03\x85")[1][:2]
        sizes = b"".join(b"\x8a\x09" + struct.pack("<q", size) + b"\0" for size in shape)
        forged = honest.replace(old, b"(" + sizes + b"t" + old[3:], 1)
        forged = forged.replace(
            b"C\x0c" + np.array([1.0, 2.0, 3.0], np.float32).tobytes(), b"C" + bytes([len(data)]) + data
        )
        assert forged != honest
        path.write_bytes(forged)
        with pytest.raises(CaseError, match="bytes where shape"):
            read_reprod_npy(path)

    def test_a_plain_array_is_refused_with_what_it_is(self, tmp_path: Path) -> None:
        path = _save_as_numpy_does(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
        with pytest.raises(CaseError, match=r"found a plain array of shape \(2, 3\) and dtype '<f4'"):
            read_reprod_npy(path)

    def test_an_object_array_that_is_no_dict_is_refused(self, tmp_path: Path) -> None:
        path = _save_as_numpy_does(tmp_path / "a.npy", np.array([{"a": np.zeros(1)}, None], dtype=object))
        with pytest.raises(CaseError, match=r"found an object array of shape \(2,\)"):
            read_reprod_npy(path)

    @pytest.mark.parametrize(
        "content", [b"", b"\x93NUMPY", b"PK\x03\x04 an archive", b"\x93NUMPY\x09\x00" + b"\0" * 100]
    )
    def test_a_file_of_another_format_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(CaseError, match=r"a\.npy: expected a reprod_log file .* no \.npy file by its first bytes"):
            read_reprod_npy(tmp_path / "a.npy")

    @pytest.mark.parametrize(
        "header", [b"", b"{", b"{'descr': '|O'}", b"[1, 2]", b"(" * 4000, b"__import__('os').system('true')"]
    )
    def test_a_damaged_header_is_refused(self, tmp_path: Path, header: bytes) -> None:
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"}.")
        with pytest.raises(CaseError, match=r"a\.npy: expected a reprod_log file .* a damaged \.npy header"):
            read_reprod_npy(tmp_path / "a.npy")

    def test_a_missing_file_a_folder_and_a_pipe_are_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name, found in (("absent.npy", "nothing there"), (".", "a folder"), ("pipe", "a special file")):
            with pytest.raises(CaseError, match=f"found {found}"):
                read_reprod_npy(tmp_path / name)

    def test_a_file_over_the_limit_is_not_read(self, tmp_path: Path) -> None:
        write_reprod_npy(tmp_path / "a.npy", {"x": np.zeros(1000)})
        with pytest.raises(CaseError, match=r"more than the 4096 that are read"):
            read_reprod_npy(tmp_path / "a.npy", max_size_bytes=4096)

    def test_a_truncated_or_flipped_file_is_read_or_refused_but_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npy"
        write_reprod_npy(path, {"loss_0": np.array(0.5, np.float32), "lr": np.array([3e-5])})
        honest = path.read_bytes()
        random = np.random.default_rng(0)
        for trial in range(600):
            damaged = bytearray(honest)
            for position in random.integers(0, len(honest), random.integers(1, 4)):
                damaged[position] = random.integers(0, 256)
            path.write_bytes(damaged[: len(honest) if trial % 2 else random.integers(0, len(honest))])
            try:
                read = read_reprod_npy(path)
            except CaseError:
                continue
            assert all(type(key) is str and array.dtype.kind in "biufc" for key, array in read.items())


class TestDiffLog:
    def test_the_lines_are_exactly_the_contracts(self, tmp_path: Path) -> None:
        write_diff_log(tmp_path / "a.log", [DiffRow("step_100_lr", True, np.float64(0.0))], True, _clock)
        assert (tmp_path / "a.log").read_bytes() == (
            b"[2022/04/14 15:51:12] root INFO: step_100_lr: \n"
            b"[2022/04/14 15:51:12] root INFO: \tmean diff: check passed: True, value: 0.0\n"
            b"[2022/04/14 15:51:12] root INFO: diff check passed\n"
        )

    def test_each_line_bears_the_time_at_which_the_clock_was_read(self, tmp_path: Path) -> None:
        seconds = itertools.count()
        rows = [DiffRow("loss_0", True, np.float32(0))]
        write_diff_log(tmp_path / "a.log", rows, True, lambda: _clock() + datetime.timedelta(seconds=next(seconds)))
        stamps = [line[:_STAMP_LENGTH] for line in (tmp_path / "a.log").read_text().splitlines()]
        assert stamps == [f"[2022/04/14 15:51:{second}]" for second in (12, 13, 14)]

    @pytest.mark.parametrize(
        ("rows", "passed"),
        [
            ([], True),
            ([DiffRow("loss_0", True, np.float32(0))], False),
            ([DiffRow("loss_0", True, np.float32(0)), DiffRow("loss_1", False, np.float32(1))], True),
        ],
    )
    def test_nothing_passes_by_accident(self, tmp_path: Path, rows: list[DiffRow], passed: bool) -> None:
        write_diff_log(tmp_path / "a.log", rows, passed, _clock)
        assert (tmp_path / "a.log").read_text().endswith("diff check failed\n")

    def test_a_key_that_one_side_lacks_is_a_failing_row_by_name(self) -> None:
        torch = loss_arrays({0: np.array(1.0, np.float32), 1: np.array(2.0, np.float32)})
        paddle = loss_arrays({0: np.array(1.0, np.float32), 2: np.array(2.0, np.float32)})
        rows = list(diff_rows(torch, paddle, lambda key, ours, theirs: True))
        assert [(row.key, row.passed) for row in rows] == [("loss_0", True), ("loss_1", False), ("loss_2", False)]
        assert np.isnan(float(rows[1].value)) and np.isnan(float(rows[2].value))

    @pytest.mark.parametrize("other", [np.zeros((1,), np.float32), np.zeros((), np.float64)])
    def test_another_shape_or_dtype_fails_without_asking_the_tolerance(self, other: np.ndarray) -> None:
        (row,) = diff_rows({"loss_0": np.zeros((), np.float32)}, {"loss_0": other}, lambda *_: pytest.fail("asked"))
        assert not row.passed

    def test_the_difference_has_the_arrays_own_dtype_and_infinities_do_not_warn(self) -> None:
        assert str(mean_difference(np.array(0.1, np.float32), np.array(0.2, np.float32))) == "0.1"
        assert np.isnan(float(mean_difference(np.array(np.inf), np.array(np.inf))))

    def test_reprod_log_loads_our_files_and_its_report_agrees_line_by_line(
        self, tmp_path: Path, reprod_python: Path
    ) -> None:
        random = np.random.default_rng(3)
        start = random.uniform(0.1, 9.0, 20).astype(np.float32)
        losses = loss_arrays({step: np.asarray(value) for step, value in enumerate(start)})
        drifted = loss_arrays(
            {step: np.asarray(value + np.float32(2e-6 * (step % 3))) for step, value in enumerate(start)}
        )
        milestones = (100, 500, 1000, 2000, 4000)
        rates = lr_arrays({step: [3e-5 * (1 - step / 5000), 1e-3 / step] for step in milestones})
        scaled = lr_arrays({step: [3e-5 * (1 - step / 5000) * 1.25, 1e-3 / step] for step in milestones})
        pairs = {"losses": (losses, drifted), "equal": (losses, losses), "rates": (rates, scaled)}
        for name, (torch, paddle) in pairs.items():
            write_reprod_npy(tmp_path / f"{name}_torch.npy", torch)
            write_reprod_npy(tmp_path / f"{name}_paddle.npy", paddle)
        _run_reprod_log(reprod_python, tmp_path, list(pairs))
        for name, (torch, paddle) in pairs.items():
            # reprod_log's own threshold, so that the decisions agree; a run decides by the kind's tolerance.
            rows = diff_rows(torch, paddle, lambda _, ours, theirs: float(mean_difference(ours, theirs)) <= 1e-6)
            write_diff_log(tmp_path / f"{name}_ours.log", rows, True)
            ours, theirs = ((tmp_path / f"{name}_{who}.log").read_bytes().split(b"\n") for who in ("ours", "reprod"))
            assert [line[_STAMP_LENGTH:] for line in ours] == [line[_STAMP_LENGTH:] for line in theirs]
            assert [len(line) for line in ours] == [len(line) for line in theirs]


def _run_reprod_log(python: Path, folder: Path, names: list[str]) -> None:
    script = (
        "import sys, logging\n"
        "from reprod_log import ReprodDiffHelper\n"
        "for name in sys.argv[1:]:\n"
        "    helper = ReprodDiffHelper()\n"
        "    torch, paddle = (helper.load_info(f'{name}_{side}.npy') for side in ('torch', 'paddle'))\n"
        "    helper.compare_info(torch, paddle)\n"
        "    helper.report(path=f'{name}_reprod.log')\n"
        "    logging.getLogger('root').handlers.clear()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), "-c", script, *names],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _side(framework: str, version: str) -> SideFacts:
    return SideFacts(framework, version, "3.11.7", f"/envs/{framework}/bin/python", 7, "cpu")


def _result(torch: tuple[float | None, ...], paddle: tuple[float | None, ...], dtype: str = "float32") -> Result:
    return Result(
        stepalign="0.1.0",
        verdict=Verdict.ALIGNED,
        case=CaseFacts("bert|tiny", 3, "eval", dtype, 0),
        steps_completed=3,
        torch=_side("torch", "2.13.0"),
        paddle=_side("paddle", "3.3.1"),
        series=Series(loss_torch=torch, loss_paddle=paddle),
    )


class TestLossesTable:
    def test_verdict_and_versions_come_first_then_a_row_a_step(self, tmp_path: Path) -> None:
        torch, paddle = np.float32(0.69), np.nextafter(np.float32(0.69), np.float32(1))
        write_losses_md(tmp_path / "losses.md", _result((float(torch),), (float(paddle),)))
        assert (tmp_path / "losses.md").read_text().splitlines() == [
            "**bert\\|tiny: aligned**, 3 of 3 steps, eval, float32",
            "",
            "stepalign 0.1.0, torch 2.13.0 (cpu), paddle 3.3.1 (cpu)",
            "",
            "| step | torch loss | paddle loss | difference |",
            "| ---: | ---: | ---: | ---: |",
            "| 0 | 0.69 | 0.69000006 | 5.9604645e-08 |",
        ]

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_every_number_reads_back_to_the_same_bits(self, dtype: str) -> None:
        losses = np.random.default_rng(1).lognormal(0, 9, 200).astype(dtype)
        table = losses_markdown(_result(tuple(losses.tolist()), tuple(losses.tolist()), dtype))
        read = [np.dtype(dtype).type(line.split(" | ")[1]) for line in table.splitlines()[6:]]
        assert np.array_equal(np.array(read), losses)

    def test_what_is_missing_or_not_finite_is_shown_as_such(self) -> None:
        rows = losses_markdown(_result((np.nan, np.inf, 1.0, 2.0), (1.0, np.inf, None))).splitlines()[6:]
        assert rows == [
            "| 0 | NaN | 1.0 | NaN |",
            "| 1 | Infinity | Infinity | NaN |",
            "| 2 | 1.0 | missing | missing |",
            "| 3 | 2.0 | missing | missing |",
        ]

    def test_a_failed_run_without_a_side_still_has_its_table(self) -> None:
        facts = CaseFacts("mlp", 3, "eval", "float32", 0)
        error = ErrorFacts("paddle did not start", side="paddle")
        result = Result("0.1.0", Verdict.FAILED, facts, 0, _side("torch", "2.13.0"), None, error=error)
        assert "**mlp: failed**, 0 of 3 steps" in losses_markdown(result)
        assert "paddle not started" in losses_markdown(result)

    def test_a_loss_of_another_dtype_than_the_case_is_written_in_its_own(self) -> None:
        place = FirstDivergence(0, "loss", "loss", "loss")
        facts = CaseFacts("mlp", 1, "eval", "float64", 0)
        series = Series((float(np.float32(0.1)),), (float(np.float32(0.2)),))
        result = Result("0.1.0", Verdict.DIVERGED, facts, 1, None, None, series=series, first_divergence=place)
        assert "| 0 | 0.1 | 0.2 | 0.1 |" in losses_markdown(result, loss_dtype="float32")
