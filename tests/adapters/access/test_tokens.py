"""Tokens signed by real keys, whose JWKS comes from a real server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.adapters.access import jwks
from app.adapters.access.tokens import TokenVerifier
from app.errors import Unauthenticated, Unavailable
from app.settings import AuthSettings

ISSUER, AUDIENCE = "https://issuer.example", "ml-serve"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def published(*names: str) -> dict[str, Any]:
    """A JWKS of these keys."""
    every = {
        "rsa": RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True),
        "other": RSAAlgorithm.to_jwk(OTHER_KEY.public_key(), as_dict=True),
        "ec": ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True),
        "ed": OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True),
        "shared": {"kty": "oct", "k": "c2VjcmV0"},
        "encrypting": {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "use": "enc"},
        "odd": {"kty": "EC", "crv": "P-256", "x": "!"},
    }
    return {"keys": [{**every[name], "kid": name} for name in names]}


def token(key: Any = RSA_KEY, kid: str | None = "rsa", algorithm: str = "RS256", **claims: Any) -> str:
    """A token; a claim of None is left out."""
    now = int(time.time())
    every = {"iss": ISSUER, "aud": AUDIENCE, "sub": "desk", "exp": now + 60, "scope": "predict openid", **claims}
    body = {name: value for name, value in every.items() if value is not None}
    return jwt.encode(body, key, algorithm, headers={} if kid is None else {"kid": kid})


def verifier(source: str | Path, **settings: Any) -> TokenVerifier:
    return TokenVerifier(
        AuthSettings(mode="jwt", jwt_issuer=ISSUER, jwt_audience=AUDIENCE, jwt_keys=str(source), **settings)
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(published("odd", "shared", "encrypting", "rsa", "ec", "ed")))
    return path


async def test_a_token_names_its_caller(file: Path) -> None:
    verify = verifier(file)
    caller = await verify.caller(token())
    assert (caller.name, caller.scopes, caller.models) == ("desk", {"predict"}, ("*",))
    assert await verify.caller(token(models=["prices", 7], scope=["manage", "observe"])) != caller
    narrow = await verify.caller(token(models=["prices", 7], scope=["manage", "observe"]))
    assert (narrow.scopes, narrow.models) == ({"manage", "observe"}, ("prices",))
    assert (await verify.caller(token(scope=None))).scopes == set()
    assert (await verify.caller(token(models=5))).models == ()
    assert (await verify.caller(token(sub="a\nb" + "c" * 200))).name == "a?b" + "c" * 97


async def test_every_asymmetric_algorithm_is_read(file: Path) -> None:
    verify = verifier(file)
    for key, kid, algorithm in ((EC_KEY, "ec", "ES256"), (ED_KEY, "ed", "EdDSA"), (RSA_KEY, "rsa", "RS256")):
        assert (await verify.caller(token(key, kid, algorithm))).name == "desk"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: "", "not a JSON Web Token"),
        (lambda: "a.b.c", "not a JSON Web Token"),
        (lambda: "x" * 20_000, "longer than"),
        (lambda: "é", "not a JSON Web Token"),
        (lambda: token(exp=int(time.time()) - 31), "expired"),
        (lambda: token(nbf=int(time.time()) + 600), "not valid yet"),
        (lambda: token(exp=None), "no claim 'exp'"),
        (lambda: token(sub=None), "no claim 'sub'"),
        (lambda: token(exp="soon"), "not valid"),
        (lambda: token(iss="https://evil.example"), "another issuer"),
        (lambda: token(aud="others"), "another audience"),
        (lambda: token(OTHER_KEY), "not valid"),
        (lambda: token(kid="unknown"), "does not publish"),
        (lambda: token(kid=None), "does not publish"),
        (lambda: token(kid="shared"), "does not publish"),
        (lambda: token(kid="encrypting"), "does not publish"),
        (lambda: token(EC_KEY, "rsa", "ES256"), "not valid"),
        (lambda: token(None, "rsa", "none"), "not valid"),
        (lambda: token(published("rsa")["keys"][0]["n"], "rsa", "HS256"), "not valid"),
        (lambda: token()[:-4] + "AAAA", "not valid"),
    ],
)
async def test_other_tokens_are_refused(file: Path, wrong: Any, message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        await verifier(file).caller(wrong())


async def test_clocks_may_differ_a_little(file: Path) -> None:
    now = int(time.time())
    for given in (token(exp=now - 20, nbf=now - 100), token(nbf=now + 20)):
        assert (await verifier(file).caller(given)).name == "desk"
    with pytest.raises(Unauthenticated):
        await verifier(file, jwt_leeway_s=0).caller(token(exp=now - 20))


async def test_a_remembered_token_expires(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verify, given = verifier(file), token()
    await verify.caller(given)
    later = time.time() + 100
    monkeypatch.setattr("app.adapters.access.tokens.time.time", lambda: later)
    monkeypatch.setattr("jwt.api_jwt.datetime", _Later)
    with pytest.raises(Unauthenticated, match="expired"):
        await verify.caller(given)


class _Later:
    """PyJWT's clock, a hundred seconds ahead."""

    @staticmethod
    def now(tz: Any = None) -> Any:
        from datetime import datetime, timedelta

        return datetime.now(tz) + timedelta(seconds=100)


class Issuer:
    """A server of a JWKS. Attributes: `body` and `status` of its answers, and how many it gave."""

    def __init__(self) -> None:
        self.body, self.status, self.answers, self.delay_s = published("rsa"), 200, 0, 0.0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.answers += 1
                time.sleep(issuer.delay_s)
                text = json.dumps(issuer.body).encode()
                self.send_response(issuer.status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


async def test_an_unknown_key_id_fetches_the_keys_once_for_all(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = verifier(issuer.url)
    issuer.delay_s = 0.1
    callers = await asyncio.gather(*(verify.caller(token(sub=f"desk-{n}")) for n in range(20)))
    assert (len(callers), issuer.answers) == (20, 1)
    issuer.body = published("other")
    with pytest.raises(Unauthenticated, match="does not publish"):  # so soon it is not fetched again
        await verify.caller(token(OTHER_KEY, "other"))
    assert issuer.answers == 1
    monkeypatch.setattr(jwks, "AGAIN_S", 0.0)
    assert (await verify.caller(token(OTHER_KEY, "other"))).name == "desk"
    with pytest.raises(Unauthenticated, match="does not publish"):  # a remembered token of a key that is gone
        await verify.caller(token(sub="desk-1"))


async def test_a_remembered_token_of_a_withdrawn_key_is_refused(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "AGAIN_S", 0.0)
    verify, given = verifier(issuer.url), token()
    await verify.caller(given)
    issuer.body = published("other")
    await verify.caller(token(OTHER_KEY, "other"))
    with pytest.raises(Unauthenticated, match="does not publish"):
        await verify.caller(given)


@pytest.mark.parametrize("body", [{}, [], {"keys": []}, {"keys": "x"}, {"keys": [1, {"kty": "oct", "k": "c2V"}]}])
async def test_an_issuer_that_is_down_takes_no_key_away(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, body: Any
) -> None:
    monkeypatch.setattr(jwks, "AGAIN_S", 0.0)
    verify = verifier(issuer.url)
    await verify.caller(token(sub="before"))
    issuer.body = body
    for status in (200, 500, 302):
        issuer.status = status
        with pytest.raises(Unauthenticated):
            await verify.caller(token(OTHER_KEY, "other"))
        assert (await verify.caller(token(sub=f"after-{status}"))).name == f"after-{status}"


async def test_without_keys_callers_are_told_to_retry(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = verifier(issuer.url)
    issuer.status = 503
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            await verify.caller(token())
    assert (caught.value.details, issuer.answers) == ({"retry_after_s": 10}, 1)
    monkeypatch.setattr(jwks, "AGAIN_S", 0.05)
    issuer.status = 200
    following = asyncio.create_task(verify.follow())
    async with asyncio.timeout(20):
        while not verify._keys.current:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
    assert (await verify.caller(token())).name == "desk"
    following.cancel()


@pytest.mark.parametrize("source", ["http://[", "http://127.0.0.1:1/jwks", "/nowhere", "[" * 100_000])
async def test_a_source_that_cannot_be_read_ends_nothing(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source.startswith("["):  # deeper than Python's parser goes
        (tmp_path / "deep").write_text(source)
        source = str(tmp_path / "deep")
    verify = verifier(source)
    with pytest.raises(Unavailable):
        await verify.caller(token())
    following = asyncio.create_task(verify.follow())
    await asyncio.sleep(0.1)
    assert not following.done()
    following.cancel()


async def test_a_huge_answer_is_not_read(issuer: Issuer) -> None:
    issuer.body = {**published("rsa"), "filler": "x" * 2**21}
    with pytest.raises(Unavailable):
        await verifier(issuer.url).caller(token())


@pytest.mark.parametrize(
    "odd",
    [
        {"kty": {"a": 1}},
        {"kty": ["RSA"]},
        {"kty": "OKP", "crv": ["Ed25519"], "x": "AA"},
        {"kty": "EC", "crv": "P-256", "x": 5, "y": None},
        {"kty": "RSA", "n": {}, "e": "AQAB"},
        {"kty": "RSA", "n": "", "e": "", "alg": ["RS256"]},
        {"kty": "RSA", "use": ["sig"]},
    ],
)
def test_a_key_that_cannot_be_read_keeps_out_no_other(odd: dict[str, Any]) -> None:
    keys = [odd, *published("ed")["keys"]]
    assert [*jwks.parse_keys(json.dumps({"keys": keys}).encode())] == ["ed"]
