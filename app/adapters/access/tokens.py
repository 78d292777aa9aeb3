"""JSON Web Tokens (RFC 7519) of one issuer, whose public keys are a JWKS (RFC 7517) in a file or at a URL."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt
from cachetools import LRUCache
from jwt import PyJWK

from app.adapters.access.jwks import KeySet
from app.errors import Unauthenticated
from app.serving.callers import SCOPES, Caller, readable
from app.settings import AuthSettings

_MAX_TOKEN = 16 * 1024
_REMEMBERED = 4096
_REQUIRED = ["exp", "iss", "aud", "sub"]


class _Verified(NamedTuple):
    caller: Caller
    expires: float
    keys: object


class TokenVerifier:
    """`Authenticator` of tokens. It remembers verified tokens until they expire or the issuer's keys change."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._keys = KeySet(str(settings.jwt_keys), settings.jwt_refresh_s)
        self._verified: LRUCache[bytes, _Verified] = LRUCache(_REMEMBERED)

    async def caller(self, credential: str) -> Caller:
        """Return the caller that a token names.

        Raises:
            Unauthenticated: the token is malformed, expired, for others, or not signed by the issuer.
            Unavailable: the issuer's keys could not be fetched yet.
        """
        if len(credential) > _MAX_TOKEN:
            raise Unauthenticated(f"the token is longer than {_MAX_TOKEN} characters")
        digest = hashlib.sha256(credential.encode()).digest()
        known = self._verified.get(digest)
        if known is not None and known.expires > time.time() and known.keys is self._keys.current:
            return known.caller
        key = await self._key(credential)
        claims = self._claims(credential, key)
        caller = self._caller(claims)
        expires = float(claims["exp"]) + self._settings.jwt_leeway_s
        self._verified[digest] = _Verified(caller, expires, self._keys.current)
        return caller

    async def follow(self) -> None:
        """Keep the issuer's keys current until cancelled."""
        await self._keys.follow()

    async def _key(self, token: str) -> PyJWK:
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
        except (jwt.InvalidTokenError, RecursionError):
            raise Unauthenticated("the credential is not a JSON Web Token") from None
        key = await self._keys.find(key_id if isinstance(key_id, str) else None)
        if key is None:
            raise Unauthenticated("the token is signed by a key that its issuer does not publish")
        return key

    def _claims(self, token: str, key: PyJWK) -> Mapping[str, Any]:
        settings = self._settings
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],  # of the published key: the token does not choose
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=settings.jwt_leeway_s,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("the token has expired") from None
        except jwt.ImmatureSignatureError:
            raise Unauthenticated("the token is not valid yet") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"the token has no claim '{error.claim}'") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token is for another audience") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token is from another issuer") from None
        except jwt.InvalidTokenError:
            raise Unauthenticated("the token's signature or claims are not valid") from None

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        scopes = SCOPES.intersection(_words(claims.get(self._settings.jwt_scope_claim)))
        models = claims.get(self._settings.jwt_models_claim)
        return Caller(readable(str(claims["sub"])), scopes, ("*",) if models is None else _words(models))


def _words(claim: Any) -> tuple[str, ...]:
    """Read words from text with spaces between them (RFC 8693, 4.2) or from a list of texts."""
    words = claim.split() if isinstance(claim, str) else claim
    return tuple(word for word in words if isinstance(word, str)) if isinstance(words, list) else ()
