"""The form of a `Result` in result.json, and back.

Guarantees: `to_json` writes every key of the format, as strict JSON values; `from_json` reads what it wrote to an equal
`Result` (tuples in the free-form parts come back as lists), keeps what a later version added to a side, and names the
field's path for anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stepalign.coordinator.diagnosis.cause import Category, Cause, Finding
from stepalign.coordinator.results.records import from_strict_number, read_result, to_strict, write_json
from stepalign.coordinator.results.result import (
    SCHEMA,
    CaseFacts,
    ErrorFacts,
    FirstDivergence,
    KnownDifference,
    RegimeFacts,
    Result,
    Resumed,
    Series,
    SideFacts,
    Verdict,
)
from stepalign.protocol.errors import CaseError

_Item = TypeVar("_Item")
_OMITTED_WHEN_EMPTY = ("findings", "warnings", "compared", "worst", "regimes", "error", "resumed")
_SIDE_KEYS = frozenset(
    [
        "framework",
        "version",
        "python",
        "interpreter",
        "pid",
        "device",
        "other_frameworks_loaded",
        "libraries",
        "batch_digests",
        "settings",
    ]
)


def to_json(result: Result) -> dict[str, Any]:
    """Give ``result`` as result.json holds it: strict JSON values, causes sorted, most likely first.

    `findings`, `warnings`, `compared`, `worst`, `regimes`, `error` and `resumed` are there only where they say something.
    """
    plain: dict[str, Any] = to_strict(_written(result))
    return plain


def write_result_json(path: Path, result: Result) -> None:
    """Write what `to_json` gives; the series are never in memory whole."""
    write_json(path, _written(result))


def _written(result: Result) -> dict[str, Any]:
    series = result.series
    written = {
        "schema": SCHEMA,
        "stepalign": result.stepalign,
        "verdict": result.verdict,
        "exit_code": result.exit_code,
        "case": vars(result.case),
        "steps_completed": result.steps_completed,
        "first_divergence": None if result.first_divergence is None else _divergence_json(result.first_divergence),
        "known_differences": [vars(difference) for difference in result.known_differences],
        "causes": [vars(cause) for cause in sorted(result.causes, key=lambda cause: -cause.confidence)],
        "sides": {"torch": _side_json(result.torch), "paddle": _side_json(result.paddle)},
        "series": {
            "loss": {"torch": series.loss_torch, "paddle": series.loss_paddle},
            "lr": {"torch": series.lr_torch, "paddle": series.lr_paddle},
            **({"lr_pairs": series.lr_pairs} if series.lr_pairs else {}),
        },
        "findings": [finding_json(finding) for finding in result.findings],
        "warnings": result.warnings,
        "compared": result.compared,
        "worst": result.worst,
        "regimes": [vars(regime) for regime in result.regimes],
        "error": None if result.error is None else vars(result.error),
        "resumed": None if result.resumed is None else vars(result.resumed),
    }
    return {key: value for key, value in written.items() if value or key not in _OMITTED_WHEN_EMPTY}


def load_result(path: Path) -> Result:
    """Read the `Result` of a run folder or of its result.json. Raises CaseError."""
    written = read_result(path)
    try:
        return from_json(written)
    except CaseError as error:
        raise CaseError(f"{path}: {error}") from None


def from_json(written: Mapping[str, Any]) -> Result:
    """Read what `to_json` wrote. Raises CaseError, with the path of the field, for what it could not have written."""
    top = _Fields(written, "result.json")
    if (schema := top.integer("schema")) != SCHEMA:
        raise CaseError(f"result.json: schema: expected {SCHEMA}, found {schema}. Use the stepalign that wrote it.")
    sides, loss, lr = top.fields("sides"), top.fields("series").fields("loss"), top.fields("series").fields("lr")
    case = top.fields("case")
    try:
        return Result(
            stepalign=top.text("stepalign"),
            verdict=top.member("verdict", Verdict),
            case=CaseFacts(
                case.text("name"), case.integer("steps"), case.text("mode"), case.text("dtype"), case.integer("seed")
            ),
            steps_completed=top.integer("steps_completed"),
            torch=sides.optional("torch", _side_from),
            paddle=sides.optional("paddle", _side_from),
            series=Series(
                loss_torch=loss.tuple_of("torch", _number_or_none),
                loss_paddle=loss.tuple_of("paddle", _number_or_none),
                lr_torch=lr.tuple_of("torch", _rates_or_none),
                lr_paddle=lr.tuple_of("paddle", _rates_or_none),
                lr_pairs=top.fields("series").tuple_of("lr_pairs", _pair_from, default=()),
            ),
            first_divergence=top.optional("first_divergence", _divergence_from),
            known_differences=top.tuple_of("known_differences", _known_difference_from),
            causes=top.tuple_of("causes", _cause_from),
            findings=top.tuple_of("findings", finding_from, default=()),
            warnings=top.tuple_of("warnings", _text, default=()),
            compared=top.object("compared", default={}),
            worst=top.object("worst", default={}),
            regimes=top.tuple_of("regimes", _regime_from, default=()),
            error=top.optional("error", _error_from),
            resumed=top.optional("resumed", _resumed_from),
        )
    except ValueError as error:
        raise CaseError(f"result.json: {error}") from None


def _divergence_json(divergence: FirstDivergence) -> dict[str, Any]:
    written = dict(vars(divergence))
    if not divergence.reason:
        del written["reason"]
    return written


def _side_json(side: SideFacts | None) -> dict[str, Any] | None:
    if side is None:
        return None
    own = {key: value for key, value in vars(side).items() if key != "extra"}
    return {**own, **{key: value for key, value in side.extra.items() if key not in own}}


def finding_json(finding: Finding) -> dict[str, Any]:
    """Give a finding as result.json holds it."""
    return {**vars(finding.cause), **{key: value for key, value in vars(finding).items() if key != "cause"}}


class _Fields:
    """One JSON object whose fields are taken by name and type; an error names the field's path."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise CaseError(f"{path}: expected an object, found {_found(value)}.")
        self.values = value
        self.path = path

    def take(self, key: str) -> Any:
        if key not in self.values:
            raise CaseError(f"{self.path}: expected a key {key!r}, found {_found(list(self.values))}.")
        return self.values[key]

    def text(self, key: str) -> str:
        return _text(self.take(key), f"{self.path}: {key}")

    def integer(self, key: str) -> int:
        return _integer(self.take(key), f"{self.path}: {key}")

    def number(self, key: str) -> float:
        return _number(self.take(key), f"{self.path}: {key}")

    def truth(self, key: str) -> bool:
        value = self.take(key)
        if not isinstance(value, bool):
            raise CaseError(f"{self.path}: {key}: expected true or false, found {_found(value)}.")
        return value

    def member(self, key: str, members: Callable[[str], _Item]) -> _Item:
        text = self.text(key)
        try:
            return members(text)
        except ValueError as error:
            raise CaseError(f"{self.path}: {key}: {error}.") from None

    def fields(self, key: str) -> _Fields:
        return _Fields(self.take(key), f"{self.path}: {key}")

    def object(self, key: str, default: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.fields(key).values if key in self.values else default

    def optional(self, key: str, read: Callable[[Any, str], _Item]) -> _Item | None:
        value = self.values.get(key)
        return None if value is None else read(value, f"{self.path}: {key}")

    def tuple_of(
        self, key: str, read: Callable[[Any, str], _Item], default: tuple[_Item, ...] | None = None
    ) -> tuple[_Item, ...]:
        if default is not None and key not in self.values:
            return default
        return _tuple_of(self.take(key), f"{self.path}: {key}", read)


def _found(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise CaseError(f"{path}: expected text, found {_found(value)}.")
    return value


def _integer(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CaseError(f"{path}: expected a whole number, found {_found(value)}.")
    return value


def _number(value: Any, path: str) -> float:
    try:
        return from_strict_number(value)
    except ValueError as error:
        raise CaseError(f"{path}: {error}.") from None


def _tuple_of(value: Any, path: str, read: Callable[[Any, str], _Item]) -> tuple[_Item, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise CaseError(f"{path}: expected a list, found {_found(value)}.")
    return tuple(read(item, f"{path}[{position}]") for position, item in enumerate(value))


def _number_or_none(value: Any, path: str) -> float | None:
    return None if value is None else _number(value, path)


def _rates_or_none(value: Any, path: str) -> tuple[float, ...] | None:
    return None if value is None else _tuple_of(value, path, _number)


def _pair_from(value: Any, path: str) -> tuple[int, int]:
    pair = _tuple_of(value, path, _integer)
    if len(pair) != 2:
        raise CaseError(f"{path}: expected two group numbers, found {_found(value)}.")
    return pair[0], pair[1]


def _side_from(value: Any, path: str) -> SideFacts:
    side = _Fields(value, path)
    return SideFacts(
        framework=side.text("framework"),
        version=side.text("version"),
        python=side.text("python"),
        interpreter=side.text("interpreter"),
        pid=side.integer("pid"),
        device=side.text("device"),
        other_frameworks_loaded=side.tuple_of("other_frameworks_loaded", _text),
        libraries=side.tuple_of("libraries", _text),
        batch_digests=side.tuple_of("batch_digests", _text),
        settings=side.object("settings", default={}),
        extra={key: kept for key, kept in side.values.items() if key not in _SIDE_KEYS},
    )


def _divergence_from(value: Any, path: str) -> FirstDivergence:
    place = _Fields(value, path)
    return FirstDivergence(
        step=place.integer("step"),
        kind=place.text("kind"),
        torch_name=place.optional("torch_name", _text),
        paddle_name=place.optional("paddle_name", _text),
        index=place.optional("index", lambda index, where: _tuple_of(index, where, _integer)),
        torch=place.optional("torch", _number),
        paddle=place.optional("paddle", _number),
        max_abs=place.optional("max_abs", _number),
        max_rel=place.optional("max_rel", _number),
        rel_l2=place.optional("rel_l2", _number),
        max_ulp=place.optional("max_ulp", _integer),
        rtol=place.optional("rtol", _number),
        atol=place.optional("atol", _number),
        reason=place.optional("reason", _text) or "",
    )


def _known_difference_from(value: Any, path: str) -> KnownDifference:
    known = _Fields(value, path)
    return KnownDifference(known.text("code"), known.text("torch_name"), known.text("evidence"))


def _cause_from(value: Any, path: str) -> Cause:
    cause = _Fields(value, path)
    return Cause(
        category=cause.member("category", Category),
        code=cause.text("code"),
        confidence=cause.number("confidence"),
        evidence=cause.text("evidence"),
        fix=cause.text("fix"),
    )


def finding_from(value: Any, path: str) -> Finding:
    """Read what `finding_json` gave; ``path`` is for the error."""
    finding = _Fields(value, path)
    return Finding(
        cause=_cause_from(value, path),
        kind=finding.text("kind"),
        torch_name=finding.text("torch_name"),
        paddle_name=finding.text("paddle_name"),
        matters=finding.truth("matters"),
        torch_value=finding.optional("torch_value", _text),
        paddle_value=finding.optional("paddle_value", _text),
    )


def _regime_from(value: Any, path: str) -> RegimeFacts:
    regime = _Fields(value, path)
    return RegimeFacts(
        name=regime.text("name"),
        steps=regime.integer("steps"),
        passed=regime.truth("passed"),
        difference=regime.number("difference"),
        step=regime.integer("step"),
        torch_name=regime.text("torch_name"),
        known=regime.tuple_of("known", _text),
    )


def _error_from(value: Any, path: str) -> ErrorFacts:
    error = _Fields(value, path)
    return ErrorFacts(
        message=error.text("message"),
        side=error.optional("side", _text),
        step=error.optional("step", _integer),
        phase=error.optional("phase", _text),
        signal=error.optional("signal", _text),
        exit_code=error.optional("exit_code", _integer),
    )


def _resumed_from(value: Any, path: str) -> Resumed:
    resumed = _Fields(value, path)
    return Resumed(resumed.integer("at_step"), resumed.integer("from_step"), resumed.text("note"))
