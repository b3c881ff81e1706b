"""Compares two reprod_log .npy files by stepalign's rules, for `stepalign compare A.npy B.npy`.

Guarantees: both files are read without running anything in them; a key, a shape or a dtype that differs, a value that
is not finite and an array without elements are each a failing row, by name. The first file is the reference.

Rates (`step_<n>_lr`) are compared relatively in float64: reprod_log's absolute 1e-6 hides an error of 3 % in a rate of
3e-5. The files say nothing of the run, so the tolerance is a run's default, by the key and the dtype.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepalign.coordinator.comparison.tolerances import tolerances
from stepalign.coordinator.results.reprod_npy import read_reprod_npy
from stepalign.coordinator.results.result import Verdict
from stepalign.protocol.errors import CaseError

_LR_KEY = re.compile(r"step_\d+_lr")
_LOSS_KEY = re.compile(r"loss_\d+")

_DEFAULTS = {dtype: tolerances(dtype, {}) for dtype in ("float32", "float64")}
_ROUNDED_LR_RTOL = {"float32": 1e-6, "float16": 2e-3}
"""For rates that were rounded before they were saved: some units in the last place. A step late is 1e-5 or more."""
_LR_ATOL_PER_PEAK = 1e-15
"""Allows a rate that decays to nothing to be rounding noise: a share of the greatest rate in the reference."""
_FLOAT16_LOSS_RTOL = 1e-2
_OTHER_RTOL = 1e-5


class Kind(str, enum.Enum):
    """What a key's name says that its value is."""

    LR = "lr"
    LOSS = "loss"
    OTHER = "other"


@dataclass(frozen=True)
class NpyRow:
    """One key. ``index`` is the element furthest out of tolerance; ``reference`` and ``candidate`` are its values.

    ``allowed`` is the absolute difference that the tolerance allows there; what was not measured is None.
    """

    key: str
    kind: Kind
    passed: bool
    reason: str = ""
    index: tuple[int, ...] | None = None
    reference: float | complex | None = None
    candidate: float | complex | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    rtol: float | None = None
    atol: float | None = None
    allowed: float | None = None


@dataclass(frozen=True)
class NpyComparison:
    """Two files compared. ``verdict`` is aligned or diverged; ``first_bad`` is the first failing key in file order."""

    reference_path: Path
    candidate_path: Path
    rows: tuple[NpyRow, ...]
    warnings: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """Aligned if there are rows and each passed."""
        return Verdict.ALIGNED if self.rows and self.first_bad is None else Verdict.DIVERGED

    @property
    def first_bad(self) -> str | None:
        """The key of the first row that failed."""
        return next((row.key for row in self.rows if not row.passed), None)


def compare_npy(reference_path: Path, candidate_path: Path) -> NpyComparison:
    """Compare two files that reprod_log or stepalign wrote; the first is the reference (torch).

    Raises CaseError for a file that is not one, or that holds no arrays.
    """
    reference, candidate = (_read_nonempty(path) for path in (reference_path, candidate_path))
    rates = [_rates(side) for side in (reference, candidate)]
    lr_precision = "float32" if any(_fits_float32(side) for side in rates) else "float64"
    finite = (rate[np.isfinite(rate)] for rate in rates[0])
    peak = max((float(np.max(np.abs(rate), initial=0.0)) for rate in finite), default=0.0)
    keys = [*reference, *(key for key in candidate if key not in reference)]
    rows = tuple(_compare_key(key, reference.get(key), candidate.get(key), lr_precision, peak) for key in keys)
    warnings = [*_same_loss_warning(reference, candidate), *_rate_warning(rates)]
    return NpyComparison(reference_path, candidate_path, rows, tuple(warnings))


def format_rows(rows: Sequence[NpyRow]) -> list[str]:
    """Give a heading and a line a row, in columns that line up; a failing row says what is wrong."""
    table = [("key", "reference", "candidate", "relative", "allowed", "")]
    for row in rows:
        allowed_rel = None if row.rtol is None else f"{row.rtol:.0e}"
        verdict = "ok" if row.passed else f"FAILED: {row.reason}"
        relative = "-" if row.max_rel is None else f"{row.max_rel:.1e}"
        table.append((row.key, _value(row.reference), _value(row.candidate), relative, allowed_rel or "-", verdict))
    widths = [max(len(line[column]) for line in table) for column in range(5)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(line[i].rjust(widths[i]) for i in range(1, 5)), line[5]]).rstrip()
        for line in table
    ]


def _read_nonempty(path: Path) -> dict[str, np.ndarray]:
    arrays = read_reprod_npy(path)
    if not arrays:
        raise CaseError(f"{path}: holds no arrays, so there is nothing to compare. Check the script that wrote it.")
    return arrays


def _kind_of(key: str) -> Kind:
    return Kind.LR if _LR_KEY.fullmatch(key) else Kind.LOSS if _LOSS_KEY.fullmatch(key) else Kind.OTHER


def _compare_key(
    key: str, reference: np.ndarray | None, candidate: np.ndarray | None, lr_precision: str, peak: float
) -> NpyRow:
    kind = _kind_of(key)
    if reference is None or candidate is None:
        return NpyRow(key, kind, False, f"missing in the {'reference' if reference is None else 'candidate'}")
    if reference.shape != candidate.shape:
        return NpyRow(key, kind, False, f"shape {reference.shape} against {candidate.shape}")
    if reference.dtype != candidate.dtype:
        return NpyRow(key, kind, False, f"dtype {reference.dtype} against {candidate.dtype}")
    if reference.size == 0:
        return NpyRow(key, kind, False, "no elements to compare")
    for name, side in (("reference", reference), ("candidate", candidate)):
        count = int(np.count_nonzero(~np.isfinite(side)))
        if count:
            return NpyRow(key, kind, False, f"{count} of {side.size} values not finite in the {name}")
    rtol, atol = _tolerance(kind, reference, lr_precision, peak)
    return _measure(key, kind, reference, candidate, rtol, atol)


def _tolerance(kind: Kind, reference: np.ndarray, lr_precision: str, peak: float) -> tuple[float, float]:
    """Give (rtol, atol). Whole numbers must be equal."""
    dtype = reference.dtype
    if dtype.kind not in "fc":
        return 0.0, 0.0
    if kind is Kind.LR:
        exact = _DEFAULTS["float64"]["lr"]
        precision = lr_precision if dtype == np.float64 else dtype.name
        return _ROUNDED_LR_RTOL.get(precision, exact.rtol), max(exact.atol, _LR_ATOL_PER_PEAK * peak)
    if kind is Kind.LOSS:
        loss = _DEFAULTS.get(dtype.name, _DEFAULTS["float64"])["loss"]
        return (_FLOAT16_LOSS_RTOL if dtype == np.float16 else loss.rtol), loss.atol
    return _OTHER_RTOL, 0.0


def _measure(key: str, kind: Kind, reference: np.ndarray, candidate: np.ndarray, rtol: float, atol: float) -> NpyRow:
    """Measure a difference in float64 or wider, relative to the reference's element.

    For a tensor that is neither rate nor loss it is relative to the reference's greatest element: what cancels to
    nearly nothing has no digits to compare.
    """
    wide = np.result_type(reference.dtype, np.float64)
    ours, theirs = reference.astype(wide).ravel(), candidate.astype(wide).ravel()
    with np.errstate(all="ignore"):
        difference = np.abs(theirs - ours)
        size = np.abs(ours) if kind is not Kind.OTHER else np.full_like(difference, np.max(np.abs(ours)))
        relative = np.where(difference == 0, 0.0, difference / size)
        allowed = atol + rtol * size
        # Two whole numbers beyond 2**53 may be one in float64; a difference that overflows is inf. Neither may pass.
        is_exact = reference.dtype.kind not in "fc"
        outside = (reference != candidate).ravel() & (is_exact | ~(difference <= allowed))
        excess = np.where(outside, np.nan_to_num(difference - allowed, nan=np.inf, posinf=np.inf), -np.inf)
    worst = int(np.argmax(excess if outside.any() else difference))
    count = int(np.count_nonzero(outside))
    reason = f"{count} of {ours.size} outside the tolerance" if ours.size > 1 else "outside the tolerance"
    return NpyRow(
        key,
        kind,
        passed=count == 0,
        reason=reason if count else "",
        index=tuple(int(i) for i in np.unravel_index(worst, reference.shape)),
        reference=ours[worst].item(),
        candidate=theirs[worst].item(),
        max_abs=float(np.max(difference)),
        max_rel=float(np.max(relative)),
        rtol=rtol,
        atol=atol,
        allowed=float(allowed[worst]),
    )


def _rates(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return [array for key, array in arrays.items() if _kind_of(key) is Kind.LR and array.dtype == np.float64]


def _fits_float32(rates: Iterable[np.ndarray]) -> bool:
    """Tell whether float64 rates hold float32's digits only: the framework kept them in a float32 tensor."""
    with np.errstate(all="ignore"):
        return all(np.array_equal(rate, rate.astype(np.float32), equal_nan=True) for rate in rates)


def _rate_warning(rates: Sequence[list[np.ndarray]]) -> list[str]:
    fits = [_fits_float32(side) for side in rates]
    if not all(rates) or fits[0] == fits[1]:
        return []
    name = "reference" if fits[0] else "candidate"
    tolerance = f"{_ROUNDED_LR_RTOL['float32']:.0e} instead of {_DEFAULTS['float64']['lr'].rtol:.0e}"
    return [f"the rates of the {name} were rounded to float32 before they were saved: they are compared to {tolerance}"]


def _same_loss_warning(reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray]) -> list[str]:
    losses = {key: array for key, array in reference.items() if _kind_of(key) is Kind.LOSS and array.dtype.kind == "f"}
    same = bool(losses) and all(
        key in candidate
        and candidate[key].dtype == array.dtype
        and candidate[key].shape == array.shape
        and candidate[key].tobytes() == array.tobytes()
        for key, array in losses.items()
    )
    if not same:
        return []
    return [
        "all losses are the same to the last bit, which two frameworks rarely are:"
        " make sure that the second file was not written by the first framework"
    ]


def _value(value: float | complex | None) -> str:
    return "-" if value is None else f"{value:.9g}"
