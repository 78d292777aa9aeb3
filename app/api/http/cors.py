"""Cross-origin requests of browsers: off unless the setting ``cors_origins`` names web pages that may call."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

_EXPOSED = ("x-model-version", "x-request-id")
_PREFLIGHT_KEPT_S = 600


def with_cors(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Answer preflight requests of these origins, and let their pages read responses. The same app without origins."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("DELETE", "GET", "HEAD", "POST", "PUT"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
        max_age=_PREFLIGHT_KEPT_S,
    )
