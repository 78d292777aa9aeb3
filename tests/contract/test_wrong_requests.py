"""Wrong requests in every dialect: each gets an error in its dialect's shape and affects no other request.

A case is one row of a table: `Wrong`. All of a dialect's cases are sent to the models of `gateway`, one by one and at
once beside good requests.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from app.oip.binary import encode_elements
from tests.connect import Connect
from tests.fakes import LIMITS, FakeModel, Fakes, columns, make_fakes, tensor

HEADER = "inference-header-content-length"
SENTINEL = 1e6
"""Only good rows hold it: a model that sees a row without it has seen a wrong one."""
LONGEST = 1500
GOOD = 60


@dataclass(frozen=True)
class Wrong:
    """One wrong request: `words` must be in the message. `content` is a body as bytes, or JSON values.

    `reaches`: the fault shows only in what the model answered.
    """

    name: str
    content: Any
    words: tuple[str, ...]
    status: int = 400
    path: str = "/v2/models/m/infer"
    headers: Mapping[str, str] = field(default_factory=dict)
    reaches: bool = False

    @property
    def body(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


def fault_v2(body: Any) -> str:
    """OIP's and KServe's shape."""
    assert isinstance(body["code"], str)
    message: str = body["error"]
    return message


def fault_serve(body: Any) -> str:
    assert body["status"] == "error"
    assert body["error"].keys() <= {"code", "message", "details"}
    message: str = body["error"]["message"]
    return message


def fault_mlflow(body: Any) -> str:
    assert body["error_code"] == body["error_code"].upper() != ""
    message: str = body["message"]
    return message


# --- Open Inference Protocol -------------------------------------------------------------------------------------


def one(name: str, value: Any, datatype: str = "FP64", shape: Any = (1,), **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": [value], **more}


X, N, S = one("x", 1.0), one("n", 2, "INT64"), one("s", "a", "BYTES")


def infer(*inputs: Any, **more: Any) -> dict[str, Any]:
    """A body that is right but for what is given: inputs that are not given are good ones."""
    names = {item["name"] for item in inputs if isinstance(item, dict) and "name" in item}
    return {"inputs": [*inputs, *(item for item in (X, N, S) if item["name"] not in names)], **more}


def raw(size: Any, tail: bytes, length: Any = None, datatype: str = "FP64", shape: Any = (1,), **more: Any) -> Any:
    """Body and headers of a request whose 'x' is behind the JSON."""
    x = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}, **more}
    text = json.dumps(infer(x)).encode()
    return {"content": text + tail, "headers": {HEADER: str(len(text) if length is None else length)}}


def text(name: str, content: Any, *words: str, **more: Any) -> Wrong:
    return Wrong(name, content, words, **more)


def data(name: str, item: dict[str, Any], *words: str, **more: Any) -> Wrong:
    """One wrong input."""
    return Wrong(name, infer(item), words, **more)


def tail(name: str, request: Any, *words: str, **more: Any) -> Wrong:
    """A wrong binary request, as `raw` makes it."""
    return Wrong(name, request["content"], words, headers=request["headers"], **more)


def packed(name: str, encoding: str, body: bytes, *words: str, **more: Any) -> Wrong:
    return Wrong(name, body, words, headers={"content-encoding": encoding}, **more)


FP64 = struct.pack("<d", 1.0)
BODY = json.dumps(infer()).encode()

OIP = [
    # the body
    text("empty body", b"", "the body is empty"),
    text("not JSON", b"{'inputs': []}", "not valid JSON"),
    text("JSON that is cut", BODY[:-5], "not valid JSON"),
    text("a constant that is none", b'{"inputs": [-NaN, Infinite]}', "not valid JSON"),
    text("a constant, and half a character", b'{"id": "\\ud800", "inputs": [NaN]}', "not valid JSON"),
    text("a constant, and too deep to parse", b"[" * 100_000 + b"NaN" + b"]" * 100_000, "JSON"),
    text(
        "infinity where an integer is due",
        json.dumps(infer(one("n", math.inf, "FP64"))).encode(),
        "'n'",
        "whole number",
    ),
    text("not UTF-8", b'{"id": "\xff\xfe"}', "not valid JSON"),
    text("a list", [X, N, S], "must be a JSON object"),
    text("a number", 5, "must be a JSON object"),
    text("deep JSON", infer(one("x", [[[[[[[[[[[[[[[[[[[[1.0]]]]]]]]]]]]]]]]]]]])), "deeper than 16"),
    text("too deep to parse", b"[" * 100_000 + b"]" * 100_000, "JSON"),
    text("too large", b" " * 1_000_001, "larger than", "1000000", status=413),
    # compression
    packed("gzip that is none", "gzip", BODY, "not valid gzip"),
    packed("gzip that is cut", "gzip", gzip.compress(BODY)[:-9], "gzip body is incomplete"),
    packed("gzip that is too large", "gzip", gzip.compress(b" " * 1_000_001), "larger than", status=413),
    packed("gzip followed by other bytes", "gzip", gzip.compress(BODY) + b"more", "not valid gzip"),
    packed("deflate that is none", "deflate", BODY, "not valid deflate"),
    packed("deflate that is cut", "deflate", zlib.compress(BODY)[:-5], "deflate body is incomplete"),
    packed("deflate that is gzip", "deflate", gzip.compress(BODY), "not valid deflate"),
    packed("unknown content-encoding", "br", BODY, "content-encoding 'br'", status=415),
    # the header
    tail("negative header length", raw(8, FP64, -1), "Inference-Header-Content-Length", "whole number"),
    tail("header length that is no number", raw(8, FP64, "ten"), "Inference-Header-Content-Length"),
    tail("empty header length", raw(8, FP64, ""), "Inference-Header-Content-Length"),
    tail("fractional header length", raw(8, FP64, "10.0"), "Inference-Header-Content-Length"),
    tail("huge header length", raw(8, FP64, "9" * 30), "Inference-Header-Content-Length"),
    tail("header length beyond the body", raw(8, FP64, 9999), "9999", "but the body has"),
    tail("header length that is too small", raw(8, FP64, 20), "not valid JSON"),
    tail("header length of a model with several inputs", raw(8, FP64, 0), "one input", "'x (FP64)', 'n (INT64)'"),
    # the JSON
    text("no inputs", {}, "'inputs': is missing"),
    text("empty inputs", {"inputs": []}, "'inputs'", "at least 1"),
    text("inputs that are an object", {"inputs": {"x": [1.0]}}, "'inputs': must be a valid list"),
    text("an input that is a number", {"inputs": [1]}, "'inputs.0'"),
    text("an input without a name", {"inputs": [{"shape": [1], "datatype": "FP64", "data": [1]}]}, "'inputs.0.name'"),
    text("many wrong inputs", {"inputs": [{}] * 10_000}, "'inputs.0.name': is missing"),
    text("a name that is a number", infer({**X, "name": 1}), "'inputs.0.name'"),
    text("an id that is a number", infer(id=1), "'id': must be a valid string"),
    text("parameters that are a list", infer(parameters=[1]), "'parameters': must be a valid dictionary"),
    text("outputs that are text", infer(outputs="output"), "'outputs': must be a valid list"),
    text("an output without a name", infer(outputs=[{}]), "'outputs.0.name': is missing"),
    # shapes
    data("no shape", {"name": "x", "datatype": "FP64", "data": [1.0]}, "'inputs.0.shape': is missing"),
    data("negative shape", one("x", 1.0, shape=[-1]), "'inputs.0.shape.0'", "greater than or equal to 0"),
    data("fractional shape", one("x", 1.0, shape=[1.5]), "'inputs.0.shape.0'", "integer"),
    data("whole shape written as a float", one("x", 1.0, shape=[1.0]), "'inputs.0.shape.0'", "integer"),
    data("truth value as a shape", one("x", 1.0, shape=[True]), "'inputs.0.shape.0'", "integer"),
    data("text as a shape", one("x", 1.0, shape=["1"]), "'inputs.0.shape.0'", "integer"),
    data("shape that is a number", one("x", 1.0, shape=1), "'inputs.0.shape': must be a valid list"),
    data("shape of 2**63", one("x", 1.0, shape=[2**63]), "'inputs.0.shape.0'", "less than"),
    data("shape of 2**64", one("x", 1.0, shape=[2**64]), "'inputs.0.shape.0'"),
    data("shape whose product overflows", one("x", 1.0, shape=[2**32, 2**32]), "'x'", "expected 18446744073709551616"),
    data("too many dimensions", one("x", 1.0, shape=[1] * 33), "'inputs.0.shape'", "at most 32"),
    data("shape without dimensions", one("x", 1.0, shape=[]), "'x'", "first dimension must be the rows"),
    data("wrong text without dimensions", one("x", "a", shape=[]), "'x'", "first dimension must be the rows"),
    data("no rows of one column", {**X, "shape": [0], "data": []}, "differ in length", "x: 0", "n: 1"),
    data("no rows of any size", {**X, "shape": [0, 2**62, 2**62], "data": []}, "'x'", "no values"),
    data("rows without values", {**X, "shape": [2**40, 0], "data": []}, "'x'", "no values"),
    data("many rows without values", {**X, "shape": [2**16, 0], "data": []}, "65536 rows", status=413),
    data("wrong rank", one("x", 1.0, shape=[1, 1, 1]), "'x'", "[1, 1, 1]"),
    data("two values for one row", {**X, "shape": [1, 2], "data": [1, 2]}, "'x'", "[1, 2]"),
    data("unequal row counts", {**X, "shape": [2], "data": [1, 2]}, "differ in length", "x: 2", "n: 1"),
    text(
        "too many rows",
        {"inputs": [{**item, "shape": [1001], "data": item["data"] * 1001} for item in (X, N, S)]},
        "1001 rows",
        "at most 1000",
        status=413,
    ),
    text(
        "too many columns",
        {"inputs": [one(f"c{n}", 1.0) for n in range(101)]},
        "101 columns",
        "at most 100",
        status=413,
        path="/v2/models/any/infer",
    ),
    # values in JSON
    data("no data", {"name": "x", "datatype": "FP64", "shape": [1]}, "'x'", "neither 'data' nor"),
    data("null data", {**X, "data": None}, "'x'", "neither 'data' nor"),
    data("data that is a number", {**X, "data": 1.0}, "'inputs.0.data': must be a valid list"),
    data("too few values", {**X, "shape": [2]}, "'x'", "has 1 values, expected 2"),
    data("too many values", {**X, "data": [1, 2]}, "'x'", "has 2 values, expected 1"),
    data("ragged data", {**X, "shape": [2, 2], "data": [[1, 2], [3]]}, "'x'", "row 1"),
    data("lists beside values", {**X, "shape": [2, 1], "data": [[1], 2]}, "'x'", "row 1"),
    data("nesting that contradicts the shape", {**X, "shape": [2, 1], "data": [[1, 2]]}, "'x'", "the shape [1, 2]"),
    data("no datatype", {"name": "x", "shape": [1], "data": [1.0]}, "'inputs.0.datatype': is missing"),
    data("unknown datatype", one("x", 1.0, "FP128"), "'inputs.0.datatype'", "'FP64'"),
    data("datatype in small letters", one("x", 1.0, "fp64"), "'inputs.0.datatype'", "'FP64'"),
    data("datatype without a form in JSON", one("x", 1.0, "BF16"), "'x'", "BF16", "binary data"),
    data("text among numbers", one("x", "1.0"), "'x'", "row 0", "'1.0'", "a number (FP64)"),
    data("truth value among numbers", one("x", True), "'x'", "row 0 is true"),
    data("object among numbers", one("x", {"a": 1}), "'x'", "row 0"),
    data("number beyond its datatype", one("x", 1e39, "FP32"), "'x'", "1e+39", "FP32"),
    data("NaN where an integer is due", one("n", None, "FP64"), "'n'", "row 0 is nan", "whole number"),
    data("null among integers", one("n", None, "INT64"), "'n'", "row 0 is null"),
    data("fraction where an integer is due", one("n", 1.5), "'n'", "row 0 is 1.5", "whole number"),
    data("fraction among integers", one("n", 1.5, "INT64"), "'n'", "row 0 is 1.5", "(INT64)"),
    data("integer beyond its datatype", one("n", 300, "UINT8"), "'n'", "row 0 is 300", "from 0 to 255"),
    data("integer beyond its column", one("n", 2**63, "UINT64"), "'n'", "9223372036854775808", "(long)"),
    data("integer below its datatype", one("n", -1, "UINT64"), "'n'", "row 0 is -1"),
    data("number among truth values", one("x", 1, "BOOL"), "'x'", "row 0 is 1", "true or false"),
    data("truth values for a column of numbers", one("x", True, "BOOL"), "'x'", "row 0 is true", "(double)"),
    data("text for a column of numbers", one("x", "1", "BYTES"), "'x'", "row 0 is '1'", "(double)"),
    data("numbers for a column of text", one("s", 1), "'s'", "row 0 is 1.0", "a string"),
    data("number among text", one("s", 1, "BYTES"), "'s'", "row 0 is 1", "a string"),
    # values as bytes
    tail("both data and a binary size", raw(8, FP64, data=[1.0]), "'x'", "both 'data' and"),
    tail("too few bytes for the shape", raw(7, FP64[:7]), "'x'", "7 bytes, expected 8"),
    tail("too many bytes for the shape", raw(16, FP64 * 2), "'x'", "16 bytes, expected 8"),
    tail("fewer bytes than the size", raw(8, FP64[:7]), "'x'", "size of 8", "only 7 bytes"),
    tail("no bytes behind the JSON", raw(8, b""), "'x'", "only 0 bytes"),
    tail("leftover bytes", raw(8, FP64 + b"\0"), "1 bytes follow the last tensor"),
    text("leftover bytes and no tensors", BODY + b"\0", "1 bytes follow", headers={HEADER: str(len(BODY))}),
    text("binary size without a header", raw(8, b"")["content"], "'x'", "only 0 bytes"),
    tail("negative binary size", raw(-8, FP64), "'x'", "'binary_data_size' must be a whole number"),
    tail("fractional binary size", raw(8.0, FP64), "'x'", "'binary_data_size' must be a whole number"),
    tail("text as a binary size", raw("8", FP64), "'x'", "'binary_data_size' must be a whole number"),
    tail("truth value as a binary size", raw(True, FP64), "'x'", "'binary_data_size' must be a whole number"),
    tail("huge binary size", raw(2**63, FP64), "'x'", "size of 9223372036854775808"),
    tail("binary shape whose bytes overflow", raw(8, FP64, shape=[2**61 + 1]), "'x'", "expected 18446744073709551624"),
    tail("binary shape whose bytes overflow to none", raw(0, b"", shape=[2**61]), "'x'", "has 0 bytes"),
    tail("binary rows without values", raw(0, b"", shape=[2**40, 0], datatype="BOOL"), "'x'", "no values"),
    tail("binary without dimensions", raw(8, FP64, shape=[]), "'x'", "first dimension must be the rows"),
    tail("a byte that is no truth value", raw(1, b"\x07", datatype="BOOL"), "'x'", "other than 0 and 1"),
    tail("bytes that are no UTF-8", raw(5, encode_elements([b"\xff"]), datatype="BYTES"), "'x'", "UTF-8"),
    tail("element that is cut", raw(7, b"\x04\0\0\0abc", datatype="BYTES"), "'x'", "element 0 of 4 bytes"),
    tail("length of an element that is cut", raw(3, b"\x04\0\0", datatype="BYTES"), "'x'", "too few"),
    tail("hostile length of an element", raw(4, b"\xff\xff\xff\xff", datatype="BYTES"), "'x'", "4294967295 bytes"),
    tail("bytes after the last element", raw(6, b"\x01\0\0\0ab", datatype="BYTES"), "'x'", "1 bytes after its 1"),
    tail("more elements than bytes", raw(4, bytes(4), datatype="BYTES", shape=[2**62]), "'x'", "too few"),
    tail("infinity where the column is narrower", raw(8, struct.pack("<d", 1e39), name="f"), "'f'"),
    # names
    text("twice the same input", {"inputs": [X, X, N, S]}, "input 'x' is there twice"),
    text("twice the same output", infer(outputs=[{"name": "y"}, {"name": "y"}]), "output 'y' is there twice"),
    text("a missing input", {"inputs": [X, N]}, "lacks 's'"),
    text("an input that is not the model's", infer(one("z", 1.0)), "'z'", "not among the columns 'x', 'n', 's'"),
    text("a misspelt input", {"inputs": [X, N, S, one("xx", 1.0)]}, "did you mean 'x'"),
    text("an output that is not the model's", infer(outputs=[{"name": "z"}]), "no output 'z'", "y", reaches=True),
    text("one tensor of another width", {"inputs": [{**X, "name": "all", "shape": [1, 4], "data": [1] * 4}]}, "'all'"),
    # parameters
    text(
        "a size of output that is no truth value", infer(parameters={"binary_data_output": 1}), "'binary_data_output'"
    ),
    text("binary_data_output that is text", infer(parameters={"binary_data_output": "true"}), "'binary_data_output'"),
    text("binary_data that is text", infer(outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]), "'y'"),
    text("a negative timeout", infer(parameters={"timeout": -1}), "'timeout'"),
    text("a fractional timeout", infer(parameters={"timeout": 1.5}), "'timeout'"),
    text("text as a timeout", infer(parameters={"timeout": "1000"}), "'timeout'"),
    text("a truth value as a timeout", infer(parameters={"timeout": True}), "'timeout'"),
    text("a deadline that is no number", infer(), "x-request-timeout", headers={"x-request-timeout-seconds": "soon"}),
    text("a sequence", infer(parameters={"sequence_id": 7, "sequence_start": True}), "sequences", status=501),
    text("a sequence by name", infer(parameters={"sequence_id": "a"}), "sequences", status=501),
    data("shared memory", {**X, "parameters": {"shared_memory_region": "r"}}, "'x'", "'shared_memory", status=501),
    text(
        "shared memory for an output",
        infer(outputs=[{"name": "y", "parameters": {"shared_memory_region": "r"}}]),
        "'y'",
        "'shared_memory_region'",
        status=501,
    ),
    text(
        "classification",
        infer(outputs=[{"name": "y", "parameters": {"classification": 3}}]),
        "'y'",
        "'classification'",
        status=501,
    ),
    # references
    text("unknown model", infer(), "'gold'", status=404, path="/v2/models/gold/infer"),
    text("unknown version", infer(), "'m/versions/9'", status=404, path="/v2/models/m/versions/9/infer"),
    text("unknown alias as a version", infer(), "'m@old'", status=404, path="/v2/models/m/versions/old/infer"),
    text("unknown alias", infer(), "'m@old'", status=404, path="/v2/models/m@old/infer"),
    text("no version", infer(), "'/versions/' is missing", path="/v2/models/m/versions//infer"),
    text("an alias that is none", infer(), "not an alias", path="/v2/models/m/versions/a.b/infer"),
    text("a version of an alias", infer(), "'m@new/versions/1'", status=404, path="/v2/models/m@new/versions/1/infer"),
    text("no model", infer(), "not a model name", path="/v2/models//infer"),
    text("a path as a model", infer(), "not understood", path="/v2/models/a/b/infer"),
    text("a version that is too long", infer(), "not a model version", path=f"/v2/models/m/versions/{'9' * 30}/infer"),
    # the other endpoints
    text("an index that is no object", [], "must be a JSON object", path="/v2/repository/index"),
    text("an index by text", {"ready": "yes"}, "'ready'", path="/v2/repository/index"),
    text("parameters of a load", {"parameters": []}, "'parameters'", path="/v2/repository/models/m/load"),
    text(
        "a load with files", {"parameters": {"config": ""}}, "registry", status=501, path="/v2/repository/models/m/load"
    ),
]

# --- /serve, /v1 and MLflow --------------------------------------------------------------------------------------

ROW = {"x": 1.0, "n": 2, "s": "a"}
ROWS_TOO_MANY = [ROW] * 1001


def rows(wrap: Callable[[list[Any]], Any], path: str, *, unknown: Callable[[str], tuple[str, Any]]) -> list[Wrong]:
    """What can be wrong in every dialect that takes rows as objects."""
    described: list[tuple[str, list[Any], tuple[str, ...], int]] = [
        ("no rows", [], ("no rows",), 400),
        ("a row that is a number", [ROW, 5], ("row 1", "5"), 400),
        ("a row that is null", [ROW, None], ("row 1", "null"), 400),
        ("a missing column", [{"x": 1.0, "n": 2}], ("'s'",), 400),
        ("a missing column in one row", [ROW, {"x": 1.0, "n": 2}], ("row 1", "'s'"), 400),
        ("a column that is not the model's", [{**ROW, "z": 1}], ("'z'",), 400),
        ("a misspelt column", [ROW, {**ROW, "xx": 1}], ("'xx'", "did you mean 'x'"), 400),
        ("text among numbers", [ROW, {**ROW, "x": "1.0"}], ("'x'", "row 1", "'1.0'"), 400),
        ("a truth value among numbers", [{**ROW, "x": True}], ("'x'", "row 0", "true"), 400),
        ("a list for a value", [{**ROW, "x": [1.0]}], ("'x'",), 400),
        ("a number among text", [{**ROW, "s": 1}], ("'s'", "row 0", "a string"), 400),
        ("null among integers", [{**ROW, "n": None}], ("'n'", "row 0", "null"), 400),
        ("a fraction among integers", [{**ROW, "n": 1.5}], ("'n'", "row 0", "1.5"), 400),
        ("an integer out of range", [{**ROW, "n": 2**63}], ("'n'", "row 0", "9223372036854775808"), 400),
        ("an integer beyond 64 bits", [{**ROW, "n": 2**70}], ("'n'", "row 0"), 400),
        ("too many rows", ROWS_TOO_MANY, ("1001 rows",), 413),
    ]
    cases = [Wrong(name, wrap(given), words, status, path) for name, given, words, status in described]
    good = json.dumps(wrap([ROW])).encode()
    bodies: list[tuple[str, bytes, tuple[str, ...], int, dict[str, str]]] = [
        ("empty body", b"", ("empty",), 400, {}),
        ("not JSON", b"{", ("not valid JSON",), 400, {}),
        ("a list", b"[]", ("JSON object",), 400, {}),
        ("NaN in JSON", good.replace(b"1.0", b"NaN"), ("not valid JSON",), 400, {}),
        ("deep JSON", good.replace(b"1.0", b"[" * 20 + b"]" * 20), ("deeper than 16",), 400, {}),
        ("too large", b" " * 1_000_001, ("larger than",), 413, {}),
        ("gzip that is cut", gzip.compress(good)[:-9], ("incomplete",), 400, {"content-encoding": "gzip"}),
        ("unknown content-encoding", good, ("'br'",), 415, {"content-encoding": "br"}),
        (
            "a deadline that is no number",
            good,
            ("x-request-timeout-seconds",),
            400,
            {"x-request-timeout-seconds": "-1"},
        ),
    ]
    cases += [Wrong(name, body, words, status, path, headers) for name, body, words, status, headers in bodies]
    for name, ref, status in (
        ("unknown model", "gold", 404),
        ("unknown alias", "m@old", 404),
        ("a bad name", "a:b", 400),
    ):
        where, body = unknown(ref)
        cases.append(Wrong(name, body, (ref,), status, where))
    return cases


def ref_in_path(prefix: str, suffix: str, body: Any) -> Callable[[str], tuple[str, Any]]:
    return lambda ref: (f"{prefix}{ref}{suffix}", body)


V1 = [
    *rows(
        lambda given: {"instances": given},
        "/v1/models/m:predict",
        unknown=ref_in_path("/v1/models/", ":predict", {"instances": [ROW]}),
    ),
    Wrong("no form of input", {}, ("exactly one of",), path="/v1/models/m:predict"),
    Wrong("two forms", {"instances": [ROW], "inputs": ROW}, ("exactly one of",), path="/v1/models/m:predict"),
    Wrong("unknown key", {"instance": [ROW]}, ("'instance': is not a key",), path="/v1/models/m:predict"),
    Wrong("uneven columns", {"inputs": {"x": [1], "n": [1, 2], "s": ["a"]}}, ("n: 2",), path="/v1/models/m:predict"),
]
SERVE = [
    *rows(
        lambda given: {"model_name": "m", "data": given},
        "/serve",
        unknown=lambda ref: ("/serve", {"model_name": ref, "data": [ROW]}),
    ),
    Wrong("no model", {"data": [ROW]}, ("'model_name': is missing",), path="/serve"),
    Wrong("no data", {"model_name": "m"}, ("'data' is missing",), path="/serve"),
    Wrong("unknown key", {"model_name": "m", "dat": [ROW]}, ("'dat': is not a key",), path="/serve"),
]


def mlflow_csv(name: str, body: bytes, *words: str, status: int = 400, kind: str = "text/csv") -> Wrong:
    return Wrong(name, body, words, status, "/invocations/m", {"content-type": kind})


MLFLOW = [
    *(
        wrong
        for wrong in rows(
            lambda given: {"dataframe_records": given},
            "/invocations/m",
            unknown=ref_in_path("/models/", "/invocations", {"dataframe_records": [ROW]}),
        )
        if wrong.name != "NaN in JSON"  # which MLflow's clients send
    ),
    Wrong("no form of input", {}, ("exactly one of",), path="/invocations/m"),
    Wrong("two forms", {"inputs": ROW, "instances": [ROW]}, ("'instances' and 'inputs'",), path="/invocations/m"),
    Wrong("unknown key", {"dataframe_record": [ROW]}, ("'dataframe_record': is not a key",), path="/invocations/m"),
    Wrong(
        "a split row of another width",
        {"dataframe_split": {"columns": ["x", "n", "s"], "data": [[1.0, 2, "a"], [1.0, 2]]}},
        ("row 1", "has 2 values", "3"),
        path="/invocations/m",
    ),
    Wrong(
        "a split column twice",
        {"dataframe_split": {"columns": ["x", "n", "x"], "data": [[1.0, 2, 1.0]]}},
        ("'x'", "2 times"),
        path="/invocations/m",
    ),
    Wrong(
        "parameters that are a list", {"dataframe_records": [ROW], "params": [1]}, ("'params'",), path="/invocations/m"
    ),
    Wrong("an unknown parameter", {"dataframe_records": [ROW], "params": {"a": 1}}, ("'a'",), path="/invocations/m"),
    Wrong("no default model", {"dataframe_records": [ROW]}, ("default model",), 404, "/invocations"),
    mlflow_csv("a CSV without a column", b"x,n\n1.0,2\n", "'s'"),
    mlflow_csv("text in a CSV", b"x,n,s\n1.0,2,a\none,2,a\n", "'x'", "row 1", "'one'"),
    mlflow_csv("a ragged CSV", b"x,n,s\n1.0,2\n", "CSV"),
    mlflow_csv("an empty CSV", b"", "empty"),
    mlflow_csv("Parquet that is none", BODY, "Parquet", kind="application/vnd.apache.parquet"),
    mlflow_csv("another content type", BODY, "'text/html'", status=415, kind="text/html"),
    mlflow_csv("another charset", BODY, "charset", status=415, kind="application/json; charset=latin-1"),
]

DIALECTS: dict[str, tuple[list[Wrong], Callable[[Any], str]]] = {
    "v2": (OIP, fault_v2),
    "v1": (V1, fault_v2),
    "serve": (SERVE, fault_serve),
    "mlflow": (MLFLOW, fault_mlflow),
}
CASES = [(dialect, wrong) for dialect, (table, _) in DIALECTS.items() for wrong in table]


# --- the models, and good requests ---------------------------------------------------------------------------------


def gateway(**more: Any) -> Fakes:
    """`m` takes `x` (double), `n` (long) and `s` (string) and answers `y`, the double of x; `any` takes anything."""
    inputs = [*columns("x"), *columns("n", type="long"), *columns("s", type="string")]
    outputs = [{"type": "double", "name": "y"}]
    double = FakeModel(lambda batch: tensor(batch.arrays[0] * 2), inputs, outputs)
    anything = FakeModel(lambda batch: tensor(np.zeros(batch.count)))
    return make_fakes({"m": double, "any": anything}, aliases={"m": {"new": "1"}}, **more)


async def send(client: httpx.AsyncClient, wrong: Wrong) -> httpx.Response:
    headers = {"content-type": "application/json", **wrong.headers}
    return await client.post(wrong.path, content=wrong.body, headers=headers)


def check(dialect: str, wrong: Wrong, answer: httpx.Response) -> None:
    """The answer is the dialect's, has the status, and says what is wrong."""
    assert answer.status_code == wrong.status, (wrong.name, answer.text)
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    message = DIALECTS[dialect][1](body)
    assert all(word in message for word in wrong.words), (wrong.name, message)
    assert len(message) < LONGEST
    assert body["request_id"] == answer.headers["x-request-id"]


def good_requests(client: httpx.AsyncClient) -> Iterable[tuple[Any, float]]:
    """Requests that are right and what their answer must be; of every dialect in turn."""
    for index in range(GOOD):
        x = SENTINEL + index
        row = {"x": x, "n": 2, "s": "a"}
        request: dict[str, Any]
        match index % 5:
            case 0:
                request = {"url": "/v2/models/m/infer", "json": infer(one("x", x))}
            case 1:
                request = {"url": "/v2/models/m/infer", **raw(8, struct.pack("<d", x))}
            case 2:
                request = {"url": "/v1/models/m:predict", "json": {"instances": [row]}}
            case 3:
                request = {"url": "/serve", "json": {"model_name": "m", "data": row}}
            case _:
                request = {"url": "/invocations/m", "json": {"dataframe_records": [row]}}
        yield client.post(**request), 2 * x


def value(body: Any) -> Any:
    """The only prediction in an answer of any dialect."""
    if "outputs" in body:
        return body["outputs"][0]["data"][0]
    return body.get("predictions", body.get("prediction"))[0]


def test_the_tables_hold_what_they_should() -> None:
    assert len(OIP) >= 40
    for table, _ in DIALECTS.values():
        names = [wrong.name for wrong in table]
        assert len({*names}) == len(names)
        assert all(400 <= wrong.status < 500 or wrong.status == 501 for wrong in table)


@pytest.mark.parametrize(("dialect", "wrong"), CASES, ids=[f"{dialect}: {wrong.name}" for dialect, wrong in CASES])
async def test_a_wrong_request_is_told_what_is_wrong(connect: Connect, dialect: str, wrong: Wrong) -> None:
    fakes = gateway()
    check(dialect, wrong, await send(connect(fakes), wrong))
    assert bool(fakes.runner.batches) == wrong.reaches
    assert fakes.service.admission.requests == 0


@pytest.mark.parametrize("delay_s", [0.0, 0.01], ids=["at once", "while batches wait"])
async def test_wrong_requests_touch_no_good_one(connect: Connect, delay_s: float) -> None:
    more = {"queued_requests": 10_000, "queued_requests_per_model": 10_000}
    fakes = gateway(limits=LIMITS.model_copy(update=more))
    fakes.runner.delay_s = delay_s
    client = connect(fakes)
    good = list(good_requests(client))
    every = max(1, len(CASES) // len(good))
    mixed: list[Any] = []
    for index, (_, wrong) in enumerate(CASES):
        if index % every == 0 and index // every < len(good):
            mixed.append(good[index // every][0])
        mixed.append(send(client, wrong))
    answers = await asyncio.gather(*mixed)
    wrongs, right = iter(CASES), iter(good)
    for index, answer in enumerate(answers):
        if answer.status_code == 200:
            assert value(answer.json()) == next(right)[1], (index, answer.text)
        else:
            dialect, wrong = next(wrongs)
            check(dialect, wrong, answer)
    assert next(wrongs, None) is None
    assert next(right, None) is None
    seen = [x for _, batch in fakes.runner.batches for x in batch.arrays[0].tolist()]
    reaching = sum(wrong.reaches for _, wrong in CASES)
    assert sorted(x for x in seen if x >= SENTINEL) == [SENTINEL + index for index in range(len(good))]
    assert len(seen) == len(good) + reaching
    assert len(fakes.runner.batches) < len(seen)
    assert not any(math.isnan(x) for x in seen)
    assert fakes.service.admission.requests == 0
