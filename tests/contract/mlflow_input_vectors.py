"""Further requests: with row labels, without rows, and to models without names, signatures or schemas."""

from __future__ import annotations

from typing import Any

import pandas as pd

from tests.contract.mlflow_models import BAD, INVALID, csv, parquet, sent
from tests.contract.mlflow_vectors import HELPFUL, NAMED, ROW, rows

LABELS: list[Any] = [
    pd.RangeIndex(5, 9, 2),
    pd.Index([5, 6], name="id"),
    pd.Index(["x", "y"]),
    pd.Index([1.5, 2.0]),
    pd.to_datetime(["2024-01-01", "2024-01-02"]).as_unit("ns"),
    pd.MultiIndex.from_tuples([("x", 1), ("y", 2)], names=["l", None]),
]
INDEXES = [
    *(
        sent(f"index {labels}", model, rows([*ROW], [*ROW.values()], [*ROW.values()], index=labels))
        for model in ("whole", "whole untyped")
        for labels in (
            [5, 7], [1, 0], [1, 1], ["x", "y"], [1.5, 2], [True, False], [None, 1], [None, None], ["a", None], [1, "a"],
            [2**63, 1], ["2024-01-01", "2024-01-02"], [0, 1], [0.0, 1.0], [False, True],
        )
    ),
    *(
        parquet(f"index {number}", model, pd.DataFrame([ROW, ROW], index=index))
        for model in ("whole", "whole untyped")
        for number, index in enumerate(LABELS)
    ),
    sent("index of a tensor", "tensor", rows(["x", "y"], [1, 2], [3, 4], index=[5, 7])),
    sent("index of unnamed columns", "unnamed", rows(["x", "y"], [1.5, 2], index=["q"])),
    sent(
        "index of named tensors",
        "named",
        rows(["x", "y"], [1.5, [1, 2]], index=[7]),
        mlflow=INVALID,
        ours=200,
        why=HELPFUL,
    ),
    sent(
        "index of several levels",
        "untyped",
        rows(["x"], [1], [2], index=[["a", "b"], ["c", "d"]]),
        mlflow=200,
        ours=BAD,
        why="pandas writes one list per row and reads one per level, so MLflow's labels are wrong",
    ),
]  # fmt: skip

INPUTS: list[Any] = [
    [1, 2], [1, 2.5], [2**53 + 1, 3], [2**63, -1], [1, "a"], [True, 2], [1, None], ["x", "yz"], [[1, 2], [3, 4.5]],
    [[], []], [], [{"a": 1}, {"a": 2.5}], [{"a": [1, 2], "b": "x"}], {"a": [1, 2], "b": ["x", "y"]}, {"a": []}, {},
    {"a": [1, None]}, {"a": [{"b": 1}]}, {"a": [[1, 2]], "b": [True]}, 5, "x", 2.5, [[1], [2, 3]],
]  # fmt: skip
UNLIKE: list[Any] = [{"a": [1, 2], "b": [1]}, {"a": 1, "b": "x"}, [{"a": 1}, {"b": [1, 2]}], [{"a": 1}, 2]]
RECORDS: list[list[Any]] = [
    [], [{}], [{}, {}], [{"a": 1}, {"b": 2}], [{"a": True}, {}], [{"a": "x"}, {}], [{"a": 2**53 + 1}, {"a": None}],
    [{"a": 2**53 + 1}, {"a": 0.5}], [{"a": 2**63}, {"a": -1}], [{"a": -1}, {"a": None}, {"a": 2**63}], [[1, "x"]],
    [1, 2], ["x", None], [{"a": [1, 2]}, {"a": {"b": 1}}], [{"a": None}, {}], [{"a": True}, {"a": 1}],
]  # fmt: skip
UNTYPED = [
    *(sent(f"inputs {value!r}", "whole untyped", {"inputs": value}) for value in [*INPUTS, *UNLIKE]),
    *(sent(f"instances {value!r}", "whole untyped", {"instances": value}) for value in INPUTS),
    *(sent(f"records {value!r}", "whole untyped", {"dataframe_records": value}) for value in RECORDS),
    sent(
        "instances of different names",
        "whole untyped",
        {"instances": [{"a": 1}, {"b": 2}]},
        mlflow=200,
        ours=INVALID,
        why="MLflow moves the values of different rows into one",
    ),
    sent(
        "instances of different lengths",
        "whole untyped",
        {"instances": {"a": [1, 2], "b": [1]}},
        mlflow=BAD,
        ours=200,
        why="they are read as inputs",
    ),
    sent("tensors of different lengths", "whole tensors", {"inputs": {"x": [1.5, 2], "y": [1]}}),
]

EMPTY = [
    *(
        sent("split without rows", model, rows(names))
        for model, names in (("whole", [*ROW]), ("whole number", ["a"]), ("whole optional", ["a"]))
    ),
    sent("split without rows", "whole untyped", rows(["a", "b"])),
    sent("split without rows and columns", "whole untyped", {"dataframe_split": {"data": []}}),
    *(
        csv("only a header", model, text)
        for model, text in (("whole", "s,n,b,a,note\n"), ("whole number", "a\n"), ("whole untyped", "a,b"))
    ),
    *(sent("no records", model, {"dataframe_records": []}) for model in ("whole", "whole number", "whole optional")),
    sent("a record without columns", "whole optional", {"dataframe_records": [{}]}),
    *(
        sent(f"no {form}", model, {form: []})
        for form in ("inputs", "instances")
        for model in ("whole", "whole number", "whole optional", "unnamed", "named")
    ),
    sent("no inputs by name", "whole number", {"inputs": {"a": []}}),
    sent("no inputs by name", "whole tensors", {"inputs": {"x": [], "y": []}}),
    parquet("no rows", "whole number", pd.DataFrame({"a": pd.Series([], dtype="float64")})),
    parquet("no rows", "whole untyped", pd.DataFrame({"a": pd.Series([], dtype="int64")})),
    *(
        sent(f"no {form}", "tensor", {form: []}, mlflow=INVALID, ours=INVALID, why=NAMED)
        for form in ("inputs", "instances")
    ),
]

ONLY_INPUTS = "MLflow takes such models only by 'inputs'; a list of items means the same in every form"
HINTS = [
    sent("texts", "texts", {"inputs": ["a", ""]}),
    sent("no texts", "texts", {"inputs": []}),
    sent("a number for a text", "texts", {"inputs": ["a", 1]}),
    sent("one text", "texts", {"inputs": "a"}),
    sent("texts as instances", "texts", {"instances": ["a"]}, mlflow=INVALID, ours=200, why=ONLY_INPUTS),
    sent("texts as a split", "texts", rows(["x"], ["a"]), mlflow=INVALID, ours=200, why=ONLY_INPUTS),
    sent(
        "messages as records",
        "messages",
        {"dataframe_records": [{"size": 1}]},
        mlflow=INVALID,
        ours=200,
        why=ONLY_INPUTS,
    ),
    csv("texts", "texts", "x\na\nb\n"),
    csv("numbers for texts", "texts", "x\n1\n"),
    csv("messages", "messages", "role,size,note\na,1,x\nb,2,y\n", mlflow=BAD, ours=200, why=HELPFUL),
    csv("a moment", "moments", "x\n2024-01-01\n", mlflow=BAD, ours=200, why=HELPFUL),
    csv("anything", "anything", "x\n1\n2\n", mlflow=BAD, ours=200, why=HELPFUL),
    parquet("texts", "texts", pd.DataFrame({"x": ["a"]})),
    sent(
        "defaults and extra fields",
        "messages",
        {"inputs": [{"size": 1}, {"size": 2, "role": "x", "tags": [1, {"a": None}]}]},
    ),
    sent("a text for a number", "messages", {"inputs": [{"size": 1}, {"size": "2"}]}),
    sent("a missing field", "messages", {"inputs": [{"role": "x"}]}),
    sent("an item that is no object", "messages", {"inputs": [3]}),
    sent("maps", "maps", {"inputs": [{"a": 1.5}, {}]}),
    sent("a text in a map", "maps", {"inputs": [{"a": "x"}]}),
    sent("moments", "moments", {"inputs": ["2024-01-01T00:00:00", "2024-01-01"]}),
    sent("no moment", "moments", {"inputs": ["x"]}, mlflow=(500, "INTERNAL_ERROR"), ours=INVALID, why=NAMED),
    sent("blobs", "blobs", {"inputs": ["YWI="]}),
    sent("anything", "anything", {"inputs": [1, "a", None, {"a": [2**53 + 1]}, [1.5]]}),
]

INPUT_VECTORS = [*INDEXES, *UNTYPED, *EMPTY, *HINTS]
