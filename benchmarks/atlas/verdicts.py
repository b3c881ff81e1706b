"""Comes from what was measured of a pairing to what it is worth. The bounds here are the only judgement in the atlas."""

from __future__ import annotations

from benchmarks.atlas.measuring import ROUNDING, Row
from stepalign.coordinator.atlas.measured import Agreement, Verdict

FLOAT32_BEYOND = 1e-4
"""In float32 an update is known to a few units in its last place, which 50 steps enlarge; measured correct rules stay
below a fifth of this.
"""

AS_FAR_AS_THE_UPDATE = 1.0
"""What differs by as much as the parameters have moved is no counterpart."""


def agreement_of(row: Row) -> Agreement:
    """Return the verdict on one row with the numbers that it stands on."""
    if not row.found:
        return Agreement(Verdict.NONE.value, errors=tuple(row.errors))
    single, double, rounded = (row.worst(dtype) for dtype in ("float32", "float64", "float64_rounded"))
    place = _place(row)
    return Agreement(
        verdict=_verdict(row).value,
        float32=None if single is None else single.whole,
        float32_beyond=row.beyond("float32"),
        float64=None if double is None else double.whole,
        float64_beyond=row.beyond("float64"),
        float64_rounded=None if rounded is None else row.beyond("float64_rounded"),
        regime=place[1],
        configuration=place[0],
        defaults_alone=None if row.defaults_alone is None else row.defaults_alone.whole,
        errors=tuple(row.errors),
    )


def _verdict(row: Row) -> Verdict:
    if all(item.whole == 0.0 for (_, dtype, _), item in row.found.items() if dtype != "float64_rounded"):
        return Verdict.EXACT
    exact, single = _worst_in_float64(row), row.beyond("float32") or 0.0
    if single <= FLOAT32_BEYOND and exact <= ROUNDING:
        return Verdict.ROUNDING
    return Verdict.APPROXIMATE if max(single, exact) < AS_FAR_AS_THE_UPDATE else Verdict.NONE


def _worst_in_float64(row: Row) -> float:
    """Return the greatest difference beyond rounding in float64, hyper-parameters' own rounding taken out."""
    worst = 0.0
    for (configuration, dtype, regime), item in row.found.items():
        if dtype == "float64":
            worst = max(worst, row.found.get((configuration, "float64_rounded", regime), item).beyond)
    return worst


def _place(row: Row) -> tuple[str, str]:
    """Return the configuration and the regime of the greatest difference, beyond rounding where anything is."""
    (configuration, _, regime), _ = max(row.found.items(), key=lambda entry: (entry[1].beyond, entry[1].whole))
    return configuration, regime
