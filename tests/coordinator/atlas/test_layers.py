"""The table of layers: its conversions, and its command, which real frameworks must bear out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.layers.__main__ import measure
from benchmarks.layers.judging import Row, complaints
from stepalign.coordinator.atlas.layers import FUNCTIONS, LAYERS, layer_of, unpaired
from stepalign.coordinator.atlas.layers.pair import LayerPair, Verdict, defaults_differ, same, write_paddle
from stepalign.coordinator.atlas.pairing import NoCounterpart

ROOT = Path(__file__).resolve().parents[3]
MEASURED = ("BatchNorm1d", "LayerNorm", "Linear", "AvgPool1d", "Embedding", "LogSoftmax", "SmoothL1Loss", "NLLLoss")


def row(name: str) -> LayerPair:
    found = layer_of(name)
    assert found is not None
    return found


def test_every_pair_has_a_name_of_its_own_and_is_on_the_page() -> None:
    names = [pair.name for pair in (*LAYERS, *FUNCTIONS)]
    assert sorted(set(names)) == sorted(names)
    page = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(?:F\.)?(\w+)` \|", page, re.MULTILINE))
    assert set(names) <= rows
    assert all(f"`torch.nn.{name}`" in page for name in unpaired.TORCH)


def test_arguments_are_renamed_and_converted() -> None:
    assert row("BatchNorm2d").paddle_call({"num_features": 4, "momentum": 0.1, "eps": 1e-3}) == {
        "num_features": 4,
        "momentum": 0.9,
        "epsilon": 1e-3,
    }
    assert row("LSTM").paddle_call({"bidirectional": True, "batch_first": True, "bias": False}) == {
        "direction": "bidirect",
        "time_major": False,
        "bias_ih_attr": False,
        "bias_hh_attr": False,
    }


def test_spelled_out_every_default_is_torchs() -> None:
    assert row("AvgPool1d").paddle_call({"kernel_size": 3}, spell_out=True)["exclusive"] is False
    assert row("SmoothL1Loss").paddle_call({}, spell_out=True) == {"reduction": "mean", "delta": 1.0, "is_huber": False}
    assert row("CrossEntropyLoss").paddle_call({}, spell_out=True)["axis"] == 1


def test_what_paddle_lacks_is_refused_unless_it_changes_nothing() -> None:
    assert row("MaxPool2d").paddle_call({"kernel_size": 2, "dilation": 1}) == {"kernel_size": 2}
    with pytest.raises(NoCounterpart, match=r"dilation=2 of nn\.MaxPool2d has no counterpart in nn\.MaxPool2D"):
        row("MaxPool2d").paddle_call({"kernel_size": 2, "dilation": 2})
    with pytest.raises(ValueError, match="no argument epsilon"):
        row("LayerNorm").paddle_call({"epsilon": 1e-5})


def test_an_argument_knows_whether_its_defaults_mean_the_same_and_how_paddle_writes_it() -> None:
    momentum, padding = row("BatchNorm1d").argument("momentum"), row("AvgPool2d").argument("count_include_pad")
    assert momentum is not None and padding is not None
    assert not defaults_differ(momentum) and write_paddle(momentum, 0.2) == "momentum=0.8"
    assert defaults_differ(padding) and write_paddle(padding, True) == "exclusive=False"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Row], dict[str, dict[str, object]]]]:
    pairs = [row(name) for name in MEASURED]
    yield measure(pairs, tmp_path_factory.mktemp("layers"))


def said(measured: tuple[list[Row], dict[str, dict[str, object]]], *changed: Row) -> list[str]:
    """Return the complaints about the measured rows with some of them changed, without those about other classes."""
    rows, facts = measured
    by_name = {**{each.pair.name: each for each in rows}, **{each.pair.name: each for each in changed}}
    return [each for each in complaints(list(by_name.values()), facts) if "no row and no reason" not in each]


def test_real_frameworks_bear_the_table_out(measured: tuple[list[Row], dict[str, dict[str, object]]]) -> None:
    assert said(measured) == []
    verdicts = {each.pair.name: each.verdict for each in measured[0]}
    assert verdicts["LayerNorm"] is Verdict.TO_ROUNDING and verdicts["BatchNorm1d"] is Verdict.APPROXIMATE
    (ignored,) = [each for each in measured[0][-1].measured if each.case.shows]
    assert "SIG" in ignored.problem or ignored.greatest > 1e-4
    pooled = next(each for each in measured[0] if each.pair.name == "AvgPool1d")
    assert pooled.worst("float64", False) > 0.1 > 1e-6 > pooled.worst("float64", True)


def test_a_row_that_the_frameworks_do_not_bear_out_is_complained_about(
    measured: tuple[list[Row], dict[str, dict[str, object]]],
) -> None:
    rows = {each.pair.name: each for each in measured[0]}

    def changed(name: str, **values: object) -> list[str]:
        pair = dataclasses.replace(rows[name].pair, **values)  # type: ignore[arg-type]
        return said(measured, Row(pair, rows[name].measured))

    other_default = tuple(
        dataclasses.replace(each, paddle_default=1e-6) if each.torch == "eps" else each
        for each in rows["LayerNorm"].pair.arguments
    )
    assert changed("LayerNorm", arguments=other_default) == [
        "LayerNorm: paddle's default of epsilon is 1e-05, the table says 1e-06"
    ]
    assert any("is not in the table" in each for each in changed("Linear", arguments=(same("in_features"),)))
    assert any("declared exact, measured to rounding" in each for each in changed("LayerNorm", verdict=Verdict.EXACT))
    assert any("but it agrees" in each for each in changed("Linear", verdict=Verdict.APPROXIMATE, bound=1.0))
    assert any("the bound 1e-12 is exceeded" in each for each in changed("AvgPool1d", bound=1e-12))
    assert any("which the row does not list" in each for each in changed("Embedding", differences=()))


def test_a_class_without_row_or_reason_is_complained_about(
    measured: tuple[list[Row], dict[str, dict[str, object]]],
) -> None:
    rows, facts = measured
    found = complaints(rows, facts)
    assert "torch.nn.Softplus has no row and no reason why not" in found
    assert not any("torch.nn.EmbeddingBag" in each for each in found)
