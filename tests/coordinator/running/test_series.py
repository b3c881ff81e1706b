"""What a run keeps of each step: rows come back as they were, and cost their bytes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from stepalign.coordinator.running.series import ArraySeries, NumberSeries, TextSeries


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


def test_rates_and_digests_come_back_as_lists_and_texts_of_any_length() -> None:
    rates, texts = NumberSeries(), TextSeries()
    for row in ([0.1, 1e-300], [], [], [0.3]):
        rates.append(row)
    for text in ("ab", "cd", "", "längér"):
        texts.append(text)
    assert list(rates) == [[0.1, 1e-300], [], [], [0.3]] and rates[3] == [0.3]
    assert list(texts) == ["ab", "cd", "", "längér"] and texts[3] == "längér"
    with pytest.raises(IndexError, match="no step 4: there are 4"):
        texts[4]


def test_a_step_costs_little_more_than_its_bytes() -> None:
    losses, rates, digests = ArraySeries(), NumberSeries(), TextSeries()
    tracemalloc.start()
    try:
        for step in range(20_000):
            losses.append(np.array(step, np.float32))
            rates.append([1e-3])
            digests.append(f"{step:032x}")
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held / 20_000 < 1.2 * (4 + 8 + 32)


def test_all_rows_at_once_are_what_a_checkpoint_writes() -> None:
    losses, rates, texts = ArraySeries(), NumberSeries(), TextSeries()
    assert losses.stacked().shape == (0,) and texts.joined().size == 0
    for step in range(3):
        losses.append(np.array(step / 3, np.float32))
        rates.append([step / 7, 1.0])
        texts.append("ab" if step else "längér")
    assert losses.stacked().dtype == np.float32 and list(losses.stacked()) == list(losses)
    assert rates.stacked().tolist() == list(rates)
    assert texts.joined().tobytes().decode() == "längér\nab\nab"
