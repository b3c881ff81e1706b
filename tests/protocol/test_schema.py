"""Plain values against their types: strict, and every error says where."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import typing
from dataclasses import dataclass, field
from typing import Any, Dict, List, Literal, Optional, Tuple, Union

import numpy as np
import pytest

from stepalign.protocol.errors import ProtocolError
from stepalign.protocol.schema import SchemaError, from_plain, nearest, reader, to_plain
from stepalign.protocol.specs import Scalar
from stepalign.protocol.tensors import FrameWriter


@dataclass(frozen=True)
class Inner:
    number: int
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    flag: bool = False
    maybe: Optional[float] = None
    mode: Literal["a", "b", 3] = "a"
    list_of: List[Inner] = field(default_factory=list)
    pairs: Tuple[Tuple[str, int], ...] = ()
    table: Dict[str, Inner] = field(default_factory=dict)
    scalar: Scalar = None
    either: Union[Inner, str] = ""
    free: Any = None
    array: Optional[np.ndarray] = None


def outer(**changes: Any) -> dict[str, Any]:
    return {"name": "n", "inner": {"number": 1}, **changes}


def test_values_become_dataclasses_with_their_defaults_and_back() -> None:
    value = outer(
        flag=True,
        maybe=2,
        mode=3,
        list_of=[{"number": 1}],
        pairs=[["a", 1]],
        table={"k": {"number": 2, "ratio": 3}},
        free={"x": [1]},
    )
    read = from_plain(Outer, value)
    assert read == Outer(
        "n", Inner(1), True, 2.0, 3, [Inner(1)], (("a", 1),), {"k": Inner(2, 3.0)}, None, "", {"x": [1]}, None
    )
    assert type(read.maybe) is float and type(read.table["k"].ratio) is float
    assert from_plain(Outer, to_plain(read)) == read


@pytest.mark.parametrize(
    ("scalar", "kind"), [(None, type(None)), (True, bool), (1, int), (1.0, float), ("x", str), ([1, 2.5], tuple)]
)
def test_a_union_keeps_the_type_that_came(scalar: Any, kind: type) -> None:
    read = from_plain(Outer, outer(scalar=scalar)).scalar
    assert type(read) is kind
    if kind is tuple:
        assert [type(item) for item in read] == [int, float]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "path", "problem"),
    [
        ({"nmae": 1}, "nmae", "unknown key; did you mean 'name'?"),
        ({"zzzz": 1}, "zzzz", "unknown key; known keys: array, either,"),
        ({"x" * 10_000: 1}, "x" * 10_000, "unknown key; known keys: array"),
        ({3: 1}, "3", "unknown key"),
        ({"name": 3}, "name", "expected a string, got 3"),
        ({"name": None}, "name", "expected a string, got None"),
        ({"flag": 1}, "flag", "expected true or false, got 1"),
        ({"flag": "true"}, "flag", "expected true or false, got 'true'"),
        ({"inner": {"number": True}}, "inner.number", "expected a whole number, got True"),
        ({"inner": {"number": 1.0}}, "inner.number", "expected a whole number, got 1.0"),
        ({"inner": {"number": 1 << 63}}, "inner.number", "expected a whole number of at most 64 bits"),
        ({"inner": {"number": 1, "ratio": "0.5"}}, "inner.ratio", "expected a number, got '0.5'"),
        ({"inner": {"number": 1, "ratio": True}}, "inner.ratio", "expected a number, got True"),
        ({"inner": {}}, "inner.number", "this key is missing"),
        ({"inner": [1]}, "inner", "expected a table, got [1]"),
        ({"maybe": "x"}, "maybe", "expected a number, got 'x'"),
        ({"mode": "c"}, "mode", "expected 'a' or 'b' or 3, got 'c'"),
        ({"mode": 3.0}, "mode", "expected 'a' or 'b' or 3, got 3.0"),
        ({"list_of": {}}, "list_of", "expected a list, got {}"),
        ({"list_of": [{"number": 1}, {"number": "x"}]}, "list_of[1].number", "expected a whole number, got 'x'"),
        ({"pairs": [["a"]]}, "pairs[0]", "expected a list of 2, got ['a']"),
        ({"pairs": [["a", 1], [1, "a"]]}, "pairs[1][0]", "expected a string, got 1"),
        ({"table": {"k": {"numbr": 1}}}, "table.k.numbr", "unknown key; did you mean 'number'?"),
        ({"table": {5: {}}}, "table", "a key is a string, got 5"),
        (
            {"scalar": {}},
            "scalar",
            "expected true or false or a whole number or a number or a string or a list, got {}",
        ),
        ({"scalar": [1, "x"]}, "scalar[1]", "expected a whole number or a number, got 'x'"),
        ({"either": {"number": "x"}}, "either.number", "expected a whole number, got 'x'"),
        ({"either": 3}, "either", "expected a table or a string, got 3"),
        (
            {"free": datetime.date(2020, 1, 1)},
            "free",
            "expected a string, a number, true or false, a list or a table, got",
        ),
        ({"free": {"a": [0, b"x"]}}, "free.a[1]", "expected a string, a number"),
        ({"free": {1: 2}}, "free", "a key is a string, got 1"),
        ({"array": [0, 0, "float32", [1]]}, "array", "expected an array, got [0, 0, 'float32', [1]]"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(changes: dict[Any, Any], path: str, problem: str) -> None:
    with pytest.raises(SchemaError) as caught:
        from_plain(Outer, outer(**changes) if all(isinstance(key, str) for key in changes) else {**outer(), **changes})
    assert caught.value.path == path
    assert problem in caught.value.problem
    assert len(str(caught.value)) < 1000
    assert isinstance(caught.value, ProtocolError)


def test_a_missing_key_and_a_wrong_whole_are_told() -> None:
    with pytest.raises(SchemaError, match="^inner: this key is missing"):
        from_plain(Outer, {"name": "n"})
    with pytest.raises(SchemaError, match="^message: expected a table, got 'x'"):
        from_plain(Outer, "x")
    with pytest.raises(SchemaError, match="^Outer.name: this key is missing"):
        from_plain(Outer, {}, "Outer")


def test_what_came_is_shown_short_however_large_or_deep_it_is() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in ("x" * 10_000_000, list(range(1_000_000)), {"k" * 1000: ["v" * 1000]}, deep, 1 << 100_000):
        with pytest.raises(SchemaError) as caught:
            from_plain(Outer, outer(flag=value))
        assert len(str(caught.value)) < 200
    while deep:
        deep = deep.pop()


@pytest.mark.parametrize("value", [object(), b"x", {1, 2}, np.float32(1), datetime.date(2020, 1, 1), print])
def test_a_value_without_a_plain_form_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="has no plain form"):
        to_plain({"a": [value]}, FrameWriter())


def test_an_array_needs_frames_to_go_to() -> None:
    with pytest.raises(TypeError, match="an array needs a FrameWriter"):
        to_plain({"a": np.ones(1)})


def test_the_nearest_name_is_offered_or_all_are_listed() -> None:
    assert nearest("stpes", ["steps", "seed"]) == "; did you mean 'steps'?"
    assert nearest("q", ["steps", "seed"]) == "; known keys: seed, steps"


@pytest.mark.skipif(sys.version_info < (3, 10), reason="X | None is written since Python 3.10")
def test_a_union_written_with_a_bar_is_one_whatever_was_read_before() -> None:
    reader.cache_clear()
    bar = dataclasses.make_dataclass("Bar", [("value", eval("float | None"), None)], frozen=True)
    assert from_plain(bar, {"value": None}).value is None
    assert from_plain(bar, {"value": 0.5}).value == 0.5


@dataclass(frozen=True)
class Plain:
    text: str
    number: float
    flag: bool
    count: int
    numbers: List[float]
    texts: Tuple[str, ...]
    counts: Tuple[int, ...]


PLAIN = {"text": "a", "number": 0.5, "flag": True, "count": 1, "numbers": [0.5, 1.5], "texts": ["a"], "counts": [1]}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, 1, 1 << 64, 0.5, float("nan"), "a", b"a", [], {},
        [0.5], [0.5, 1], [True], ["a", 1], [1, 1 << 64], [None], [[]],
    ],
)  # fmt: skip
def test_a_field_is_read_as_its_type_alone_is(name: str, value: Any) -> None:
    """Fields of plain types, and lists of them, are taken without a call for each: with the same outcome."""

    def outcome(read: Any) -> str:
        try:
            return repr(read())
        except SchemaError as error:
            return str(error)

    hint = typing.get_type_hints(Plain)[name]
    expected = outcome(lambda: _one_by_one(hint, value, name))
    assert outcome(lambda: getattr(from_plain(Plain, {**PLAIN, name: value}), name)) == expected


def _one_by_one(hint: Any, value: Any, path: str) -> Any:
    """Read a value, the items of a list by the reader of their own type."""
    if not isinstance(value, list) or typing.get_origin(hint) not in (list, tuple):
        return reader(hint)(value, path, None)
    item = reader(typing.get_args(hint)[0])
    return typing.get_origin(hint)(item(each, f"{path}[{index}]", None) for index, each in enumerate(value))


class Text(str):
    """A string that is more than one."""


@pytest.mark.parametrize("value", [[], (), [1, 0.5, None, "a", True], [np.float64(0.5)], [Text("a")], [[1], 2], ({"k": (1,)},)])
def test_lists_become_lists_of_what_their_items_become(value: Any) -> None:
    assert to_plain(value) == [to_plain(item) for item in value]
    assert [type(item) for item in to_plain(value)] == [type(to_plain(item)) for item in value]
