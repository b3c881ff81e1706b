"""What a run keeps of each step: rows come back as they were, and cost no memory."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from stepalign.coordinator.running.series import BLOCK_STEPS, ArraySeries, FlagSeries, NumberSeries, TextSeries
from stepalign.coordinator.running.spill import Spill


def test_rows_keep_dtype_shape_and_bits_also_where_they_change_on_the_way() -> None:
    rows = [np.array(0.1, np.float32), np.array(np.nan, np.float32), np.array(1 / 3), np.array(-0.0), np.array(2, np.int64)]
    series = ArraySeries()
    for row in rows:
        series.append(row)
    assert len(series) == len(rows)
    for found in ([*series], [series[step] for step in range(len(rows))]):
        assert [(row.dtype, row.shape, row.tobytes()) for row in found] == [(row.dtype, (), row.tobytes()) for row in rows]


def test_a_row_is_kept_as_it_was_when_its_array_changes_later() -> None:
    loss, series = np.array(1.0), ArraySeries()
    series.append(loss)
    loss[...] = 2.0
    assert series[0] == 1.0
    read = series[0]
    series.append(loss)  # a series that was read can still grow
    assert [float(row) for row in series] == [1.0, 2.0] and read == 1.0


def test_rates_and_digests_come_back_as_tuples_and_texts_of_any_length() -> None:
    rates, texts = NumberSeries(), TextSeries()
    for row in ([0.1, 1e-300], [], [], [0.3]):
        rates.append(row)
    for text in ("ab", "cd", "", "längér"):
        texts.append(text)
    assert list(rates) == [(0.1, 1e-300), (), (), (0.3,)] and rates[3] == (0.3,)
    assert list(texts) == ["ab", "cd", "", "längér"] and texts[3] == "längér"
    with pytest.raises(IndexError, match="no step 4: there are 4"):
        texts[4]


def test_rows_are_the_bytes_that_numpy_keeps_them_in() -> None:
    rates, flags, texts = NumberSeries(), FlagSeries(), TextSeries()
    for row in ([0.1, -0.0, float("nan"), float("-inf"), 3], [np.float64(1e-310)]):
        rates.append(row)
        assert np.array(rates[-1]).tobytes() == np.array(row, np.float64).tobytes()
    for flag in (True, False, np.True_):
        flags.append(flag)
    assert list(flags) == [True, False, True] and flags.stacked().dtype == np.bool_
    texts.append("a\udcffb")
    assert texts[0] == "a\udcffb" and texts.joined().tobytes() == b"a\xffb"


def filled(steps: int, spill: Spill) -> tuple[ArraySeries, NumberSeries, TextSeries, FlagSeries]:
    """Return series of so many steps."""
    series = ArraySeries(spill), NumberSeries(spill), TextSeries(spill), FlagSeries(spill)
    for step in range(steps):
        series[0].append(np.array(step, np.float32))
        series[1].append([step / 7, 1.0])
        series[2].append(f"{step:032x}")
        series[3].append(step % 3 == 0)
    return series


def test_memory_does_not_grow_with_the_steps() -> None:
    spill = Spill()
    tracemalloc.start()
    try:
        series = filled(20_000, spill)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 4 * BLOCK_STEPS * 32 + 40_000 and {len(each) for each in series} == {20_000}


@pytest.mark.parametrize("refuses", [False, True])
def test_rows_that_left_memory_come_back_and_one_refused_by_the_disk_costs_memory(
    refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 3 * BLOCK_STEPS + 5
    if refuses:
        spill = Spill()
        first = filled(BLOCK_STEPS, spill)[2]
        monkeypatch.setattr(os, "pwrite", lambda descriptor, data, place: len(data) // 2)  # as a disk that is full
        losses, rates, texts, flags = filled(steps, spill)
        assert first[0] == f"{0:032x}"
    else:
        losses, rates, texts, flags = filled(steps, Spill())
    assert losses.each(float) == list(range(steps)) and losses[-1] == steps - 1
    assert rates == [(step / 7, 1.0) for step in range(steps)] and rates[BLOCK_STEPS] == (BLOCK_STEPS / 7, 1.0)
    assert texts[BLOCK_STEPS - 1 : BLOCK_STEPS + 1] == (f"{BLOCK_STEPS - 1:032x}", f"{BLOCK_STEPS:032x}")
    assert list(flags) == [step % 3 == 0 for step in range(steps)]
    assert losses.stacked().tolist() == list(range(steps))


def test_the_file_has_no_name_and_is_gone_with_its_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    series = filled(BLOCK_STEPS, Spill())
    assert not list(tmp_path.iterdir()) and len(os.listdir("/proc/self/fd")) == before + 1
    del series
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_series_equal_and_pickle_as_what_they_hold() -> None:
    texts = filled(BLOCK_STEPS + 1, Spill())[2]
    held = tuple(texts)
    assert texts == held and held == texts and texts != held[:-1] and texts.each(len) == [32] * len(held)
    assert pickle.loads(pickle.dumps(texts)) == held and copy.deepcopy(texts) == held


def test_all_rows_at_once_are_what_a_checkpoint_writes() -> None:
    losses, rates, texts = ArraySeries(), NumberSeries(), TextSeries()
    assert losses.stacked().shape == (0,) and texts.joined().size == 0
    for step in range(3):
        losses.append(np.array(step / 3, np.float32))
        rates.append([step / 7, 1.0])
        texts.append("ab" if step else "längér")
    assert losses.stacked().dtype == np.float32 and list(losses.stacked()) == list(losses)
    assert list(map(tuple, rates.stacked().tolist())) == list(rates)
    assert texts.joined().tobytes().decode() == "längér\nab\nab"
