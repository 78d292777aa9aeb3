"""Authentication as the settings ask for it."""

from __future__ import annotations

import ipaddress

from app.adapters.access import make_authenticator
from app.api.http.access import Access, TrustedProxy
from app.errors import StartupError
from app.serving.ports import Authenticator
from app.settings import Settings

_MIN_SECRET = 16


def make_access(settings: Settings) -> tuple[Access, Authenticator | None]:
    """Make what finds the callers of a gateway replica, and the part of it that has to follow changes.

    Raises:
        StartupError: a setting or a key file is missing or wrong.
    """
    auth = settings.auth
    authenticator = make_authenticator(settings)
    proxy = None
    if auth.proxy_secret is not None and auth.mode != "none":
        secret = auth.proxy_secret.get_secret_value().encode()
        if len(secret) < _MIN_SECRET:
            raise StartupError(f"auth.proxy_secret is shorter than {_MIN_SECRET} characters")
        header = auth.proxy_groups_header
        proxy = TrustedProxy(secret, frozenset(auth.proxy_scopes), header.lower().encode() if header else None)
    if auth.mode == "proxy" and proxy is None:
        raise StartupError("auth.mode=proxy needs the setting auth.proxy_secret")
    any_host = auth.mode != "none" and not auth.hosts  # a page has no credentials to send
    hosts = None if any_host else auth.hosts
    return Access(authenticator, proxy, hosts=hosts, origins=settings.cors_origins), authenticator


def require_access(settings: Settings) -> None:
    """Check that other machines cannot call a gateway without authentication, unless the settings say so.

    Raises:
        StartupError: they could, or a setting or a key file is missing or wrong.
    """
    if settings.auth.mode == "none":
        if not settings.auth.open and not _is_loopback(settings.bind_host):
            raise StartupError(
                f"without authentication, everybody who reaches {settings.bind_host} could manage models: set "
                "auth.mode (ML_SERVE_AUTH__MODE), or auth.open=true (ML_SERVE_AUTH__OPEN) where the network decides "
                "who calls"
            )
        if settings.auth.proxy_secret is not None:
            raise StartupError("auth.proxy_secret has no effect with auth.mode=none; set auth.mode=proxy")
    if not settings.is_cluster:  # there, only the replicas' nodes need to have the key file
        make_access(settings)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
