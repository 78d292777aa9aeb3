"""``/docs`` (Swagger UI) and ``/redoc`` (ReDoc), with all that they load: nothing comes from another host.

The pages are the same behind every gateway, because they refer to everything relative to themselves.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from app.api.bodies import ServeError
from app.api.http.errors import legacy_error
from app.api.http.exchange import Exchange, Reply
from app.api.http.routing import Route
from app.errors import NotFound

_ASSETS = "/docs/assets/"
_CONTENT_TYPES = {
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
    "redoc.standalone.js": b"text/javascript; charset=utf-8",
    "favicon.png": b"image/png",
}
# ReDoc shows its maker's logo, from its maker's server. A transparent pixel takes its place.
_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_PIXEL = b"data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"

_SWAGGER_START = """
SwaggerUIBundle({url: "openapi.json", dom_id: "#docs", deepLinking: true, filter: true, validatorUrl: null,
    defaultModelExpandDepth: 5})
"""
_SWAGGER = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ML Serve Gateway</title>
<link rel="icon" href="docs/assets/favicon.png">
<link rel="stylesheet" href="docs/assets/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>{_SWAGGER_START}</script>
</body>
</html>
"""
# Descriptions come from whoever registers models: ReDoc must be told to clean them, Swagger UI does so by itself.
_REDOC = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ML Serve Gateway</title>
<link rel="icon" href="docs/assets/favicon.png">
<style>body { margin: 0 }</style>
</head>
<body>
<redoc spec-url="openapi.json" sanitize="true" schemas-expansion-level="4"></redoc>
<script src="docs/assets/redoc.standalone.js"></script>
</body>
</html>
"""
_HASH = base64.b64encode(hashlib.sha256(_SWAGGER_START.encode()).digest()).decode()
_POLICY = (
    f"default-src 'self'; script-src 'self' 'sha256-{_HASH}'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
).encode()
_PAGE_HEADERS = (
    (b"cache-control", b"no-cache"),
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
)


class Asset(NamedTuple):
    """A file that the pages load, and its entity tag: weak, as it is that of the compressed file too."""

    body: bytes
    tag: bytes


class DocsPages:
    """Handlers of the pages and of what they load."""

    def routes(self) -> list[Route]:
        """Every endpoint; none is in the schema."""
        handlers = {"/docs": self.swagger, "/redoc": self.redoc, _ASSETS + "{file}": self.asset}
        return [
            Route("GET", path, handler, "system", legacy_error, ServeError, documented=False)
            for path, handler in handlers.items()
        ]

    async def swagger(self, exchange: Exchange) -> Reply:
        """Swagger UI."""
        return Reply(_SWAGGER.encode(), headers=_PAGE_HEADERS, content_type=b"text/html; charset=utf-8")

    async def redoc(self, exchange: Exchange) -> Reply:
        """ReDoc."""
        return Reply(_REDOC.encode(), headers=_PAGE_HEADERS, content_type=b"text/html; charset=utf-8")

    async def asset(self, exchange: Exchange) -> Reply:
        """A script, style or picture of the pages.

        Raises:
            NotFound: there is none of this name.
        """
        name = str(exchange.scope["path"]).removeprefix(_ASSETS)
        if name not in _CONTENT_TYPES:
            raise NotFound(f"there is no '{name[:80]}' among what the documentation loads")
        asset = load(name)
        headers = (
            (b"cache-control", b"public, max-age=86400"),
            (b"etag", asset.tag),
            (b"x-content-type-options", b"nosniff"),
        )
        if asset.tag in exchange.headers.get(b"if-none-match", b""):
            return Reply(b"", 304, headers)
        return Reply(asset.body, headers=headers, content_type=_CONTENT_TYPES[name])


@lru_cache(maxsize=len(_CONTENT_TYPES))
def load(name: str) -> Asset:
    """A file of the package `fastapi-offline`."""
    body = (resources.files("fastapi_offline") / "static" / name).read_bytes().replace(_LOGO, _PIXEL)
    return Asset(body, b'W/"%s"' % hashlib.sha256(body).hexdigest()[:32].encode())
