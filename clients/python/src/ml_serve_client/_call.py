"""One request to a gateway and how its response is read, whichever client sends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from ml_serve_client._errors import ApiError, api_error
from ml_serve_client._json import from_json, to_json

T = TypeVar("T")

V1 = "/v1/models/"
V2 = "/v2/models/"
LOAD_TIMEOUT_S = 330.0
"""Seconds to wait for a call that may load a model: a little more than the gateway's default limit of a load."""
_CONNECT_TIMEOUT_S = 5.0
_MARGIN_S = 5.0  # the gateway answers 504 at the deadline; the client waits a little longer to receive it


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and how its response is read.

    Args:
        deadline_s: seconds until the gateway gives up, retries included; it is sent to the gateway.
        timeout_s: seconds to wait without a deadline, retries included; None is the client's own timeout.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float | None = None
    timeout_s: float | None = None

    def budget_s(self, default_s: float) -> float:
        """Seconds for the whole call, retries included."""
        return self.deadline_s if self.deadline_s is not None else self.timeout_s or default_s

    def arguments(self, left_s: float) -> dict[str, Any]:
        """Arguments of httpx's ``request`` for an attempt with `left_s` seconds left."""
        headers = dict(self.headers)
        timeout_s = left_s
        if self.deadline_s is not None:
            headers["x-request-timeout-seconds"] = f"{left_s:g}"
            timeout_s += _MARGIN_S
        timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, left_s))
        return {
            "method": self.method,
            "url": self.path,
            "headers": headers,
            "content": self.content,
            "timeout": timeout,
        }

    def result(self, response: httpx.Response) -> T:
        """Read the response. Raises `ApiError` for an error, and for a response that no gateway sends."""
        try:
            return self.read(response)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            if not response.is_success:
                raise api_error(response) from None
            kind = response.headers.get("content-type", "no content type")
            message = f"{masked(response.url)} does not answer as an ml-serve gateway does ({kind})"
            raise ApiError(response.status_code, "unexpected_answer", message, {}, None) from None


def json_call(
    path: str,
    read: Callable[[httpx.Response], T],
    body: Mapping[str, Any],
    *,
    method: str = "POST",
    session: str | None = None,
    deadline_s: float | None = None,
    timeout_s: float | None = None,
) -> Call[T]:
    """Build a call with a JSON body; keys whose value is None are left out.

    Raises:
        ValueError, TypeError: a value has no JSON form, such as NaN; or the session is not a header value.
    """
    content = to_json({key: value for key, value in body.items() if value is not None})
    headers = {"content-type": "application/json", **session_headers(session)}
    return Call(method, path, read, content, headers, deadline_s, timeout_s)


def session_headers(session: str | None) -> dict[str, str]:
    """Headers of a sticky session. Raises `ValueError` for text that HTTP headers do not carry unchanged."""
    if session is None:
        return {}
    if not session or not session.isascii() or not session.isprintable() or session != session.strip():
        raise ValueError(f"the session {session!r} is not printable ASCII without spaces around it")
    return {"x-session-id": session}


def model_path(
    model: str, version: str | int | None = None, alias: str | None = None, *, root: str = V1, suffix: str = ""
) -> str:
    """Path of a model reference: names are percent-encoded; ``@`` and ``/versions/`` stay readable."""
    if version is not None and alias is not None:
        raise ValueError("give a version or an alias, not both")
    if version is not None:
        model = f"{model}/versions/{version}"
    elif alias is not None:
        model = f"{model}@{alias}"
    name, separator, number = model.partition("/versions/")
    return f"{root}{quote(name, safe='@')}{separator}{quote(number, safe='')}{suffix}"


def reader(parse: Callable[[Any], T]) -> Callable[[httpx.Response], T]:
    """Read the JSON of a success with `parse`."""
    return lambda response: parse(json_of(response))


def reader_of(kind: type[T]) -> Callable[[httpx.Response], T]:
    """Read the JSON of a success as a dataclass."""
    return lambda response: from_json(kind, json_of(response))


def json_of(response: httpx.Response, *also: int) -> Any:
    """Decode the JSON of a success, or of a response with a status in `also`. Raises `ApiError`, `ValueError`."""
    if not response.is_success and response.status_code not in also:
        raise api_error(response)
    return response.json()


def masked(url: httpx.URL) -> str:
    """Write the URL with ``***`` for user name and password."""
    return str(url.copy_with(userinfo=b"***") if url.userinfo else url)
