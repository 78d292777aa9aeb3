"""``/docs`` (Swagger UI) and ``/redoc`` (ReDoc) with their assets: nothing comes from another host.

All links are relative, so the pages work behind any path prefix.
"""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources

from app.api.bodies import ServeError
from app.api.http.exchange import Exchange, Reply
from app.api.http.routing import Route
from app.errors import NotFound
from app.serving.callers import OPEN

_CONTENT_TYPES = {
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "swagger-ui.css": b"text/css; charset=utf-8",
    "redoc.standalone.js": b"text/javascript; charset=utf-8",
    "favicon.png": b"image/png",
}
# ReDoc loads its logo from another host, so a transparent pixel replaces it.
_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_PIXEL = b"data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ML Serve Gateway</title>
<link rel="icon" href="docs/assets/favicon.png">
{head}
</head>
<body>
{body}
</body>
</html>
"""
_SWAGGER_START = """
SwaggerUIBundle({url: "openapi.json", dom_id: "#docs", deepLinking: true, filter: true, validatorUrl: null,
    defaultModelExpandDepth: 5})
"""
_SWAGGER = f"""<div id="docs"></div>
<script src="docs/assets/swagger-ui-bundle.js"></script>
<script>{_SWAGGER_START}</script>"""
# Descriptions of models are untrusted. Swagger UI sanitizes them by default, ReDoc only with this attribute.
_REDOC = """<redoc spec-url="openapi.json" sanitize="true" schemas-expansion-level="4"></redoc>
<script src="docs/assets/redoc.standalone.js"></script>"""
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


class DocsPages:
    """Handlers of the pages and their assets."""

    def routes(self) -> list[Route]:
        """List the endpoints; the OpenAPI document has none of them."""
        handlers = {"/docs": self.swagger, "/redoc": self.redoc, "/docs/assets/{file}": self.asset}
        return [
            Route("GET", path, handler, "system", ServeError, documented=False, scopes=OPEN)
            for path, handler in handlers.items()
        ]

    async def swagger(self, exchange: Exchange) -> Reply:
        """Show Swagger UI."""
        return _page('<link rel="stylesheet" href="docs/assets/swagger-ui.css">', _SWAGGER)

    async def redoc(self, exchange: Exchange) -> Reply:
        """Show ReDoc."""
        return _page("<style>body { margin: 0 }</style>", _REDOC)

    async def asset(self, exchange: Exchange) -> Reply:
        """Return a script, style or image of the pages. Raises `NotFound`."""
        name = exchange.path_params["file"]
        if name not in _CONTENT_TYPES:
            raise NotFound(f"no such file of the documentation: {name[:80]}; see /docs")
        body, tag = _load(name)
        headers = (
            (b"cache-control", b"public, max-age=86400"),
            (b"etag", tag),
            (b"x-content-type-options", b"nosniff"),
        )
        if tag in exchange.headers.get(b"if-none-match", b""):
            return Reply(b"", 304, headers)
        return Reply(body, headers=headers, content_type=_CONTENT_TYPES[name])


def _page(head: str, body: str) -> Reply:
    page = _PAGE.format(head=head, body=body).encode()
    return Reply(page, headers=_PAGE_HEADERS, content_type=b"text/html; charset=utf-8")


@lru_cache(maxsize=len(_CONTENT_TYPES))
def _load(name: str) -> tuple[bytes, bytes]:
    """Load a file of `fastapi-offline` and its entity tag, which is weak because the compressed file shares it."""
    body = (resources.files("fastapi_offline") / "static" / name).read_bytes().replace(_LOGO, _PIXEL)
    return body, b'W/"%s"' % hashlib.sha256(body).hexdigest()[:32].encode()
