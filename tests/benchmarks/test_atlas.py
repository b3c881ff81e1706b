"""The atlas: every class of the installed frameworks has a row, and a small part of it is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.atlas.difference import Difference
from benchmarks.atlas.inventory import Arguments, Side, complaints, read_inventory
from benchmarks.atlas.measuring import Row, measure
from benchmarks.atlas.page import render
from benchmarks.atlas.setups import setups
from benchmarks.atlas.verdicts import FLOAT32_BEYOND, agreement_of
from stepalign.coordinator.atlas.measured import SCHEMA, Measured, Verdict, measured
from stepalign.coordinator.atlas.pairing import REQUIRED
from stepalign.coordinator.atlas.pairings import PAIRINGS, pairing_of

SGD = pairing_of("optim.SGD -> optimizer.SGD")


@pytest.mark.parametrize("side", ["torch", "paddle"])
def test_every_class_has_a_row_and_every_argument_its_default(side: Side, torch_python: Path, paddle_python: Path) -> None:
    inventory = read_inventory(side, {"torch": torch_python, "paddle": paddle_python}[side])
    assert len(inventory) > 30
    assert complaints(side, inventory, PAIRINGS) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"torch.optim.Novel": {}}, ["torch.optim.Novel has no row"]),
        ({"torch.optim.SGD": {"novel": 1}}, ["torch.optim.SGD has an argument novel, which the row leaves out"]),
        ({"torch.optim.SGD": {"lr": 0.5}}, ["torch.optim.SGD: the default of lr is 0.5, not 0.001"]),
        ({"torch.optim.SGD": {"lr": REQUIRED}}, ["torch.optim.SGD: lr has no default"]),
    ],
)
def test_a_class_an_argument_and_a_default_that_no_row_knows_are_named(change: dict[str, Arguments], said: list[str]) -> None:
    inventory: dict[str, Arguments] = {"torch.optim.SGD": SGD.defaults("torch")}
    for name, arguments in change.items():
        inventory[name] = {**inventory.get(name, {}), **arguments}
    found = complaints("torch", inventory, [SGD])
    assert len(found) == len(said) and all(text in line for text, line in zip(said, found, strict=True)), found


def test_an_argument_that_is_gone_is_named() -> None:
    found = complaints("paddle", {"paddle.optimizer.SGD": {"learning_rate": 1e-3}}, [SGD])
    assert "optim.SGD -> optimizer.SGD: paddle.optimizer.SGD has no argument weight_decay" in found


def test_what_was_measured_has_every_row_of_the_installed_versions() -> None:
    record = measured()
    assert record is not None
    assert set(record.rows) == {pairing.key for pairing in PAIRINGS}
    page = (Path(__file__).parents[2] / "docs" / "atlas.md").read_text(encoding="utf-8")
    assert f"torch {record.torch} and paddle {record.paddle}" in page and record.date in page
    for pairing in PAIRINGS:
        agreement = record.rows[pairing.key]
        assert (agreement.verdict == "none") or agreement.float32 is not None, pairing.key
        assert pairing.difference in page


@pytest.mark.parametrize("pairing", [item for item in PAIRINGS if item.configurations], ids=lambda item: item.key)
def test_every_configuration_can_be_said_to_both_sides(pairing: object) -> None:
    for configuration in pairing.configurations:  # type: ignore[attr-defined]
        torch, paddle = setups(pairing, configuration)  # type: ignore[arg-type]
        assert torch.options()["setup"]["optimizer"]["$call"].startswith("torch.optim.")
        assert paddle.options(lambda value: value * 2)["setup"]["optimizer"]["$call"].startswith("paddle.optimizer.")


def row(**found: float) -> Row:
    made = Row(SGD)
    for place, value in found.items():
        dtype, _, regime = place.rpartition("_")
        made.found["configuration", dtype, regime] = Difference(value, value)
    return made


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (Row(SGD), Verdict.NONE),
        (row(float32_normal=0.0, float64_normal=0.0), Verdict.EXACT),
        (row(float32_normal=1e-6, float64_normal=1e-13), Verdict.ROUNDING),
        (row(float32_normal=1e-6, float64_normal=1e-8, float64_rounded_normal=1e-13), Verdict.ROUNDING),
        (row(float32_normal=1e-6, float64_normal=1e-8, float64_rounded_normal=1e-9), Verdict.APPROXIMATE),
        (row(float32_normal=0.5, float64_normal=0.5), Verdict.APPROXIMATE),
        (row(float32_normal=1e-6, float64_normal=1e-13, float32_tiny=1.5), Verdict.NONE),
    ],
)
def test_a_verdict_follows_from_the_numbers(made: Row, verdict: Verdict) -> None:
    assert agreement_of(made).verdict == verdict.value


def test_a_part_of_the_atlas_is_measured_with_both_frameworks(tmp_path: Path) -> None:
    keys = (
        "optim.Rprop -> optimizer.Rprop",
        "optim.Adamax -> optimizer.Adamax",
        "optim.lr_scheduler.ExponentialLR -> optimizer.lr.ExponentialDecay",
        "nn.utils.clip_grad_value_ -> nn.ClipGradByValue",
    )
    rows, facts = measure([pairing_of(key) for key in keys], tmp_path, ("normal", "tiny"))
    agreements = {each.pairing.key: agreement_of(each) for each in rows}
    assert [agreements[key].verdict for key in keys[:3]] == ["exact", "approximate", "to rounding"]
    assert agreements[keys[3]].verdict in ("exact", "to rounding"), "which of both depends on the processor"
    adamax = agreements[keys[1]]
    assert adamax.regime == "tiny" and 0.3 < (adamax.float64 or 0.0) < 1.0
    assert not any(each.errors for each in rows)
    record = Measured(SCHEMA, "2026-01-01", facts["torch"].version, facts["paddle"].version, agreements)
    page = render(rows, record, 10, (0.1,), FLOAT32_BEYOND)
    assert "| `optim.Adamax` | `optimizer.Adamax` | **approximate** |" in page
    assert "`betas[0]` | `0.9` | `beta1` | `0.9` | the same |" in page
    assert "torch u = max(beta2 * u, |g| + eps)" in page
