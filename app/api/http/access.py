"""Access to an endpoint: who sends a request, and whether a web page made the caller's browser send it."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

from app.api.http.exchange import Exchange
from app.errors import Forbidden, Unauthenticated, Unavailable, UnsupportedMediaType
from app.serving.callers import ANYBODY, MANAGE, NOBODY, OPEN, SCOPES, Caller, readable
from app.serving.ports import Authenticator
from app.settings import ScopeName

Headers = Mapping[bytes, bytes]
"""The last value of each header, by its name in lower case; of gRPC the metadata."""

PROXY_SECRET = b"x-ml-serve-proxy-secret"
_NAMES = (b"x-consumer-username", b"x-consumer-custom-id", b"x-credential-identifier")
"""Headers in which Kong's authentication plugins name the consumer."""
_HOW = "send 'Authorization: Bearer KEY' or the header x-api-key"


@dataclass(frozen=True, slots=True)
class TrustedProxy:
    """A proxy in front that has authenticated the caller, and proves itself by a secret.

    Attributes:
        scopes: of every consumer, unless `groups_header` names a header with the consumer's groups.
        groups_header: its values `predict`, `manage` and `observe` are scopes. The proxy must set or remove it always.
    """

    secret: bytes
    scopes: Set[ScopeName]
    groups_header: bytes | None = None

    def caller(self, headers: Headers) -> Caller | None:
        """Return the consumer that the proxy names; None for a request without the proxy's secret.

        Raises:
            Unauthenticated: the secret is wrong, or the proxy names nobody.
        """
        given = headers.get(PROXY_SECRET)
        if given is None:
            return None
        if not hmac.compare_digest(given, self.secret):
            raise Unauthenticated(f"the header {PROXY_SECRET.decode()} is wrong")
        name = next((headers[header] for header in _NAMES if headers.get(header)), b"")
        if not name or headers.get(b"x-anonymous-consumer") == b"true":
            raise Unauthenticated("the proxy in front of the gateway did not authenticate the caller")
        if self.groups_header is None:
            return Caller(_text(name), self.scopes)
        groups = {group.strip() for group in headers.get(self.groups_header, b"").decode("latin-1").split(",")}
        return Caller(_text(name), SCOPES & groups)


class Access:
    """Find the caller of each request. Without `authenticator` and `proxy`, everybody may do everything.

    Args:
        hosts: patterns of the host names by which management calls may name the gateway, beside addresses and
            `localhost`; None for any. A page whose own name a stranger has pointed to the gateway's address would
            otherwise pass as the same origin (DNS rebinding).
        origins: further origins of pages that may send management calls; ``*`` is every origin.
    """

    def __init__(
        self,
        authenticator: Authenticator | None = None,
        proxy: TrustedProxy | None = None,
        *,
        hosts: Sequence[str] | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        self._authenticator = authenticator
        self._proxy = proxy
        self._hosts = hosts
        self._origins = origins

    @property
    def is_on(self) -> bool:
        """Whether callers need credentials."""
        return self._authenticator is not None or self._proxy is not None

    async def caller(self, headers: Headers) -> Caller:
        """Return the caller of a request.

        Raises:
            Unauthenticated: the credentials are missing or wrong.
            Unavailable: the credentials cannot be checked now.
        """
        if self._proxy is not None:
            caller = self._proxy.caller(headers)
            if caller is not None:
                return caller
        if self._authenticator is not None:
            return await self._authenticator.caller(_credential(headers))
        if self._proxy is not None:
            raise Unauthenticated("this gateway answers only the proxy in front of it")
        return ANYBODY

    async def admit(self, exchange: Exchange, scopes: Set[ScopeName]) -> None:
        """Find the caller of a request to an endpoint that needs one of `scopes`, and set it there.

        Raises:
            Unauthenticated, Unavailable: as `caller`, unless the endpoint is `OPEN`.
            Forbidden: the caller has none of the scopes.
        """
        exchange.caller = NOBODY
        try:
            exchange.caller = await self.caller(exchange.headers)
        except (Unauthenticated, Unavailable):
            if scopes != OPEN:
                raise
        if scopes != OPEN:
            exchange.caller.require(scopes)

    def check_management(self, exchange: Exchange) -> None:
        """Check that the caller may send a management call.

        Raises:
            Forbidden: the caller may not, or a page of another origin may have sent the call through a browser.
            UnsupportedMediaType: the body is of a type that browsers send without asking the gateway first.
        """
        exchange.caller.require(MANAGE)
        self._refuse_foreign_pages(exchange.headers)

    def _refuse_foreign_pages(self, headers: Headers) -> None:
        kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            # CORS: for this type a browser asks the gateway before it sends a page's request to another origin.
            raise UnsupportedMediaType("this call needs 'content-type: application/json'")
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host and not self._is_own(_without_port(host)):
            name = readable(_without_port(host))
            raise Forbidden(f"the host '{name}' is not allowed for this call; add it to the setting auth.hosts")
        origin = headers.get(b"origin")
        if origin is not None and not self._is_allowed(origin.decode("latin-1").lower(), host, headers):
            raise Forbidden("this call came from a web page of another origin; see the setting cors_origins")

    def _is_own(self, host: str) -> bool:
        if self._hosts is None or host == "localhost":
            return True
        try:
            ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return any(fnmatchcase(host, pattern) for pattern in self._hosts)
        return True

    def _is_allowed(self, origin: str, host: str, headers: Headers) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        # A page cannot set x-forwarded-host on a request to another origin without asking first (CORS).
        forwarded = headers.get(b"x-forwarded-host", b"").decode("latin-1").lower()
        return origin.partition("://")[2] in {host, forwarded} - {""}


EVERYBODY = Access()
"""No authentication, and any host."""


def _credential(headers: Headers) -> str:
    """Return the key or token of a request. Raises `Unauthenticated`."""
    given = headers.get(b"authorization")
    if given is None:
        key = headers.get(b"x-api-key")
        if key is None:
            raise Unauthenticated(f"credentials are missing; {_HOW}")
        return key.decode("latin-1")
    scheme, _, token = given.partition(b" ")
    if scheme.lower() != b"bearer":
        raise Unauthenticated(f"the authorization scheme is not supported; {_HOW}")
    return token.strip().decode("latin-1")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".")


def _text(value: bytes) -> str:
    return readable(value.decode("latin-1"))
