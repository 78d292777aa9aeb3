from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.errors import InvalidInput
from app.serving.signatures.compatibility import MOST_DIFFERENCES, incompatibilities
from app.serving.signatures.signature import Signature

SCALARS = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime")
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "str", "bytes", "datetime64[ns]", "datetime64[D]", "object",
)  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, 1, -1, 127, 128, 255, 256, 2**15, 65_519, 65_535, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1,
    2**63, -(2**63), 2**64 - 1, 2**64, 10**39, 1.5, 2.0, 65_519.5, 1e10, 1e39,
    float("inf"), float("nan"), "", "a", "aGk=",
    "2026-01-02", "2026-01-02T03:04:05Z", b"a", b"\xff", datetime(2026, 1, 2, tzinfo=UTC), [], [1.0], {}, {"a": 1},
]  # fmt: skip


def column(name: str | None, kind: str | dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    spec = {"type": kind} if isinstance(kind, str) else kind
    return {**spec, "required": required} | ({} if name is None else {"name": name})


def array(items: str | dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": {"type": items} if isinstance(items, str) else items}


def mapping(values: str | dict[str, Any]) -> dict[str, Any]:
    return {"type": "map", "values": {"type": values} if isinstance(values, str) else values}


def thing(**properties: Any) -> dict[str, Any]:
    """An object; a property whose type ends in a question mark is optional."""
    return {
        "type": "object",
        "properties": {
            name: {"type": kind.rstrip("?"), "required": not kind.endswith("?")}
            if isinstance(kind, str)
            else {**kind, "required": True}
            for name, kind in properties.items()
        },
    }


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return spec if name is None else {**spec, "name": name}


def takes(signature: Signature, call: Callable[[Signature], Any]) -> bool:
    try:
        call(signature)
    except InvalidInput:
        return False
    return True


def lost(before: Any, after: Any, call: Callable[[Signature, Any], Any], values: list[Any]) -> list[Any]:
    """The values that the old signature takes and the new one refuses."""
    old, new = Signature.compile(before), Signature.compile(after)

    def taken(signature: Signature, value: Any) -> bool:
        return takes(signature, lambda s: call(s, value))

    return [value for value in values if taken(old, value) and not taken(new, value)]


A = column("a", "double")
B = column("b", "double")


class TestColumns:
    def test_the_same_signature_is_compatible(self) -> None:
        every = [column(kind, kind) for kind in SCALARS] + [column("n", array(thing(a="long", b="any?")))]
        assert incompatibilities(every, every) == []

    @pytest.mark.parametrize("nothing", [None, []])
    def test_nothing_is_known_of_a_model_without_a_signature(self, nothing: Any) -> None:
        assert incompatibilities(nothing, [A]) == []
        assert incompatibilities([A], nothing) == []

    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            ([A], [A, B], "column 'b' (double) is new and required"),
            ([A, B], [A], "column 'b' (double) is gone, and calls that still send it are refused"),
            (
                [column("a", "double", required=False), B],
                [A, B],
                "column 'a' (double) was optional and is required",
            ),
            ([A], [column("a", "string")], "column 'a' takes string instead of double"),
            (
                [column("a", array("double"))],
                [column("a", array("long"))],
                "column 'a', its items takes long instead of double",
            ),
            (
                [column("a", thing(x="long"))],
                [column("a", thing(x="long", y="string"))],
                "column 'a', property 'y' (string) is new and required",
            ),
            ([column(None, "double")], [column(None, "string")], "column '0' takes string instead of double"),
            ([column(0, "double")], [column(0, "string")], "column '0' takes string instead of double"),  # type: ignore[arg-type]  # a label of a frame without names
            ([A, B], [B, A], "the columns are in another order, so rows sent as lists are read differently: 'b', 'a'"),
            ([A], [tensor("float64", -1, 1)], "the model takes tensors instead of columns"),
            ([column(None, thing(x="long"))], [A], "each row is an object of the columns instead of any object"),
        ],
    )
    def test_each_difference_is_one_sentence(self, before: Any, after: Any, told: str) -> None:
        assert incompatibilities(before, after) == [told]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ([A], [A, column("b", "double", required=False)]),
            ([A], [column("a", "double", required=False)]),
            ([column("a", array("double"))], [column("a", "sparkml_vector")]),
            ([column("a", thing(x="long"))], [column("a", thing(x="double", y="string?"))]),
            ([column("a", array("long"))], [column("a", array("any"))]),
        ],
    )
    def test_what_takes_more_is_compatible(self, before: Any, after: Any) -> None:
        assert incompatibilities(before, after) == []

    def test_a_signature_that_is_not_understood_is_told_only_of_what_comes(self) -> None:
        unknown = [column("a", "quaternion")]
        assert incompatibilities([A], unknown) == ["the gateway does not support the model's signature: 'quaternion'"]
        assert incompatibilities(unknown, [A]) == []

    def test_only_some_of_many_differences_are_told(self) -> None:
        told = incompatibilities([A], [A, *(column(f"c{index}", "long") for index in range(1000))])
        assert len(told) == MOST_DIFFERENCES + 1
        assert told[-1] == f"there are {1000 - MOST_DIFFERENCES} more differences"

    @pytest.mark.parametrize("was", SCALARS)
    @pytest.mark.parametrize("now", SCALARS)
    def test_a_type_is_wider_exactly_if_it_takes_every_value(self, was: str, now: str) -> None:
        before, after = [column("a", was)], [column("a", now)]
        refused = lost(before, after, lambda s, value: s.rows("records", [{"a": value}]), VALUES)
        assert bool(refused) == bool(incompatibilities(before, after)), refused


class TestTensors:
    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            ([tensor("float64", -1, 3)], [tensor("int64", -1, 3)], "the tensor takes int64 instead of float64"),
            (
                [tensor("float32", -1, 3, name="x")],
                [tensor("float32", -1, 4, name="x")],
                "tensor 'x' has the shape [-1, 4] instead of [-1, 3]",
            ),
            (
                [tensor("float32", -1, 2, 2)],
                [tensor("float32", -1, -1, 2)],
                "the tensor has the shape [-1, -1, 2] instead of [-1, 2, 2]",
            ),
            (
                [tensor("float32", -1, 3)],
                [tensor("float32", 8, 3)],
                "the tensor has the shape [8, 3] instead of [-1, 3]",
            ),
            ([tensor("float32", -1)], [tensor("float32", -1, name="x")], "the tensor has a name now"),
            (
                [tensor("float32", -1, name="x"), tensor("float32", -1, name="y")],
                [tensor("float32", -1, name="x")],
                "tensor 'y' is gone, and calls that still send it are refused",
            ),
            (
                [tensor("float32", -1, name="x")],
                [tensor("float32", -1, name="x"), tensor("float32", -1, name="y")],
                "tensor 'y' is new and required",
            ),
            ([tensor("float64", -1, 1)], [A], "the model takes columns instead of tensors"),
        ],
    )
    def test_each_difference_is_one_sentence(self, before: Any, after: Any, told: str) -> None:
        assert incompatibilities(before, after) == [told]

    def test_the_only_tensor_may_lose_its_name(self) -> None:
        assert incompatibilities([tensor("float32", -1, name="x")], [tensor("float64", -1)]) == []

    @pytest.mark.parametrize("was", DTYPES)
    @pytest.mark.parametrize("now", DTYPES)
    def test_a_dtype_that_is_compatible_takes_every_value(self, was: str, now: str) -> None:
        before, after = [tensor(was, -1)], [tensor(now, -1)]
        arrays = [np.array([1], dtype=dtype) for dtype in DTYPES if dtype != "object" and "datetime" not in dtype]
        arrays += [np.zeros(1, dtype="int64").astype(dtype) for dtype in DTYPES if "datetime" in dtype]
        refused = lost(before, after, lambda s, value: s.rows("inputs", [value]), VALUES)
        refused += lost(before, after, lambda s, array: s.rows("tensors", {"x": array}), arrays)
        if "object" in (was, now):  # takes everything, but lists of one value as lists
            assert bool(incompatibilities(before, after)) == (was != now)
        else:
            assert bool(refused) == bool(incompatibilities(before, after)), refused


class TestParameters:
    def test_what_callers_send_must_be_taken(self) -> None:
        before = [
            parameter("a", "long"),
            parameter("b", "double"),
            parameter("c", "string"),
            parameter("d", "long", [-1]),
        ]
        after = [parameter("a", "double"), parameter("b", "long"), parameter("d", "long"), parameter("e", "long")]
        assert incompatibilities(None, None, (before, after)) == [
            "parameter 'b' takes long instead of double",
            "parameter 'c' is gone, and calls that still send it are refused",
            "parameter 'd' is no list any more",
        ]
        assert incompatibilities([A], [A], (None, after)) == []


def parameter(name: str, kind: str, shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "default": None, "shape": shape}


# What follows is the meaning of the word: no call that the old signature takes is refused by a compatible one.

_kinds: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([*SCALARS, "any"]).map(lambda kind: {"type": kind}),
    lambda inner: st.one_of(
        inner.map(array),
        inner.map(mapping),
        st.dictionaries(
            st.sampled_from("pq"), st.tuples(inner, st.booleans()).map(lambda p: {**p[0], "required": p[1]}), min_size=1
        ).map(lambda properties: {"type": "object", "properties": properties}),
    ),
    max_leaves=4,
)


@st.composite
def _columns(draw: st.DrawFn, names: tuple[str | None, ...] = ("a", "b", "c")) -> list[dict[str, Any]]:
    if draw(st.integers(0, 9)) == 0:
        names = (None,)
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    return [column(name, draw(_kinds), required=draw(st.booleans())) for name in chosen]


_NEXT = {"integer": "long", "long": "float", "float": "double", "double": "any"}


def _changed(draw: st.DrawFn, spec: Any) -> Any:
    """The type, slightly changed somewhere, usually so that it takes more."""
    change = draw(st.sampled_from(["no", "no", "wider", "optional", "other"]))
    if change == "other":
        return {**draw(_kinds), **{key: spec[key] for key in ("name", "required") if key in spec}}
    changed = dict(spec)
    if change == "optional" and "required" in spec:
        changed["required"] = False
    if change == "wider":
        changed["type"] = _NEXT.get(spec["type"], spec["type"])
    for key in ("items", "values"):
        if key in spec:
            changed[key] = _changed(draw, spec[key])
    if "properties" in spec:
        changed["properties"] = {name: _changed(draw, part) for name, part in spec["properties"].items()}
        if draw(st.booleans()):
            changed["properties"]["r"] = {**draw(_kinds), "required": draw(st.booleans())}
    return changed


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    before = draw(_columns())
    after = [_changed(draw, spec) for spec in before]
    if draw(st.booleans()) and "name" in before[0]:
        after.append(column("new", draw(_kinds), required=False))
    return before, after


_SAMPLES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32) | st.integers(-(2**70), 2**70),
    "double": st.floats() | st.integers(-(2**70), 2**70),
    "string": st.text(max_size=3),
    "binary": st.binary(max_size=3) | st.binary(max_size=3).map(lambda data: base64.b64encode(data).decode()),
    "datetime": st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)).map(datetime.isoformat),  # noqa: DTZ001 - such are taken
    "any": st.sampled_from(VALUES),
}


def _value(draw: st.DrawFn, spec: dict[str, Any], *, required: bool = True) -> Any:
    if not required and draw(st.integers(0, 4)) == 0:
        return None
    kind = spec["type"]
    if kind == "array":
        return [_value(draw, spec["items"]) for _ in range(draw(st.integers(0, 2)))]
    if kind == "map":
        return {name: _value(draw, spec["values"]) for name in draw(st.lists(st.sampled_from("pqx"), max_size=2))}
    if kind == "object":
        return {
            name: _value(draw, part, required=part["required"])
            for name, part in spec["properties"].items()
            if part["required"] or draw(st.booleans())
        }
    return draw(_SAMPLES[kind])


def _calls(rows: list[dict[str, Any]], names: list[str], *, same_names: bool) -> Iterator[Callable[[Signature], Any]]:
    """Every form in which the rows can be sent. Rows as lists depend on how many columns there are."""
    columns = {name: [row.get(name) for row in rows] for name in names}
    yield lambda s: s.rows("records", rows)
    yield lambda s: s.rows("instances", rows)
    yield lambda s: s.rows("columns", columns)
    yield lambda s: s.rows("inputs", columns)
    yield lambda s: s.rows("inputs", rows[0])
    yield lambda s: s.rows("tensors", {name: _object_array(values) for name, values in columns.items()})
    try:
        arrays = {name: np.array(values) for name, values in columns.items()}
    except (ValueError, OverflowError):  # ragged, or no numbers of one type
        arrays = {}
    if arrays:
        yield lambda s: s.rows("columns", arrays)
        yield lambda s: s.rows("tensors", arrays)
        yield lambda s: s.rows("tensors", {name: array[:, None] for name, array in arrays.items()})
    if same_names:
        yield lambda s: s.rows("instances", [[row.get(name) for name in names] for row in rows])
        if len(names) == 1:
            yield lambda s: s.rows("instances", columns[names[0]])
            yield lambda s: s.rows("inputs", columns[names[0]])
            yield lambda s: s.rows("records", columns[names[0]])


def _object_array(values: list[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@given(_pairs(), st.data())
def test_a_compatible_signature_takes_every_call_that_the_old_one_takes(pair: Any, data: st.DataObject) -> None:
    before, after = pair
    assume(not incompatibilities(before, after))
    old, new = Signature.compile(before), Signature.compile(after)
    names = [str(spec.get("name", index)) for index, spec in enumerate(before)]

    @st.composite
    def row(draw: st.DrawFn) -> dict[str, Any]:
        return {
            name: _value(draw, spec, required=spec["required"])
            for name, spec in zip(names, before, strict=True)
            if spec["required"] or draw(st.booleans())
        }

    rows = data.draw(st.lists(row(), min_size=1, max_size=3))
    for call in _calls(rows, names, same_names=len(before) == len(after)):
        if takes(old, call):
            call(new)


@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.booleans(), st.sampled_from(["same", "same", "free", 2])),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(["float32", "float64", "int32", "int64"]),
    st.sampled_from(["float32", "float64", "int32", "int64"]),
    st.booleans(),
)
def test_a_compatible_tensor_takes_every_array_that_the_old_one_takes(
    dimensions: list[tuple[int, bool, Any]], dtype: str, other: str, flat: bool
) -> None:
    shape = [length for length, _, _ in dimensions]
    was = [-1 if free else length for length, free, _ in dimensions]
    now = [{"same": old, "free": -1}.get(new, new) for old, (_, _, new) in zip(was, dimensions, strict=True)]
    before, after = [tensor(dtype, *was)], [tensor(other, *now)]
    assume(not incompatibilities(before, after))
    old, new = Signature.compile(before), Signature.compile(after)
    sent = np.arange(np.prod(shape)).reshape((shape[0], -1) if flat else shape)
    calls: list[Callable[[Signature], Any]] = [
        lambda s: s.rows("tensors", {"x": sent}),
        lambda s: s.rows("tensors", {"x": sent.squeeze()}),
        lambda s: s.rows("inputs", sent.tolist()),
        lambda s: s.rows("instances", sent.tolist()),
    ]
    for call in calls:
        if takes(old, call):
            call(new)
