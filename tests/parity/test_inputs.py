"""Generated signatures and requests: a model gets from the gateway what it gets from MLflow's own server."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st
from mlflow.types import ColSpec, DataType, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property

from app.api.mlflow.endpoints import CSV
from tests.parity.options import EXAMPLES, SEED, generated
from tests.parity.oracle import Pair, Refused, canonical

REFUSALS = re.compile(
    "which is not among the columns|^row [0-9]+ (lacks|has) |as others are$|^send exactly one of|expected base64"
    "|^row [0-9]+ is .*, expected an object|^'dataframe_split.columns'|no rows; send at least one"
)
"""Requests that MLflow answers and the gateway refuses on purpose: `docs/serve/differences.md` has the reasons."""

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
SMALL = st.integers(-(2**31), 2**31 - 1)
LARGE = st.one_of(st.integers(-(2**63), 2**63 - 1), st.just(2**53 + 1))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
TIMES = st.datetimes(
    min_value=pd.Timestamp("1680-01-01").to_pydatetime(), max_value=pd.Timestamp("2260-01-01").to_pydatetime()
).map(lambda moment: moment.isoformat())
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "integer": SMALL,
    "long": LARGE,
    "float": FLOATS,
    "double": st.one_of(st.floats(allow_nan=False, allow_infinity=False), SMALL, st.none()),
    "string": TEXT,
    "binary": st.binary(max_size=5).map(lambda value: base64.encodebytes(value).decode()),
    "datetime": TIMES,
}
ANY = st.one_of(SMALL, LARGE, st.integers(0, 2**64 - 1), FLOATS, TEXT, st.booleans(), st.none())
NESTED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Array(DataType.double), st.lists(FLOATS, max_size=3)),
    (Array(DataType.string), st.lists(TEXT, max_size=3)),
    (Array(Array(DataType.long)), st.lists(st.lists(LARGE, max_size=2), max_size=2)),
    (Map(DataType.double), st.dictionaries(TEXT, FLOATS, max_size=2)),
    (AnyType(), ANY),
    (
        Object([Property("a", DataType.long), Property("b", DataType.string, required=False)]),
        st.fixed_dictionaries({"a": LARGE}, optional={"b": TEXT}),
    ),
]
DTYPES: dict[str, st.SearchStrategy[Any]] = {
    "float32": FLOATS,
    "float64": st.one_of(FLOATS, SMALL),
    "int64": LARGE,
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
    "str": TEXT,
}
NAMES = ["a", "b", "c d", "é"]
FORMS = ("split", "records", "instances", "inputs", "list", "csv")
TABLES_ONLY = ("split", "records")
"""Forms for nested types and nulls: of others MLflow makes one row, or text."""
LABELS = st.one_of(SMALL, TEXT, st.booleans(), FLOATS, st.none())


@st.composite
def tables(draw: st.DrawFn) -> tuple[Pair, bytes, str]:
    """A signature of columns and a request with valid values, in any form."""
    named = draw(st.booleans())
    width = draw(st.integers(1, 3))
    specs, values = [], []
    allowed: tuple[str, ...] = FORMS
    for name in draw(st.permutations(NAMES))[:width]:
        required = not named or draw(st.booleans())
        if draw(st.integers(0, 3)) == 0:
            kind, value = draw(st.sampled_from(NESTED if named else NESTED[:3]))
            allowed = TABLES_ONLY
        else:
            word = draw(st.sampled_from(sorted(VALUES)))
            kind, value = DataType[word], VALUES[word]
            if not required and word in ("string", "datetime"):
                value = st.one_of(value, st.none())
                allowed = TABLES_ONLY
            if word == "binary":  # MLflow decodes base64 in no other form
                allowed = TABLES_ONLY
            elif word == "string" and allowed is FORMS:  # a CSV has no empty text
                allowed = FORMS[:-1]
        specs.append(ColSpec(kind, name if named else None, required=required))
        values.append(value)
    rows = draw(st.lists(st.tuples(*values), max_size=4))
    names = [spec.name if named else name for spec, name in zip(specs, NAMES, strict=False)]
    order = draw(st.permutations(range(width))) if named else list(range(width))
    if named and draw(st.booleans()):  # without some of the optional columns
        order = [place for place in order if specs[place].required] or order
    if not any(spec.required for spec in specs):  # MLflow drops what has no name, and nothing is left
        allowed = tuple(form for form in allowed if form != "list")
    if not named and any(spec.type == DataType.boolean for spec in specs):  # objects there become a column of objects
        allowed = tuple(form for form in allowed if form != "list")
    shown = [names[place] for place in order]
    data = [[row[place] for place in order] for row in rows]
    return Pair(specs), *draw(forms(shown, data, allowed))


@st.composite
def forms(
    draw: st.DrawFn, names: list[str], data: list[list[Any]], allowed: tuple[str, ...] = FORMS
) -> tuple[bytes, str]:
    """A body for a table."""
    form = draw(st.sampled_from(allowed))
    records = [dict(zip(names, row, strict=True)) for row in data]
    if form == "split":
        body: dict[str, Any] = {"columns": names, "data": data}
        if draw(st.booleans()):
            body["index"] = draw(st.lists(LABELS, min_size=len(data), max_size=len(data)))
        if draw(st.integers(0, 5)) == 0:
            del body["columns"]
        value: dict[str, Any] = {"dataframe_split": body}
    elif form == "records":
        value = {"dataframe_records": records}
    elif form == "instances":
        value = {"instances": records}
    elif form == "inputs":
        value = {"inputs": {name: [row[name] for row in records] for name in names}}
    elif form == "list":
        key = draw(st.sampled_from(["inputs", "instances"]))
        value = {key: draw(st.sampled_from([data if len(names) > 1 else records, records, [row[0] for row in data]]))}
    else:
        return pd.DataFrame(data, columns=names).to_csv(index=False).encode(), CSV
    return json.dumps(value).encode(), "application/json"


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Pair, bytes, str]:
    """A signature of tensors and a request with valid values."""
    named = draw(st.booleans())
    specs, arrays = [], {}
    same = draw(st.integers(0, 3))
    for name in NAMES[: draw(st.integers(1, 2)) if named else 1]:
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        inner = draw(st.lists(st.integers(1, 2), max_size=2))
        free = draw(st.booleans()) and inner
        specs.append(TensorSpec(np.dtype(dtype), (-1, *([-1, *inner[1:]] if free else inner)), name if named else None))
        value = DTYPES[dtype]
        for size in reversed(inner):
            value = st.lists(value, min_size=size, max_size=size)
        count = same if draw(st.integers(0, 3)) else draw(st.integers(0, 3))
        arrays[name] = draw(st.lists(value, min_size=count, max_size=count))
    count = min(map(len, arrays.values()))
    records = [{name: array[row] for name, array in arrays.items()} for row in range(count)]
    only = next(iter(arrays.values()))
    body: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"inputs": arrays if named else only},
                {"inputs": only},
                {"instances": records if named else only},
                {"dataframe_split": {"columns": [*arrays], "data": [[*row.values()] for row in records]}},
                {"dataframe_records": records},
            ]
        )
    )
    return Pair(specs), json.dumps(body).encode(), "application/json"


@st.composite
def untyped(draw: st.DrawFn) -> tuple[Pair, bytes, str]:
    """A request to a model without a signature."""
    if draw(st.booleans()):
        width = draw(st.integers(1, 3))
        kinds = [draw(st.sampled_from([ANY, LARGE, FLOATS, TEXT, st.one_of(LARGE, FLOATS, st.none())])) for _ in NAMES]
        data = draw(st.lists(st.tuples(*kinds[:width]).map(list), max_size=4))
        return Pair(None), *draw(forms(NAMES[:width], data))
    leaf = st.one_of(ANY, st.lists(ANY, max_size=3), st.lists(LARGE, max_size=3))
    value = draw(
        st.one_of(
            leaf,
            st.lists(leaf, max_size=3),
            st.dictionaries(TEXT, leaf, max_size=3),
            st.lists(st.dictionaries(st.sampled_from(NAMES), leaf, max_size=2), max_size=3),
        )
    )
    key = draw(st.sampled_from(["inputs", "instances", "dataframe_records"]))
    return Pair(None), json.dumps({key: value}).encode(), "application/json"


@pytest.mark.parametrize("requests", [tables(), tensors(), untyped()], ids=["tables", "tensors", "untyped"])
def test_models_get_what_mlflow_gives_them(requests: Any) -> None:
    counts = {"both": 0, "refused": 0, "differ": 0}

    @generated(requests)
    def compare(request: tuple[Pair, bytes, str]) -> None:
        pair, body, content_type = request
        try:
            theirs = pair.theirs(body, content_type)
        except Refused:
            counts["refused"] += 1
            return
        try:
            ours = pair.ours(body, content_type)
        except Refused as refused:
            if not REFUSALS.search(str(refused)):
                raise
            counts["differ"] += 1
            return
        assert canonical(ours, content_type) == canonical(theirs, content_type)
        counts["both"] += 1

    compare()
    print(f"{EXAMPLES} requests: {counts}, seed {SEED}")  # noqa: T201  # a longer run shows it
    assert counts["both"] > EXAMPLES / 4, counts
