import gzip
import zlib

import orjson
import pytest

from tests.connect import Connect
from tests.fakes import HTTP_LIMITS, make_fakes, total

BODY = orjson.dumps({"model_name": "prices", "data": {"oil": 75.5, "gas": 3.2}})


MEMBERS = b"".join(gzip.compress(BODY[start : start + 9], mtime=0) for start in range(0, len(BODY), 9))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(BODY, mtime=0)),
        ("GZip", gzip.compress(BODY, mtime=0)),
        ("x-gzip", gzip.compress(BODY, mtime=0)),
        ("gzip", MEMBERS),
        ("gzip", gzip.compress(BODY, mtime=0) + gzip.compress(b"", mtime=0) * 1000),
        ("deflate", zlib.compress(BODY)),
        ("Deflate", zlib.compress(BODY)),
        ("identity", BODY),
        ("Identity", BODY),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
async def test_compressed_bodies_are_read(connect: Connect, encoding: str, body: bytes) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    answer = await client.post("/serve", content=body, headers={"content-encoding": encoding})
    assert answer.json()["prediction"] == [78.7]


async def test_large_responses_are_compressed_on_request(connect: Connect) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    rows = [{"oil": 1 / (n + 3), "gas": 1} for n in range(500)]
    rows += [{"oil": 1 / (n + 1), "gas": 0} for n in range(500)]
    body = {"model_name": "prices", "data": rows}
    plain = await client.post("/serve", json=body, headers={"accept-encoding": "identity"})
    packed = await client.post("/serve", json=body, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert len(plain.content) >= HTTP_LIMITS.gzip_bytes
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json()["prediction"] == plain.json()["prediction"]


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("*", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0, *;q=0.1", "deflate"),
        ("br", None),
        ("gzip;q=high", None),
        ("", None),
    ],
)
async def test_large_responses_use_the_accepted_encoding(connect: Connect, accepted: str, encoding: str | None) -> None:
    client = connect(make_fakes({"prices": total("oil", "gas")}))
    body = {"model_name": "prices", "data": [{"oil": row + 0.123456789012345, "gas": 0} for row in range(1000)]}
    answer = await client.post("/serve", json=body, headers={"accept-encoding": accepted})
    assert len(answer.content) >= HTTP_LIMITS.gzip_bytes
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert len(answer.json()["prediction"]) == 1000
