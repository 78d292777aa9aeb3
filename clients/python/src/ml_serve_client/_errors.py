"""What a client raises, and how an answer that is an error is read, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

_LONGEST_TEXT = 300


class ClientError(Exception):
    """Base of what a client raises.

    ::

        ClientError
        ├── ApiError              an answer that is an error, or that is no answer of a gateway
        └── ConnectionFailed      nothing was sent: no connection can be made
            └── NoAnswer          it was sent, and perhaps worked on: the answer broke off or is late
    """


class ApiError(ClientError):
    """The answer was an error.

    Args:
        status: HTTP status.
        code: what is wrong, for programs: the gateway's code, or ``http_500`` where another server answered.
        message: the same for people.
        details: facts for programs, such as ``column`` and ``row``.
        request_id: the id under which the gateway's log has the request.
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
        """Seconds after which the server asks to try again, where it says."""

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message} ({self.status} {self.code}{request})"


class ConnectionFailed(ClientError):
    """No connection can be made, so the request was not sent. The message names the URL."""


class NoAnswer(ConnectionFailed):
    """The request was sent, but its answer broke off or did not come in time."""


def missing_extra(package: str) -> ImportError:
    """The error of a method whose optional dependency is not installed; each extra is named as its package."""
    return ImportError(f"{package} is not installed; install it with: pip install 'ml-serve-client[{package}]'")


def api_error(response: httpx.Response) -> ApiError:
    """The error in an answer.

    Understood are the bodies of every dialect of the gateway (``error`` is an object, or a text with ``code`` beside
    it), MLflow's (``error_code`` and ``message``), FastAPI's and Kong's, and plain text or HTML of a load balancer.
    """
    status = response.status_code
    body = _object(response)
    error = body.get("error")
    fault: Mapping[str, Any] = error if isinstance(error, Mapping) else body
    texts = [fault.get("message"), error, fault.get("detail")]
    message = next((text for text in texts if isinstance(text, str) and text), None)
    details = fault.get("details")
    request_id = body.get("request_id") or response.headers.get("x-request-id")
    told = ApiError(
        status,
        str(fault.get("code") or fault.get("error_code") or f"http_{status}"),
        message or f"a server before the gateway answered: {_text(response)}",
        details if isinstance(details, Mapping) else {},
        None if request_id is None else str(request_id),
    )
    told.retry_after = _retry_after(response.headers.get("retry-after", ""))
    return told


def _retry_after(header: str) -> float | None:
    """Seconds from now: the header has them, or a date (RFC 9110, 10.2.3)."""
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": UTC, without a word on where the server is
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


def _object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, Mapping) else {}


def _text(response: httpx.Response) -> str:
    """The words of a body on one line, or what the status means."""
    words = " ".join(re.sub(r"<[^>]*>", " ", response.text).split())[:_LONGEST_TEXT]
    return words or f"{response.status_code} {response.reason_phrase}".rstrip()
