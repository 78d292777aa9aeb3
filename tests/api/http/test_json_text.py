"""The cost of JSON: bounded bytes, bounded containers, and time that grows with the length only."""

from __future__ import annotations

import gc
import time

import orjson
import pytest

from app.api.http.exchange import HttpLimits
from app.api.http.json_text import parse_json
from app.errors import MalformedBody, TooLarge
from tests.connect import Connect
from tests.fakes import make_fakes, total

MEGABYTE = 10**6
SHAPES = {
    "numbers": b"75.51234,",
    "arrays": b"[1],",
    "objects": b'{"a":1},',
    "constants": b"NaN,-Infinity,",
    "texts": b'"a\\u00e9NaN",',
    "escapes": b'"' + b"\\n" * 20 + b'",',
}


def body(item: bytes, nbytes: int) -> bytes:
    return b"[" + item * (nbytes // len(item)) + b"NaN]"


def cpu_seconds(text: bytes) -> float:
    """The CPU time to parse, without collections of garbage, which look at all objects of the tests' process."""
    gc.disable()
    try:
        started = time.process_time()
        parse_json(text, 8, constants=True)
        return time.process_time() - started
    finally:
        gc.enable()


@pytest.mark.parametrize("item", SHAPES.values(), ids=SHAPES.keys())
def test_time_grows_with_the_length_only(item: bytes) -> None:
    short, long = body(item, MEGABYTE // 8), body(item, MEGABYTE)
    once = min(cpu_seconds(short) for _ in range(3))
    assert min(cpu_seconds(long) for _ in range(3)) < 32 * once  # 8 where it is linear, and 64 where it is quadratic


def test_more_containers_than_rows_can_have_are_refused_unread() -> None:
    for item in (b"[],", b"{},", b'{"a":[]},'):
        with pytest.raises(TooLarge, match="more than 1000000 arrays and objects"):
            parse_json(body(item, 10 * MEGABYTE), 8, constants=True)
    assert len(parse_json(b"[" + b"[]," * 900_000 + b"1]", 8)) == 900_001
    assert parse_json(orjson.dumps(["[" * 900_000]), 8) == ["[" * 900_000]


@pytest.mark.parametrize(
    "text",
    [b'[NaN, "\\ud800"]', b'[NaN, "\xff"]', b"[-NaN]", b"[NaNs]", b"[nan, NaN]", b'[NaN, "\\uNaN0"]', b"[NaN", b'NaN"'],
)
def test_constants_make_nothing_else_valid(text: bytes) -> None:
    with pytest.raises(MalformedBody):
        parse_json(text, 8, constants=True)


@pytest.mark.parametrize(
    ("path", "row"),
    [
        ("/serve", {"model_name": "prices", "data": {"oil": 1.0}}),
        ("/v1/models/prices:predict", {"instances": [{"oil": 1.0}]}),
        ("/invocations/prices", {"dataframe_records": [{"oil": 1.0}]}),
        ("/v2/models/prices/infer", {"inputs": [{"name": "oil", "shape": [1], "datatype": "FP64", "data": [1.0]}]}),
    ],
)
async def test_each_dialect_refuses_large_json(connect: Connect, path: str, row: object) -> None:
    limits = HttpLimits(body_bytes=10**6, json_depth=16, timeout_s=10.0, json_bytes=1000)
    client = connect(make_fakes({"prices": total("oil")}, http_limits=limits))
    assert (await client.post(path, json=row)).status_code == 200
    padded = orjson.dumps(row) + b" " * 1000
    answer = await client.post(path, content=padded, headers={"content-type": "application/json"})
    assert (answer.status_code, "JSON is larger than 1000 bytes" in answer.text) == (413, True)


async def test_other_formats_may_be_larger(connect: Connect) -> None:
    limits = HttpLimits(body_bytes=10**6, json_depth=16, timeout_s=10.0, json_bytes=1000)
    client = connect(make_fakes({"prices": total("oil")}, http_limits=limits))
    rows = "oil\n" + "1.0\n" * 500
    answer = await client.post("/invocations/prices", content=rows, headers={"content-type": "text/csv"})
    assert len(answer.json()["predictions"]) == 500
