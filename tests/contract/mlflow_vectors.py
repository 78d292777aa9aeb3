"""Requests to MLflow's scoring protocol, and where responses here differ from MLflow's."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
from mlflow.utils.proto_json_utils import dump_input_data

from app.api.mlflow.csv import NULLS
from tests.contract.mlflow_models import BAD, CSV, INVALID, PARQUET, UNSUPPORTED, WHEN, Vector, csv, parquet, sent

AB = pd.DataFrame({"a": [1.0, 2.5], "b": [3.0, -1.25]})
ROW = {"s": "007", "n": 2**53 + 1, "b": True, "a": 1.5, "note": "x"}
ROWS = [ROW, {"s": "", "n": -1, "b": False, "a": None, "note": None}]

EXTRA = "MLflow drops columns that the model lacks with a line in its log; here a misspelled column is an error"
STRICT = "MLflow casts values even if digits are lost; here a value must have its column's type"
FAILED = "MLflow answers 400 if the model raises; here the input is validated first"
NAMED = "here the message names the mistake"
HELPFUL = "MLflow cannot read this"
PLAIN = "MLflow answers in plain text"
NULL = "here a missing text is None in every format; MLflow reads NaN from a CSV"


def split(frame: pd.DataFrame) -> dict[str, Any]:
    return {"dataframe_split": json.loads(frame.to_json(orient="split"))}


def rows(columns: list[Any] | None, *data: Any, **further: Any) -> dict[str, Any]:
    return {"dataframe_split": ({} if columns is None else {"columns": columns}) | {"data": list(data), **further}}


FORMATS = [
    sent("split", "linear", split(AB)),
    sent("split without index", "linear", rows(["a", "b"], [1, 2.5])),
    sent("split in another order", "linear", rows(["b", "a"], [1, 2.5])),
    sent("records", "linear", {"dataframe_records": AB.to_dict("records")}),
    sent("instances", "linear", {"instances": AB.to_dict("records")}),
    sent("inputs", "linear", {"inputs": AB.to_dict("list")}),
    sent("inputs of one row", "linear", {"inputs": {"a": 1, "b": 1}}),
    sent(
        "instances as lists",
        "linear",
        {"instances": [[1, 2]]},
        mlflow=INVALID,
        ours=200,
        why=HELPFUL,
    ),
    sent("split", "mixed", split(pd.DataFrame(ROWS))),
    sent("records", "mixed", {"dataframe_records": ROWS}),
    sent("records without an optional column", "mixed", {"dataframe_records": [dict(list(ROW.items())[:-1])]}),
    sent("instances", "mixed", {"instances": [ROW]}),
    sent("inputs", "mixed", {"inputs": {name: [value] for name, value in ROW.items()}}),
    sent("split", "times", rows(["t", "i", "f"], [WHEN, 1, 0.1], ["2024-01-01T00:00:00", 2, 5])),
    sent("split", "frame", rows(["a", "s"], [1, "x"], [None, "y"])),
    sent("split", "series", rows(["a"], [1])),
    sent("inputs", "tensor", {"inputs": [[1, 2], [3, 4.5]]}),
    sent("instances", "tensor", {"instances": [[1, 2], [3, 4.5]]}),
    sent("split", "tensor", split(AB)),
    sent("split without columns", "tensor", rows(None, [1.5, 2.5], [3, 4])),
    sent("records", "tensor", {"dataframe_records": AB.to_dict("records")}),
    sent("inputs", "image", {"inputs": [[[1, 2], [3, 4.5]]]}),
    sent("split of flat rows", "image", rows(["x"], [[1, 2, 3, 4.5]], [[1, 2, 3, 4]])),
    sent("records of flat rows", "image", {"dataframe_records": [{"x": [1, 2, 3, 4.5]}]}),
    sent("inputs", "named", {"inputs": {"x": [1.5], "y": [[1, 2]]}}),
    sent("instances", "named", {"instances": [{"x": 1.5, "y": [1, 2]}]}),
    sent("split", "named", rows(["x", "y"], [1.5, [1, 2]])),
    sent("split without columns", "unnamed", rows(None, [1.5, 2])),
    sent("split with numbers for columns", "unnamed", rows([0, 1], [1.5, 2])),
    sent("split with names", "unnamed", rows(["x", "y"], [1.5, 2])),
    sent("split with names in another order", "unnamed", rows(["1", "0"], [1.5, 2])),
    sent("records", "unnamed", {"dataframe_records": [{"y": 1.5, "x": 2}]}),
    sent("instances", "unnamed", {"instances": [{"y": 1.5, "x": 2}]}),
    sent(
        "inputs by name",
        "unnamed",
        {"inputs": {"x": [1.5], "y": [2]}},
        mlflow=BAD,
        ours=200,
        why=HELPFUL,
    ),
    sent("split", "untyped", rows(["i", "f", "s", "b"], [1, 1.5, "a", True], [2, None, "b", False])),
    sent("split without columns", "untyped", rows(None, [1, 1.5])),
    sent("split with numbers and names", "untyped", rows([3, "x"], [1, 1.5])),
    sent("records", "untyped", {"dataframe_records": [{"i": 1, "f": 1.5, "s": "x"}]}),
    sent("instances", "untyped", {"instances": [[1, 2]]}),
    sent("inputs", "untyped", {"inputs": [[1, 2]]}),
    Vector("as MLflow's clients write it", "mixed", dump_input_data(pd.DataFrame(ROWS), params=None).encode()),
    Vector("NaN", "frame", b'{"dataframe_split": {"columns": ["a", "s"], "data": [[NaN, "NaN, \\" NaN"]]}}'),
    Vector(
        "infinities",
        "frame",
        b'{"dataframe_split": {"columns": ["a", "s"], "data": [[Infinity, "-Infinity"], [-Infinity, ""]]}}',
    ),
    Vector("infinities in tensors", "tensor", b'{"inputs": [[Infinity, NaN], [-Infinity, 1]]}'),
    Vector(
        "NaN as a value of a model that takes none",
        "linear",
        b'{"dataframe_records": [{"a": NaN, "b": NaN}]}',
        mlflow=BAD,
        ours=(500, "INTERNAL_ERROR"),
        why="the model raised, which is not known to be the caller's fault",
    ),
]

PARAMS = [
    sent("all", "params", {"inputs": {"a": [1]}, "params": {"top": 5, "tag": "y"}}),
    sent("some", "params", {**rows(["a"], [1]), "params": {"top": 5}}),
    sent("none", "params", {"dataframe_records": [{"a": 1}]}),
    sent("empty", "params", {"dataframe_records": [{"a": 1}], "params": {}}),
    sent("null", "params", {"dataframe_records": [{"a": 1}], "params": None}),
    csv("none, in a CSV", "params", "a\n1\n"),
    sent("of another type", "params", {"dataframe_records": [{"a": 1}], "params": {"top": "x"}}),
    sent("as a list", "params", {"dataframe_records": [{"a": 1}], "params": [1]}),
    *(
        sent(
            f"unknown to the {model} model",
            model,
            {**split(AB[["a"]] if model == "params" else AB), "params": {"other": 1}},
            mlflow=200,
            ours=INVALID,
            why="MLflow ignores them with a line in its log, which their sender never sees",
        )
        for model in ("params", "linear")
    ),
]

CSVS = [
    csv("as pandas writes it without its index", "linear", AB.to_csv(index=False)),
    csv("as pandas writes it", "linear", AB.to_csv()),
    csv("in another order", "linear", "b,a\n1,2\n"),
    csv("BOM, CRLF, blank lines, blanks, no end of line", "linear", "\ufeff\r\na,b\r\n\r\n1,2\r\n 3 ,4"),
    csv("spellings of numbers", "frame", "a,s\n+1.5,x\n-1e-3,x\n.5,x\ninf,x\n5.,x\n007,x\n"),
    *(csv(f"missing as {spelling!r}", "frame", f'a,s\n{spelling},x\n"{spelling}",y\n') for spelling in sorted(NULLS)),
    csv("text, quoted and not", "mixed", 's,n,b,a,note\n007,9007199254740993,True,1.5,x\n"a,""b\nc",-1,false,,1\n'),
    csv("text that looks like values", "mixed", "s,n,b,a,note\n1e3,+1,TRUE,1,True\n5.0,3.0,FALSE,1,-\n"),
    csv("truth values as 1 and 0", "mixed", "s,n,b,a,note\nx,1,1,1,x\nx,1,0,1,x\n"),
    csv(
        "missing text",
        "note",
        "n,note\n1,\n",
        mlflow=["DataFrame[]|'n' int64 int 1|'note' object float nan"],
        ours=["DataFrame[]|'n' int64 int 1|'note' object NoneType None"],
        why=NULL,
    ),
    csv(
        "missing text that is required",
        "mixed",
        "s,n,b,a,note\n,1,true,1,x\n",
        mlflow=200,
        ours=BAD,
        why=STRICT,
    ),
    csv("missing whole number", "mixed", "s,n,b,a,note\nx,,true,1,x\n"),
    csv("missing truth value", "mixed", "s,n,b,a,note\nx,1,,1,x\n"),
    csv("a fraction for a whole number", "mixed", "s,n,b,a,note\nx,1.5,true,1,x\n"),
    csv("too large for 64 bits", "mixed", "s,n,b,a,note\nx,99999999999999999999,true,1,x\n"),
    csv("another word for true", "mixed", "s,n,b,a,note\nx,1,yes,1,x\n"),
    csv("times", "times", f"t,i,f\n{WHEN},1,0.1\n", mlflow=BAD, ours=200, why=HELPFUL),
    csv("a tensor", "tensor", AB.to_csv(index=False), mlflow=BAD, ours=200, why=HELPFUL),
    csv("unnamed columns", "unnamed", "0,1\n1.5,2\n"),
    csv("unnamed columns with names", "unnamed", "x,y\n1.5,2\n"),
    csv(
        "inferred types",
        "untyped",
        "i,f,s,b,t,e,m,h,u,id,n\n1,1.5,a,True,2024-01-01,,1,0x1F,18446744073709551615,007,1\n"
        "2,,NA,FALSE,2024-01-02,,x,2,1,8,\n",
    ),
    csv("inferred truth values of which one is missing", "untyped", "b,i\ntrue,1\n,\n"),
    csv("as pandas writes it", "untyped", AB.to_csv()),
    csv("missing column", "linear", "a\n1\n"),
    csv("extra column", "linear", "a,b,c\n1,2,3\n", mlflow=200, ours=INVALID, why=EXTRA),
    csv("column twice", "linear", "a,b,a\n1,2,3\n", mlflow=200, ours=INVALID, why=EXTRA),
    csv("wrong type", "linear", "a,b\n1,x\n"),
    csv("a row too long", "linear", "a,b\n1,2\n1,2,3\n"),
    csv("a row too short", "linear", "a,b\n1,2\n1\n"),
    csv("a row too short", "untyped", "a,b\n1,2\n1\n", mlflow=200, ours=BAD, why="MLflow fills up with NaN"),
    csv("every row too long", "linear", "a,b\n1,2,3\n", mlflow=200, ours=BAD, why="pandas takes it for labels"),
    csv("empty", "linear", ""),
    csv("blank", "linear", "\n\n"),
    csv("no rows", "linear", "a,b\n", mlflow=BAD, ours=INVALID, why=FAILED),
    csv("no rows, no end of line", "linear", "a,b", mlflow=BAD, ours=INVALID, why=FAILED),
    Vector("not UTF-8", "linear", b"a,b\n1,\xff\n", CSV),
    Vector("header not UTF-8", "linear", b"a,\xff\n1,2\n", CSV),
]

NUMBERS = pd.DataFrame({"i": np.array([1, 2], "int32"), "f": np.array([0.1, 2], "float32")})
TIMES = pd.Series(pd.to_datetime([WHEN, WHEN]))
PARQUETS = [
    parquet("floats", "linear", AB),
    parquet("narrow floats", "linear", AB.astype("float32")),
    parquet("with an index", "linear", AB.set_index(pd.Index([5, 6], name="id"))),
    parquet("all scalars", "mixed", pd.DataFrame(ROWS)),
    parquet("times", "times", NUMBERS.assign(t=TIMES)),
    parquet("times in microseconds", "times", NUMBERS.assign(t=TIMES.astype("datetime64[us]"))),
    parquet("dates", "times", NUMBERS.assign(t=TIMES.dt.date)),
    parquet("a tensor", "tensor", AB),
    parquet(
        "lists",
        "named",
        pd.DataFrame({"x": [1.5, 2], "y": [[1, 2], [3, 4]]}),
        mlflow=200,
        ours=BAD,
        why="the memory of lists in Parquet is only known after decoding; callers can send them as JSON",
    ),
    parquet(
        "inferred types",
        "untyped",
        pd.DataFrame(
            {
                "i": [1, 2],
                "f": [1.5, None],
                "s": ["a", None],
                "b": [True, False],
                "t": pd.Series([pd.Timestamp(WHEN), pd.NaT]),
                "u": np.array([1, 2], "uint8"),
                "n": pd.Series([True, None], dtype=object),
                "y": [b"\x00", b"ab"],
            }
        ),
    ),
    parquet("missing column", "linear", AB[["a"]]),
    parquet("extra column", "linear", AB.assign(c=1.0), mlflow=200, ours=INVALID, why=EXTRA),
    parquet(
        "whole numbers for floats",
        "linear",
        AB.astype({"a": "int64"}),
        mlflow=INVALID,
        ours=200,
        why="a number is a number, as it is in JSON",
    ),
    parquet("text for numbers", "linear", AB.astype({"a": str}), mlflow=200, ours=BAD, why=STRICT),
    parquet(
        "numbers for text",
        "frame",
        pd.DataFrame({"a": [1.0], "s": [1]}),
        mlflow=INVALID,
        ours=BAD,
        why=f"a wrong value is a BAD_REQUEST in every other format; {NAMED}",
    ),
    parquet(
        "categories",
        "mixed",
        pd.DataFrame(ROWS).astype({"s": "category"}),
        mlflow=INVALID,
        ours=200,
        why=HELPFUL,
    ),
    parquet(
        "times in a zone",
        "times",
        NUMBERS.assign(t=TIMES.dt.tz_localize("UTC")),
        mlflow=INVALID,
        ours=200,
        why=HELPFUL,
    ),
    parquet(
        "missing time",
        "times",
        NUMBERS.assign(t=pd.Series([pd.Timestamp(WHEN), pd.NaT])),
        mlflow=200,
        ours=BAD,
        why="the column is required",
    ),
    parquet(
        "pandas' own types",
        "untyped",
        pd.DataFrame({"i": pd.array([1], "Int64")}),
        mlflow=["DataFrame[]|'i' Int64 int64 np.int64(1)"],
        ours=["DataFrame[]|'i' int64 int 1"],
        why="columns are numpy's",
    ),
    Vector("something else", "linear", b"PAR1", PARQUET),
    Vector("empty", "linear", b"", PARQUET),
]

MALFORMED = [
    Vector("not JSON", "linear", b"{"),
    Vector("empty", "linear", b""),
    Vector("not UTF-8", "linear", b'{"inputs": "\xff"}'),
    sent("a list", "linear", [1]),
    sent("a number", "linear", 1),
    sent("two formats", "linear", {"inputs": {"a": [1], "b": [1]}, "instances": [{"a": 1, "b": 1}]}),
    sent("no format", "linear", {}),
    sent(
        "another key",
        "linear",
        {"inputs": {"a": [1], "b": [1]}, "signature_name": "x"},
        mlflow=200,
        ours=BAD,
        why="MLflow ignores other keys; here a misspelt 'params' is an error",
    ),
    sent(
        "a chat",
        "linear",
        {"messages": []},
    ),
    sent("split without data", "linear", {"dataframe_split": {"columns": ["a", "b"]}}),
    sent("split with another key", "linear", rows(["a", "b"], [1, 2], x=1)),
    sent("split as a list", "linear", {"dataframe_split": [1]}),
    sent("split, a row too long", "linear", rows(["a", "b"], [1, 2], [1, 2, 3])),
    sent("split, a row too short", "linear", rows(["a", "b"], [1, 2], [1])),
    sent(
        "split, a row too short",
        "untyped",
        rows(["a", "b"], [1, 2], [1]),
        mlflow=200,
        ours=BAD,
        why="MLflow fills up with NaN",
    ),
    sent("split, too few columns", "linear", rows(["a"], [1, 2], [1, 2])),
    sent("split, index too short", "linear", rows(["a", "b"], [1, 2], [1, 2], index=[1])),
    sent("split, column twice", "linear", rows(["a", "b", "a"], [1, 2, 3])),
    sent("split, rows that are no lists", "linear", rows(["a", "b"], 1, 2)),
    sent(
        "split, values of the only column",
        "params",
        rows(["a"], 1, 2),
        mlflow=200,
        ours=BAD,
        why="pandas' own to_dict never writes this form, and it is ambiguous for lists",
    ),
    sent("split, no rows", "linear", rows(["a", "b"]), mlflow=BAD, ours=INVALID, why=FAILED),
    sent("split, a fraction for a name", "untyped", rows([3.5], [1]), mlflow=200, ours=BAD, why=NAMED),
    sent("split, wrong type", "linear", rows(["a", "b"], [1, "x"])),
    sent("split, missing column", "linear", rows(["a"], [1])),
    sent("split without columns", "linear", rows(None, [1, 2])),
    sent(
        "split, extra column",
        "linear",
        rows(["a", "b", "c"], [1, 2, 3]),
        mlflow=200,
        ours=INVALID,
        why=EXTRA,
    ),
    sent(
        "split, a number for a time",
        "times",
        rows(["t", "i", "f"], [5, 1, 0.1]),
        mlflow=200,
        ours=BAD,
        why="hardly any caller means nanoseconds",
    ),
    sent("split, no time", "times", rows(["t", "i", "f"], ["x", 1, 0.1])),
    *(
        sent(
            f"split, {value!r} for a whole number",
            "times",
            rows(["t", "i", "f"], [WHEN, value, 0.1]),
            mlflow=200,
            ours=BAD,
            why=STRICT,
        )
        for value in (1.5, True, "1", 2**40)
    ),
    sent("records, missing column", "linear", {"dataframe_records": [{"a": 1}]}),
    sent(
        "records, one lacks a column",
        "linear",
        {"dataframe_records": [{"a": 1, "b": 2}, {"a": 1}]},
        mlflow=BAD,
        ours=INVALID,
        why=FAILED,
    ),
    sent(
        "records, extra column",
        "linear",
        {"dataframe_records": [{"a": 1, "b": 2, "c": 3}]},
        mlflow=200,
        ours=INVALID,
        why=EXTRA,
    ),
    sent("records as an object", "linear", {"dataframe_records": {"a": 1}}),
    sent("records, none", "linear", {"dataframe_records": []}),
    sent("records of lists", "linear", {"dataframe_records": [[1, 2]]}),
    sent("records of numbers", "linear", {"dataframe_records": [1, 2]}),
    sent("instances, wrong type", "linear", {"instances": [{"a": "x", "b": 1}]}),
    sent("instances, missing column", "linear", {"instances": [{"a": 1}]}),
    sent(
        "instances that differ",
        "linear",
        {"instances": [{"a": 1, "b": 1}, {"a": 1}]},
        mlflow=BAD,
        ours=INVALID,
        why=NAMED,
    ),
    sent("inputs, wrong type", "linear", {"inputs": {"a": ["x"], "b": [1]}}),
    sent("inputs, missing column", "linear", {"inputs": {"a": [1]}}),
    sent(
        "inputs, extra column",
        "linear",
        {"inputs": {"a": [1], "b": [2], "c": [3]}},
        mlflow=200,
        ours=INVALID,
        why=EXTRA,
    ),
    sent("inputs of different lengths", "linear", {"inputs": {"a": [1, 2], "b": [1]}}),
    sent("wrong shape", "tensor", {"inputs": [[1, 2, 3]]}),
    sent("split of the wrong width", "tensor", rows(None, [1, 2, 3])),
    sent("ragged", "tensor", {"inputs": [[1, 2], [1]]}),
    sent("wrong type", "tensor", {"inputs": [[1, "x"]]}),
    sent("missing tensor", "named", {"inputs": {"x": [1.5]}}),
    sent("split, missing tensor", "named", rows(["x"], [1.5])),
    sent("split, missing column", "unnamed", rows(None, [1.5])),
]

TYPES = [
    sent("charset", "linear", split(AB), content_type="application/json; charset=UTF-8"),
    Vector("charset of a CSV", "linear", b"a,b\n1,2\n", "text/csv; charset=utf-8"),
    *(
        sent(kind, "linear", split(AB), content_type=kind, mlflow=415, ours=UNSUPPORTED, why=PLAIN)
        for kind in ("application/json; charset=latin-1", "application/json; format=pandas-split", "text/plain")
    ),
    sent("none", "linear", split(AB), content_type=None, mlflow=500, ours=200, why="JSON is what most callers send"),
    sent(
        "in other letters",
        "linear",
        split(AB),
        content_type="Application/JSON",
        mlflow=415,
        ours=200,
        why="media types are compared without regard to case (RFC 9110, 8.3.1)",
    ),
    sent(
        "in quotes",
        "linear",
        split(AB),
        content_type='application/json; charset="utf-8"',
        mlflow=415,
        ours=200,
        why="parameters may be quoted (RFC 9110, 5.6.6)",
    ),
]
VECTORS = [*FORMATS, *PARAMS, *CSVS, *PARQUETS, *MALFORMED, *TYPES]
