"""Valid and wrong requests that the fuzzer starts from, as the bytes that each target reads, and its dictionary."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet as arrow_parquet

from app.lanes.frames import Kind, encode
from app.oip import inference_pb2 as pb
from tests.contract.test_wrong_requests import MLFLOW, OIP, SERVE, V1, infer, raw
from tests.fuzz.gateway import NAMES
from tests.fuzz.targets import TARGETS

FINDINGS = Path(__file__).parent / "findings"
_MOST = 4096
_ROW: dict[str, Any] = {"x": 1.0, "n": 2, "s": "a"}
_TYPED = {
    "boolean": True, "integer": 1, "long": 2, "float": 0.5, "double": 1.5, "string": "a", "binary": "AQID",
    "datetime": "2024-02-29T12:00:00.123456789+01:00",
}  # fmt: skip
_CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


def seeds(target: str) -> list[bytes]:
    """Return the corpus that a target starts from: valid requests, those of the tables, and past findings."""
    return [*_made(target), *findings(target)]


def findings(target: str) -> list[bytes]:
    """Return the inputs on which the product has failed once."""
    return [path.read_bytes() for path in sorted((FINDINGS / target).glob("*"))]


def words() -> list[bytes]:
    """Return the dictionary: keys, names and marks of every format."""
    keys = {key for body in (*_bodies("/"), infer(), _TYPED, _CHAT) if isinstance(body, dict) for key in body}
    texts = [
        *keys, *NAMES, "dataframe_split", "dataframe_records", "instances", "inputs", "entities", "columns", "index",
        "feature_view", "daily", "datatype", "FP64", "INT64", "BYTES", "BOOL", "BF16", "shape", "parameters",
        "binary_data_size", "binary_data_output", "timeout", "@new", "/versions/1", "NaN", "Infinity", "-Infinity",
        "null", "true", "1e400", "9223372036854775808", "\\ud800", "\\u0000", "[[", "]]", "{}", "[]", "0.5",
        "content-type", "text/csv", "; charset=utf-8", "x-request-timeout-seconds", "x-request-id", "x-session-id",
        "authorization", "Bearer ", "x-api-key", "traceparent", "x-ml-serve-proxy-secret", "x-consumer-username",
        "x-consumer-groups", "origin", "inference-header-content-length", "accept-encoding", "KEY", "PAR1", "ARROW",
        "Unnamed: 0", '"', '""', "\r\n", ",", "\xef\xbb\xbf", "exp", "scope", "models", "sub", "alg", "kid", "kty",
        "shadow", "champion", "version", "from", "alias", "force", "action", "load", "use_feature_store", "entity_id",
    ]  # fmt: skip
    return sorted({text.encode("latin-1") for text in texts})


def _made(target: str) -> Iterator[bytes]:
    match target:
        case "json_text":
            yield from (one.body for one in (*OIP, *V1, *MLFLOW) if len(one.body) < _MOST)
            yield b'[NaN, -Infinity, "NaN", 1e400, 123456789012345678901234567890]'
        case "serve" | "encodings":
            bodies = [*map(_dump, _bodies("/serve")), *_wrong(SERVE)]
            yield from bodies if target == "serve" else _packed(bodies[:6])
        case "predict":
            yield from _for_models([*map(_dump, _bodies("/v1")), *_wrong(V1)])
        case "infer_json":
            yield from _for_models([*map(_dump, _bodies("/v2")), *_wrong(OIP)])
        case "infer_binary":
            yield from (b"\0\0" + raw(8, b"\0" * 8)["content"], b"\x08\x01" + b"\0" * 16, *_binary())
        case "infer_message" | "infer_tensors" | "values":
            yield from _messages() if target == "infer_message" else (bytes(range(n, 250, n)) for n in range(1, 12))
            yield from () if target == "infer_message" else (bytes([model, *range(40)]) for model in range(len(NAMES)))
        case "invocations":
            yield from _for_models([*map(_dump, _bodies("/invocations")), *_wrong(MLFLOW)])
        case "csv" | "parquet":
            yield from _for_models([_csv(), b"x\n1\n", b'"a,b",c\r\n"1\n",NA\r\n'] if target == "csv" else _parquets())
        case _:
            yield from _OTHERS.get(target, lambda: [b""])()


def _bodies(path: str) -> Iterator[Any]:
    """Valid bodies of a dialect, or of all of them."""
    if "/serve".startswith(path):
        yield {"model_name": "m", "data": _ROW, "params": None, "model_version": 1}
        yield {"model_name": "m@new", "action": "load", "promote": False}
        yield {"model_name": "m", "use_feature_store": True, "feature_view": "daily", "entity_id": [7]}
        yield {"model_name": "nested", "data": [{"x": [[1.0]], "n": {"k": 1}, "s": {"a": 1, "b": ["c"]}}]}
    if "/v1".startswith(path):
        yield {"instances": [_ROW], "parameters": {"p": 1.0, "when": "2024-01-01", "words": ["a"]}}
        yield {"inputs": {"x": [1.0], "n": [2], "s": ["a"]}}
        yield {"instances": [_TYPED]}
        yield {"instances": [[1.0, 2.0], [3.0, 4.0]]}
        yield {"entities": [{"id": 7}], "feature_view": "daily", "overrides": {"x": [1.0]}}
    if "/v2".startswith(path):
        yield infer(id="seven", parameters={"timeout": 10**6}, outputs=[{"name": "y"}])
        yield infer({"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]})
    if "/invocations".startswith(path):
        yield {"dataframe_split": {"columns": ["x", "n", "s"], "data": [[1.0, 2, "a"]], "index": [0]}}
        yield {"dataframe_records": [_TYPED], "params": {"p": 2}}
        yield {"inputs": [[1.0, 2.0]]}
        yield {"instances": [{"x": [[1.0]], "n": {"k": 1}, "any": {"a": [1, "b"]}, "times": ["2024-01-01"]}]}
        yield _CHAT


def _wrong(table: Any) -> Iterator[bytes]:
    return (one.body for one in table if len(one.body) < _MOST)


def _dump(body: Any) -> bytes:
    return json.dumps(body).encode()


def _for_models(bodies: Any) -> Iterator[bytes]:
    for index, body in enumerate(bodies):
        yield bytes([0]) + body
        yield bytes([1 + index % (len(NAMES) - 1)]) + body


def _packed(bodies: list[bytes]) -> Iterator[bytes]:
    for body in bodies:
        yield b"\0\x04gzip" + gzip.compress(body, mtime=0)
        yield b"\1\x07deflate" + zlib.compress(body)
    yield b"\2\0" + gzip.compress(bodies[0][:9], mtime=0) + gzip.compress(bodies[0][9:], mtime=0)
    yield b"\0\x12br;q=1, *;q=0.5, x" + gzip.compress(b" " * 1_000_001, mtime=0)
    yield b"\3\0" + bodies[0]


def _binary() -> Iterator[bytes]:
    for one in OIP:
        if b"binary_data_size" in one.body:
            yield b"\0\0" + one.body
    text = raw(11, b"")["content"].replace(b"FP64", b"BYTES")
    yield b"\0\0" + text + b"\x03\0\0\0abc\0\0\0\0"


def _messages() -> Iterator[bytes]:
    for contents in (False, True):
        request = pb.ModelInferRequest(model_name="m", id="seven")
        for name, datatype, field, value in (
            ("x", "FP64", "fp64_contents", 1.0),
            ("n", "INT64", "int64_contents", 2),
            ("s", "BYTES", "bytes_contents", b"a"),
        ):
            given = request.inputs.add(name=name, datatype=datatype, shape=[1])
            if contents:
                getattr(given.contents, field).append(value)
            else:
                request.raw_input_contents.append(b"\x01\0\0\0a" if datatype == "BYTES" else b"\0" * 8)
        request.parameters["timeout"].int64_param = 10**6
        request.outputs.add(name="y").parameters["classification"].bool_param = False
        yield request.SerializeToString()
    for model, datatype in (("tensor", "FP32"), ("any", "BF16"), ("any", "FP16"), ("fixed", "INT64")):
        request = pb.ModelInferRequest(model_name=model, raw_input_contents=[b"\0" * 32])
        request.inputs.add(name="x", datatype=datatype, shape=[2, 2])
        yield request.SerializeToString()


def _csv() -> bytes:
    return f"{','.join(_TYPED)},x,n,s\n{','.join(map(str, _TYPED.values()))},1.5,2,a\n".encode()


def _parquets() -> Iterator[bytes]:
    tables: list[dict[str, Any]] = [
        {"x": [1.0, None], "n": [1, 2], "s": ["a", "b"]},
        {"s": pa.array([{"a": 1, "b": "c"}, None]), "any": pa.array(["u", "u"]).dictionary_encode()},
        {"datetime": pa.array(np.array([1, 2], "datetime64[ns]")), "boolean": [True, False]},
    ]
    for columns in tables:
        for compression in ("none", "snappy"):
            file = io.BytesIO()
            arrow_parquet.write_table(pa.table(columns), file, compression=compression)
            yield file.getvalue()
    pandas = b'{"columns": [{"name": "i", "field_name": "i"}], "index_columns": ["i"], "column_indexes": []}'
    file = io.BytesIO()
    arrow_parquet.write_table(pa.table({"x": [1.0], "i": ["a"]}).replace_schema_metadata({"pandas": pandas}), file)
    yield file.getvalue()


def _releases() -> Iterator[bytes]:
    yield b'\0{"new": 90, "champion": 10.0, "shadow": "new"}'
    yield b'\1{"version": "2", "alias": "new", "force": true}'
    yield b'\1{"from": "new"}'
    yield b'\2{"alias": "new"}'
    yield b"\3{}"
    yield b'\4{"ready": true}'
    yield b'\5{"parameters": {"config": "{}", "file:1/model": "AA=="}}'
    yield b'\7{"model_name": "m", "action": "load", "model_version": 2, "promote": true}'


def _references() -> Iterator[bytes]:
    for index, text in enumerate(
        ("m", "m@new", "m/versions/1", "m/versions/new", "a@b@c", "?base=new&other=2", "?base=%ff&base=2", "m:predict")
    ):
        yield from (bytes([path]) + text.encode() for path in range(index % 3, 17, 3))


def _headers() -> Iterator[bytes]:
    yield b"x-request-timeout-seconds: 2.5\nx-request-id: abc\nx-session-id: \xe9\ncontent-type: application/json"
    yield b"content-type: text/csv; charset=utf-8; a=b\naccept-encoding: gzip;q=1, *;q=x\ncontent-length: 53"
    yield b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nhost: [::1]:8000\norigin: http://a"
    yield b"x-request-timeout-seconds: nan\nx-forwarded-for: 1.2.3.4, 5\ncontent-encoding: br"
    yield b"x-request-timeout-seconds: 5\nx-request-timeout-seconds: 1e-9"


def _keys() -> Iterator[bytes]:
    yield b"authorization: Bearer KEY"
    yield b"x-api-key: KEY"
    yield b"authorization: Basic KEY\nx-api-key: KEY"
    yield b"authorization: bearer mls_abcd_" + b"x" * 43
    yield b"x-ml-serve-proxy-secret: " + b"s" * 32 + b"\nx-consumer-username: desk\nx-consumer-groups: predict, manage"


def _tokens() -> Iterator[bytes]:
    yield b"\0eyJhbGciOiJFZERTQSIsImtpZCI6ImVkIn0.e30.AAAA"
    yield b'\1{"alg":"EdDSA","kid":"ed"}.{"sub":"a"}'
    yield b'\1{"alg":"none"}.{}'
    yield b'\1{"alg":"EdDSA","kid":"ed","crit":["b64"],"b64":false}.{}'
    yield b'\2{"iss":"https://issuer.example","aud":["ml-serve"],"sub":"a","exp":99999999999}'
    yield b'\3{"sub":"a","models":["m*",7],"scope":["predict"],"nbf":1,"iat":1}'
    yield b'\3{"exp":1e308,"aud":{},"iss":[1],"sub":5,"scope":7}'


def _key_sets() -> Iterator[bytes]:
    yield b'{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}]}'
    yield b'{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","use":"sig"},{"kty":"EC","crv":"P-256","x":"!","y":""}]}'
    yield b'{"keys":[{"kty":"oct","k":"c2VjcmV0"},5,null]}'


def _lanes() -> Iterator[bytes]:
    arrays = {"a": np.zeros(2000), "b": np.ones(3000, np.float32)}
    for greets in (0, 1):
        for value in (None, [1, "two"], arrays):
            yield bytes([greets, 200]) + b"".join(map(bytes, encode(Kind.CALL, 7, value)))
    yield b"\1\1" + b"\xff" * 24


_OTHERS: Mapping[str, Any] = {
    "references": _references,
    "releases": _releases,
    "headers": _headers,
    "api_keys": _keys,
    "tokens": _tokens,
    "key_sets": _key_sets,
    "lanes": _lanes,
}
assert _OTHERS.keys() <= TARGETS.keys()
