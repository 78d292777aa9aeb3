"""Who calls: API keys from a file, and JSON Web Tokens of an issuer."""

from __future__ import annotations

from app.adapters.access.keys import KeyFile
from app.errors import StartupError
from app.serving.ports import Authenticator
from app.settings import Settings


def make_authenticator(settings: Settings) -> Authenticator | None:
    """Make what the setting `auth.mode` asks for; None where no credential of a caller's own is accepted.

    Raises:
        StartupError: the keys or a required setting are missing or wrong.
    """
    auth = settings.auth
    if auth.mode == "api-key":
        return KeyFile(settings.keys_path)
    if auth.mode == "jwt":
        from app.adapters.access.tokens import TokenVerifier  # noqa: PLC0415 - imports cryptography

        missing = [name for name in ("jwt_issuer", "jwt_audience", "jwt_keys") if getattr(auth, name) is None]
        if missing:
            raise StartupError(f"auth.mode=jwt needs the settings {', '.join(f'auth.{name}' for name in missing)}")
        return TokenVerifier(auth)
    return None
