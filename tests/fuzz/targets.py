"""What is fuzzed: a function for each parser of bytes that a caller sends.

A target takes any bytes, and raises if the product does anything but answer them as documented: see
`tests.fuzz.gateway`. The first bytes often choose a model or a header, so that one file holds a whole request.
"""

from __future__ import annotations

import json
import pickle
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch
from urllib.parse import quote

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ed25519
from google.protobuf.message import Message
from grpc import StatusCode
from jwt.algorithms import OKPAlgorithm
from jwt.utils import base64url_encode
from prometheus_client import CollectorRegistry

from app.adapters.access.jwks import parse_keys
from app.adapters.access.keys import KeyFile, create_key
from app.adapters.access.tokens import TokenVerifier
from app.api.http.access import Access, TrustedProxy
from app.api.http.json_text import parse_json
from app.api.oip.grpc import InferenceServicer
from app.api.oip.service import InferenceService
from app.errors import InvalidReference, MalformedBody, ServingError, TooLarge
from app.lanes import frames
from app.oip import inference_pb2 as pb
from app.oip.datatypes import DTYPES
from app.oip.grpc_service import Unreadable, _reader
from app.serving.json_depth import is_deeper
from app.serving.references import make_ref, parse_ref
from app.serving.releases.traffic import read_tags
from app.settings import AuthSettings
from tests.fuzz.gateway import ERROR_BYTES, NAMES, Fault, Gateway, bounded, check, open_gateway
from tests.fuzz.source import Source
from tests.grpc_stub import CallContext

Target = Callable[[bytes], None]

_JSON = (b"content-type", b"application/json")
_DEPTH = 16


def json_text(data: bytes) -> None:
    """JSON, strict and with the constants of Python's writer."""
    for constants in (False, True):
        try:
            with bounded():
                value = parse_json(data, _DEPTH, constants=constants)
        except (MalformedBody, TooLarge) as error:
            _check_words(error)
            continue
        if is_deeper(value, _DEPTH):
            raise Fault("JSON that is too deep was accepted")
        orjson.dumps(_bounded_numbers(value))


def serve(data: bytes) -> None:
    """The body of ``/serve``."""
    _post("/serve", data)


def predict(data: bytes) -> None:
    """The body of ``/v1/models/{ref}:predict``."""
    source = Source(data)
    _post(f"/v1/models/{source.choose(NAMES)}:predict", source.rest())


def infer_json(data: bytes) -> None:
    """The JSON of ``/v2/models/{ref}/infer``."""
    source = Source(data)
    _post(f"/v2/models/{source.choose(NAMES)}/infer", source.rest())


def infer_binary(data: bytes) -> None:
    """JSON and raw tensors, and raw tensors alone."""
    source = Source(data)
    name, kind, body = source.choose(NAMES), source.byte(), source.rest()
    end = body.rfind(b"}") + 1
    length: object = {0: end, 1: 0, 2: kind, 3: body[:8].decode("latin-1")}[kind % 4]
    header = (b"inference-header-content-length", str(length).encode("latin-1"))
    _post(f"/v2/models/{name}/infer", body, header)


def infer_message(data: bytes) -> None:
    """The bytes of a gRPC message."""
    _call_infer(_read_message(data))


def infer_tensors(data: bytes) -> None:
    """A gRPC message that is well-formed, with tensors that need not be."""
    source = Source(data)
    request = pb.ModelInferRequest(model_name=source.choose(NAMES), id=_clean(source))
    for _ in range(source.byte() % 4):
        shape = [source.choose((1, 2, 0, 3, -1, 2**20, 2**40, 2**63 - 1)) for _ in range(source.byte() % 4)]
        given = request.inputs.add(name=source.choose(_INPUTS), datatype=source.choose((*DTYPES, "")), shape=shape)
        kind = source.byte()
        if kind % 3 == 0:
            request.raw_input_contents.append(source.take(kind))
        elif kind % 3 == 1:
            field = source.choose([one.name for one in pb.InferTensorContents.DESCRIPTOR.fields])
            values = [_element(field, source) for _ in range(source.byte() % 6)]
            getattr(given.contents, field).extend(values)
        if kind % 7 == 0:
            _parameter(given.parameters, source)
    if source.byte() % 4 == 0:
        request.outputs.add(name=source.choose(("output", "y", "x", _clean(source))))
    if source.byte() % 4 == 0:
        _parameter(request.parameters, source)
    _call_infer(request)


def values(data: bytes) -> None:
    """Well-formed requests in every dialect, with values that need not fit the model."""
    source = Source(data)
    name, form = source.choose(NAMES), source.choose(_FORMS)
    path, body = form(name, source)
    text = json.dumps(body, allow_nan=True, ensure_ascii=False).encode("utf-8", "replace")
    _post(path, text)


def invocations(data: bytes) -> None:
    """The JSON of ``/invocations``."""
    source = Source(data)
    _post(f"/invocations/{source.choose(NAMES)}", source.rest())


def csv(data: bytes) -> None:
    """A table as CSV."""
    _table(data, b"text/csv")


def parquet(data: bytes) -> None:
    """A table as Parquet."""
    _table(data, b"application/vnd.apache.parquet")


def encodings(data: bytes) -> None:
    """Compressed bodies, and the encodings of answers."""
    source = Source(data)
    encoding = source.choose((b"gzip", b"deflate", b"x-gzip", b"identity", b" GZip ", b"br", None))
    header = source.take(source.byte() % 32) if encoding is None else encoding
    accepted = source.take(source.byte() % 64)
    _post("/serve", source.rest(), (b"content-encoding", _line(header)), (b"accept-encoding", _line(accepted)))


def references(data: bytes) -> None:
    """Model references, in paths and in bodies, and query strings."""
    source = Source(data)
    kind, text = source.byte(), source.rest().decode("utf-8", "replace")
    readings: list[Callable[[], object]] = [
        partial(parse_ref, text),
        partial(make_ref, "m", alias=text),
        partial(make_ref, "m", version=text),
    ]
    for read in readings:
        try:
            read()
        except InvalidReference as error:
            _check_words(error)
    name, _, query = text.partition("?")
    method, template = _PATHS[kind % len(_PATHS)]
    path, query = template.replace("*", name), quote(query, safe="&=+%;")  # a server refuses other bytes
    body = orjson.dumps({"model_name": name or "m", "model_version": query or None}) if path == "/serve" else b""
    answer = open_gateway().ask(method, path, body, (_JSON,), query.encode())
    check(answer, path)


def releases(data: bytes) -> None:
    """Traffic plans, and the other bodies that change releases."""
    source = Source(data)
    method, path = source.choose(_RELEASES)
    body = source.rest()
    check(open_gateway().ask(method, path, body, (_JSON,)), path)
    plan, _ = read_tags({"serving.traffic": body.decode("utf-8", "replace")})
    plan.tags()


def headers(data: bytes) -> None:
    """Headers of a valid request."""
    lines = [line.partition(b":") for line in data.split(b"\n")]
    given = [(name.strip().lower(), _line(value.strip())) for name, _, value in lines[:32] if _is_token(name.strip())]
    given = [one for one in given if one[0] != b"content-length"]  # a server has checked it
    for path in ("/serve", "/invocations/m", "/v1/models/m:load"):
        check(open_gateway().ask("POST", path, _VALID.get(path, b""), given), path)
    text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in given]
    _call_infer(pb.ModelInferRequest(model_name="m"), text)


def api_keys(data: bytes) -> None:
    """API keys, and the headers of a proxy."""
    gateway, key = _with_keys()
    lines = [line.partition(b":") for line in data.replace(b"KEY", key.encode()).split(b"\n")]
    given = [(name.strip().lower(), _line(value.strip())) for name, _, value in lines[:8] if _is_token(name.strip())]
    for method, path in (("POST", "/serve"), ("GET", "/v1/models"), ("PUT", "/v1/models/m/traffic"), ("GET", "/v2")):
        answer = gateway.ask(method, path, _VALID.get(path, b"{}"), (*given, _JSON))
        check(answer, path)
        if answer.status == 200 and path != "/v2" and not any(_is_credential(value, key) for _, value in given):
            raise Fault("a caller without credentials was admitted")


def tokens(data: bytes) -> None:
    """JSON Web Tokens: any text, any header, and any claims that the issuer has signed."""
    gateway, key = _with_tokens()
    source = Source(data)
    kind, text = source.byte() % 4, source.rest()
    if kind == 0:
        token = _line(text)
    elif kind == 1:  # any header and claims, and a signature by nobody
        head, _, claims = text.partition(b"}.")
        token = b".".join(map(base64url_encode, (head + b"}", claims, b"x" * 64)))
    else:
        signing = b".".join((base64url_encode(b'{"alg":"EdDSA","kid":"ed"}'), base64url_encode(_claims(text, kind))))
        token = b".".join((signing, base64url_encode(key.sign(signing))))
    for path in ("/serve", "/v1/models/m:promote"):
        answer = gateway.ask("POST", path, _VALID.get(path, b"{}"), ((b"authorization", b"bearer " + token), _JSON))
        check(answer, path)
        if answer.status == 200 and kind < 2:
            raise Fault("a token that nobody signed was accepted")


def key_sets(data: bytes) -> None:
    """The public keys of a token issuer."""
    with bounded(), suppress(ValueError, RecursionError):
        parse_keys(data)


def lanes(data: bytes) -> None:
    """The frames of a lane, before and after its secret."""
    source = Source(data)
    greets, step, rest = source.byte() % 2, source.byte() + 1, source.rest()
    stream = (frames.hello(_SECRET) if greets else b"") + rest
    # Any bytes could be a call of anything, and a peer who knows the secret may have any memory.
    loads = patch.object(frames, "pickle", SimpleNamespace(loads=_unpickled))
    memory = patch.object(frames, "bytearray", _memory, create=True)
    with bounded(), loads, memory, patch.object(frames, "log"):
        reader = _Reader()
        while stream and not reader.is_closed:
            buffer = reader.get_buffer(-1)
            if not len(buffer):
                raise Fault("a lane that has no room for the next bytes")
            count = min(step, len(buffer), len(stream))
            buffer[:count] = stream[:count]
            reader.buffer_updated(count)
            stream = stream[count:]
    if reader.taken and not greets:
        raise Fault("a frame was read before the secret was said")


TARGETS: Mapping[str, Target] = {
    target.__name__: target
    for target in (
        json_text,
        serve,
        predict,
        infer_json,
        infer_binary,
        infer_message,
        infer_tensors,
        values,
        invocations,
        csv,
        parquet,
        encodings,
        references,
        releases,
        headers,
        api_keys,
        tokens,
        key_sets,
        lanes,
    )
}

# --- requests ----------------------------------------------------------------------------------------------------

_VALID = {
    "/serve": b'{"model_name":"m@new","data":{"x":1.0,"n":2,"s":"a"}}',
    "/invocations/m": b'{"dataframe_records":[{"x":1.0,"n":2,"s":"a"}]}',
}
_RELEASES: list[tuple[Literal["PUT", "POST"], str]] = [
    ("PUT", "/v1/models/m/traffic"),
    ("POST", "/v1/models/m:promote"),
    ("POST", "/v1/models/m:rollback"),
    ("POST", "/v1/models/m@new:load"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/m/load"),
    ("POST", "/v2/repository/models/any/unload"),
    ("POST", "/serve"),
]
_PATHS = [
    ("GET", "/v1/models/*"),
    ("GET", "/v1/models/*/schema"),
    ("GET", "/v1/models/m/compare"),
    ("GET", "/v1/models/*/traffic"),
    ("GET", "/v1/features/*"),
    ("GET", "/v2/models/*"),
    ("GET", "/v2/models/*/ready"),
    ("GET", "/v2/models/*/config"),
    ("POST", "/v1/models/*:predict"),
    ("POST", "/v1/models/*:load"),
    ("POST", "/v2/models/*/infer"),
    ("POST", "/models/*/invocations"),
    ("POST", "/invocations/*"),
    ("POST", "/serve"),
    ("POST", "*"),
    ("GET", "/*"),
    ("DELETE", "/v1/models/*"),
]
_INPUTS = ("x", "n", "s", "boolean", "long", "datetime", "binary", "string", "all", "", "0", "any", "times")


def _post(path: str, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    check(open_gateway().ask("POST", path, body, (_JSON, *headers)), path)


def _table(data: bytes, kind: bytes) -> None:
    source = Source(data)
    path = f"/invocations/{source.choose(NAMES)}"
    check(open_gateway().ask("POST", path, source.rest(), ((b"content-type", kind),)), path)


def _form(path: str, key: str) -> Callable[[str, Source], tuple[str, Any]]:
    def form(name: str, source: Source) -> tuple[str, Any]:
        body: dict[str, Any] = {key: _many(source)}
        if source.byte() % 8 == 0:
            body["parameters" if path.startswith("/v1") else "params"] = _wished(source)
        if path == "/serve":
            body["model_name"] = name
        return path.replace("*", name), body

    return form


def _infer(name: str, source: Source) -> tuple[str, Any]:
    inputs = []
    for _ in range(source.byte() % 4):
        given = _many(source)
        shape = [len(given)] if source.byte() % 4 else [source.number() for _ in range(source.byte() % 4)]
        one = {"name": source.choose(_INPUTS), "datatype": source.choose(tuple(DTYPES)), "shape": shape, "data": given}
        inputs.append(one)
    body: dict[str, Any] = {"inputs": inputs}
    if source.byte() % 8 == 0:
        body["parameters"] = source.json(3)
    if source.byte() % 8 == 0:
        body["outputs"] = [{"name": source.choose(("output", "y", "x")), "parameters": source.json(3)}]
    return f"/v2/models/{name}/infer", body


def _split(name: str, source: Source) -> tuple[str, Any]:
    columns = [source.json(_DEPTH) if source.byte() % 8 == 0 else source.choose(_INPUTS) for _ in range(3)]
    frame: dict[str, Any] = {"columns": columns, "data": [[source.json(3) for _ in columns] for _ in range(2)]}
    if source.byte() % 4 == 0:
        frame["index"] = [source.json(_DEPTH) for _ in range(2)]
    return f"/invocations/{name}", {"dataframe_split": frame}


def _features(name: str, source: Source) -> tuple[str, Any]:
    entities = [{"id": source.json(4), **({source.text(): 1} if source.byte() % 8 == 0 else {})} for _ in range(2)]
    body = {"entities": entities, "feature_view": "daily", "overrides": source.json()}
    return f"/v1/models/{name}:predict", body


def _many(source: Source) -> list[Any]:
    return [source.json(2) for _ in range(source.byte() % 4)]


def _wished(source: Source) -> dict[str, Any]:
    return {source.choose(("p", "when", "words", "o", "q")): source.json(2) for _ in range(source.byte() % 3)}


_FORMS = (
    _form("/serve", "data"),
    _form("/v1/models/*:predict", "instances"),
    _form("/v1/models/*:predict", "inputs"),
    _form("/invocations/*", "dataframe_records"),
    _form("/invocations/*", "instances"),
    _form("/invocations/*", "inputs"),
    _form("/invocations/*", "messages"),
    _infer,
    _infer,
    _split,
    _features,
)


def _line(value: bytes) -> bytes:
    """Return a value that a server would pass on: without control characters."""
    return bytes(byte for byte in value if (byte >= 0x20 and byte != 0x7F) or byte == 0x09)


def _is_token(name: bytes) -> bool:
    return bool(name) and name.replace(b"-", b"").isalnum()


def _check_words(error: ServingError) -> None:
    if len(error.message) + len(orjson.dumps(error.details)) > ERROR_BYTES:
        raise Fault(f"an error of {len(error.message)} characters")


def _bounded_numbers(value: Any) -> Any:
    """Replace whole numbers of more than 64 bits, which only the parser with constants reads."""
    if isinstance(value, dict):
        return {key: _bounded_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_bounded_numbers(item) for item in value]
    return float("inf") if isinstance(value, int) and not -(2**63) <= value < 2**64 else value


# --- gRPC --------------------------------------------------------------------------------------------------------


_REFUSALS = {
    StatusCode.INVALID_ARGUMENT,
    StatusCode.NOT_FOUND,
    StatusCode.UNIMPLEMENTED,
    StatusCode.RESOURCE_EXHAUSTED,
    StatusCode.DEADLINE_EXCEEDED,
}


@cache
def _servicer() -> InferenceServicer:
    fakes = open_gateway().fakes
    return InferenceServicer(InferenceService(fakes.service, fakes.manager), 10.0, CollectorRegistry())


def _call_infer(request: Message | Unreadable, metadata: Any = ()) -> None:
    context = CallContext(metadata)
    call: Any = _servicer().model_infer
    answer = open_gateway().run(lambda: call(request, context))
    answer.SerializeToString()
    if context.code is not StatusCode.OK and context.code not in _REFUSALS:
        raise Fault(f"{context.code}: {context.details}")
    if len(quote(context.details)) + len(str(context.trailing)) > 6000:  # of gRPC's 8 KiB
        raise Fault("an error that is too long for gRPC's metadata")


def _clean(source: Source) -> str:
    return source.text().encode("utf-8", "replace").decode()


def _read_message(data: bytes) -> Any:
    return _reader(pb.ModelInferRequest)(data)


def _element(field: str, source: Source) -> Any:
    number = source.number()
    match field:
        case "bool_contents":
            return bool(number % 2)
        case "bytes_contents":
            return source.text().encode("utf-8", "replace") if number % 2 else source.take(number % 16)
        case "fp32_contents" | "fp64_contents":
            return float(number)
        case "int_contents":
            return number % 2**32 - 2**31
        case "int64_contents":
            return number % 2**64 - 2**63
        case "uint_contents":
            return number % 2**32
    return number % 2**64


def _parameter(parameters: Any, source: Source) -> None:
    name = source.choose(("timeout", "binary_data_output", "sequence_id", "classification", "p", "when", "words", "o"))
    match source.byte() % 5:
        case 0:
            parameters[name].bool_param = bool(source.byte() % 2)
        case 1:
            parameters[name].int64_param = source.number() % 2**64 - 2**63
        case 2:
            parameters[name].double_param = float(source.number())
        case 3:
            parameters[name].string_param = _clean(source)
        case _:
            parameters[name].SetInParent()


# --- callers -----------------------------------------------------------------------------------------------------

_ISSUER, _AUDIENCE = "https://issuer.example", "ml-serve"
_SECRET = b"s" * 32


@cache
def _with_keys() -> tuple[Gateway, str]:
    """A gateway that asks for API keys or for its proxy, and a key for everything."""
    path = Path(tempfile.mkdtemp(prefix="ml-serve-fuzz-")) / "keys.json"
    _, key = create_key(path, "fuzzer", ["predict", "observe", "manage"])
    return Gateway(Access(KeyFile(path), TrustedProxy(_SECRET, frozenset({"predict"}), b"x-consumer-groups"))), key


@cache
def _with_tokens() -> tuple[Gateway, ed25519.Ed25519PrivateKey]:
    """A gateway that asks for tokens, and the key of their issuer."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(_SECRET)
    path = Path(tempfile.mkdtemp(prefix="ml-serve-fuzz-")) / "jwks.json"
    published = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    path.write_text(json.dumps({"keys": [{**published, "kid": "ed"}]}))
    settings = AuthSettings(mode="jwt", jwt_issuer=_ISSUER, jwt_audience=_AUDIENCE, jwt_keys=str(path))
    gateway = Gateway(Access(TokenVerifier(settings)))
    valid = jwt.encode(orjson.loads(_claims(b"{}", 3)), key, "EdDSA", headers={"kid": "ed"}).encode()
    answer = gateway.ask("POST", "/serve", _VALID["/serve"], ((b"authorization", b"Bearer " + valid), _JSON))
    assert answer.status == 200, answer.body  # and the keys have been fetched
    return gateway, key


def _claims(text: bytes, kind: int) -> bytes:
    """Return the claims as they are, or over those that a token needs."""
    if kind == 2:
        return text
    needed = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "desk", "exp": int(time.time()) + 600, "scope": "predict manage"}
    try:
        given = orjson.loads(text)
    except ValueError:
        given = {}
    return orjson.dumps({**needed, **(given if isinstance(given, dict) else {})})


def _is_credential(value: bytes, key: str) -> bool:
    return key.encode() in value or value == _SECRET


class _Reader(frames.FrameProtocol):
    """The called end of a lane, which takes frames once the secret has been said."""

    def __init__(self) -> None:
        super().__init__(_SECRET)
        self.taken = 0
        self.was_ended = False
        self.connection_made(self)  # type: ignore[arg-type]

    @property
    def is_closed(self) -> bool:
        return self.was_ended

    def abort(self) -> None:
        self.was_ended = True

    def received(self, kind: int, number: int, value: Any) -> None:
        self.taken += 1


def _memory(size: int) -> bytearray:
    if size > 2**26:
        raise MemoryError
    return bytearray(size)


def _unpickled(text: Any, buffers: Any = ()) -> None:
    if len(text) % 7 == 3:
        raise pickle.UnpicklingError
