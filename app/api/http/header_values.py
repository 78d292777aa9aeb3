"""Values of headers and of gRPC metadata that every request may have."""

from __future__ import annotations

from app.api.http.serve_middleware import new_request_id
from app.errors import InvalidRequest

_MAX_REQUEST_ID = 128


def valid_request_id(given: str) -> str:
    """Return the caller's request id; a new one if it is missing, too long or not printable ASCII."""
    valid = 0 < len(given) <= _MAX_REQUEST_ID and given.isascii() and given.isprintable()
    return given if valid else new_request_id()


def positive_seconds(given: bytes | str) -> float:
    """Parse `x-request-timeout-seconds`. Raises `InvalidRequest`."""
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest("x-request-timeout-seconds must be a positive number of seconds, such as 2.5")
    return seconds
