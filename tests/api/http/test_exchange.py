import gzip
import math
import zlib
from codecs import BOM_UTF8

import orjson
import pytest

from app.api.http.json_text import parse_json
from app.errors import MalformedBody
from tests.connect import Connect
from tests.cpu import within_cpu_seconds
from tests.fakes import make_fakes, total

BODY = orjson.dumps({"model_name": "prices", "data": {"oil": 75.5, "gas": 3.2}})


@pytest.mark.parametrize(
    ("headers", "body", "status", "words"),
    [
        ({"content-encoding": "br"}, BODY, 415, "use gzip, deflate or identity"),
        ({"content-encoding": "gzip"}, BODY, 400, "not valid gzip"),
        ({"content-encoding": "gzip"}, gzip.compress(BODY, mtime=0)[:-20], 400, "incomplete"),
        ({"content-encoding": "gzip"}, gzip.compress(b"0" * 2_000_000), 413, "larger than"),
        ({"content-encoding": "gzip"}, gzip.compress(b"0" * 500_000) * 4, 413, "larger than"),
        ({"content-encoding": "gzip"}, gzip.compress(BODY, mtime=0) + b"more", 400, "not valid gzip"),
        ({"content-encoding": "deflate"}, zlib.compress(BODY)[:-9], 400, "incomplete"),
        ({"content-encoding": "deflate"}, zlib.compress(BODY) + b"more", 400, "4 bytes follow"),
        ({"content-encoding": "x-deflate"}, zlib.compress(BODY), 415, "use gzip, deflate or identity"),
        ({"content-encoding": "gzip, gzip"}, BODY, 415, "use gzip, deflate or identity"),
        ({}, b"0" * 2_000_000, 413, "larger than"),
        ({}, b"", 400, "empty"),
        ({}, b'{"model_name": ', 400, "not valid JSON"),
        ({}, b'{"model_name": "prices", "data": {"oil": NaN, "gas": 1}}', 400, "not valid JSON"),
        ({}, b"\xff\xfe", 400, "not valid JSON"),
        ({}, BOM_UTF8 * 100_000 + BODY, 400, "not valid JSON"),
        ({}, b'{"data": ' + b"[" * 50 + b"]" * 50 + b"}", 400, "nested deeper than 16"),
        ({}, b"[" * 100_000 + b"]" * 100_000, 400, "JSON"),
    ],
)
async def test_an_unreadable_body_is_refused(
    connect: Connect, headers: dict[str, str], body: bytes, status: int, words: str
) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    answer = await client.post("/serve", content=body, headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/serve", "/v1/models/prices:predict", "/invocations/prices", "/v2/models/prices/infer"]
)
async def test_a_byte_order_mark_may_come_first(connect: Connect, path: str) -> None:
    client = connect(make_fakes({"prices": total("oil")}))
    tensor = {"name": "oil", "datatype": "FP64", "shape": [1], "data": [75.5]}
    bodies = {
        "/serve": {"model_name": "prices", "data": {"oil": 75.5}},
        "/v1/models/prices:predict": {"instances": [{"oil": 75.5}]},
        "/invocations/prices": {"dataframe_records": [{"oil": 75.5}]},
        "/v2/models/prices/infer": {"inputs": [tensor]},
    }
    answer = await client.post(path, content=BOM_UTF8 + orjson.dumps(bodies[path]))
    assert answer.status_code == 200, answer.text
    assert "75.5" in answer.text


async def test_a_chunked_body_has_the_same_limit(connect: Connect) -> None:
    async def parts(count: int):  # type: ignore[no-untyped-def]
        for _ in range(count):
            yield b" " * 100_000
        yield BODY

    client = connect(make_fakes({"prices": total("oil", "gas")}))
    assert (await client.post("/serve", content=parts(2))).json()["prediction"] == [78.7]
    assert (await client.post("/serve", content=parts(20))).status_code == 413


@pytest.mark.parametrize("given", [b"", b"x" * 200, b"sp\xe4\xdf", b"a\tb"])
async def test_an_invalid_request_id_is_replaced(connect: Connect, given: bytes) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    answer = await client.post("/serve", content=BODY, headers=[(b"x-request-id", given)])
    assert answer.headers["x-request-id"].encode("latin-1") not in (given, b"")


def test_a_flat_body_with_many_brackets_is_not_deep() -> None:
    assert len(parse_json(b"[" + b",".join([b"[1]"] * 1000) + b"]", 3)) == 1000
    assert parse_json(orjson.dumps(["[" * 100]), 3) == ["[" * 100]
    with pytest.raises(MalformedBody):
        parse_json(b"[[[[1]]]]", 3)
    assert parse_json(b"[[[1]]]", 3) == [[[1]]]


@pytest.mark.parametrize("begin", [b'NaN"', b'[NaN, "', b'{"a": Infinity, "b": "'])
@pytest.mark.parametrize("end", [b"", b"\\"])
def test_a_text_without_an_end_is_read_once(begin: bytes, end: bytes) -> None:
    """Quadratic, a megabyte would take an hour."""
    with within_cpu_seconds(20), pytest.raises(MalformedBody):
        parse_json(begin + b'\\"' * 500_000 + end, 64, constants=True)


def test_constants_in_texts_stay() -> None:
    body = b'{"a": [NaN, "NaN \\" -Infinity\\\\", -Infinity], "b": Infinity}'
    assert parse_json(body, 64, constants=True) == {"a": [None, 'NaN " -Infinity\\', -math.inf], "b": math.inf}
