"""Errors that the clients raise, and how an error response of any server is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

_MAX_TEXT = 300


class ClientError(Exception):
    """Base of the errors that a client raises.

    ::

        ClientError
        ├── ApiError              an error response, or a response that no gateway sends
        └── ConnectionFailed      no connection: the request was not sent
            └── NoResponse        the request was sent and perhaps executed; its response broke off or is late
    """


class ApiError(ClientError):
    """Error response.

    Args:
        status: HTTP status.
        code: error code for programs: the gateway's, or ``http_500`` where another server answered.
        message: the error in words: what is wrong and what to do.
        details: facts for programs, such as ``column`` and ``row``.
        request_id: id of the request in the gateway's log.
    """

    def __init__(
        self, status: int, code: str, message: str, details: Mapping[str, Any], request_id: str | None
    ) -> None:
        super().__init__(status, code, message, dict(details), request_id)
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details)
        self.request_id = request_id
        self.retry_after: float | None = None
        """Seconds to wait before a retry, where the response says so."""

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message} ({self.status} {self.code}{request})"


class ConnectionFailed(ClientError):
    """No connection can be made, so the request was not sent. The message names the URL."""


class NoResponse(ConnectionFailed):
    """The request was sent, but its response broke off or did not arrive in time."""


def missing_extra(package: str) -> ImportError:
    """Make the error of a method whose optional dependency is missing; an extra has the name of its package."""
    return ImportError(f"{package} is not installed; install it with: pip install {package}")


def api_error(response: httpx.Response) -> ApiError:
    """Read an error response.

    It understands the bodies of every dialect of the gateway (``error`` is an object, or text beside ``code``), of
    MLflow (``error_code`` and ``message``), of FastAPI and Kong, and the plain text or HTML of a load balancer.
    """
    status = response.status_code
    body = _object(response)
    error = body.get("error")
    source: Mapping[str, Any] = error if isinstance(error, Mapping) else body
    texts = [source.get("message"), error, source.get("detail")]
    message = next((text for text in texts if isinstance(text, str) and text), None)
    details = source.get("details")
    request_id = body.get("request_id") or response.headers.get("x-request-id")
    result = ApiError(
        status,
        str(source.get("code") or source.get("error_code") or f"http_{status}"),
        message or f"a server before the gateway answered: {_text(response)}",
        details if isinstance(details, Mapping) else {},
        None if request_id is None else str(request_id),
    )
    result.retry_after = _retry_after(response.headers.get("retry-after", ""))
    return result


def _retry_after(header: str) -> float | None:
    """Seconds from now; the header has seconds or a date (RFC 9110, 10.2.3)."""
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:  # the zone "-0000" is UTC
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, Mapping) else {}


def _text(response: httpx.Response) -> str:
    words = " ".join(re.sub(r"<[^>]*>", " ", response.text).split())[:_MAX_TEXT]
    return words or f"{response.status_code} {response.reason_phrase}".rstrip()
