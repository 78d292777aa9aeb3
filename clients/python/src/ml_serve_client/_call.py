"""One request to a gateway and how its answer is read, whichever client sends it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from ml_serve_client._errors import ApiError, api_error

T = TypeVar("T")

LOAD_WAIT_S = 330.0
"""Seconds that a call which may load a model is waited for: a little more than a gateway allows a load by default."""
_CONNECT_S = 5.0
_MARGIN_S = 5.0  # at the deadline the gateway answers 504: waiting a little longer lets that answer arrive


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and how its answer is read.

    Args:
        deadline: seconds after which the gateway shall give up, retries included.
        wait: seconds to wait for the answer where there is no deadline; None leaves it to the client.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    deadline: float | None = None
    wait: float | None = None

    def budget(self, wait: float) -> float:
        """Seconds for all of the call, retries included; `wait` is the client's own."""
        return self.deadline if self.deadline is not None else self.wait or wait

    def arguments(self, left: float) -> dict[str, Any]:
        """Arguments for httpx's ``request``; `left` is what is left of the budget, in seconds."""
        headers = dict(self.headers)
        seconds = left
        if self.deadline is not None:
            headers["x-request-timeout-seconds"] = f"{left:g}"
            seconds += _MARGIN_S
        timeout = httpx.Timeout(seconds, connect=min(_CONNECT_S, left))
        return {
            "method": self.method,
            "url": self.path,
            "headers": headers,
            "content": self.content,
            "timeout": timeout,
        }

    def answer(self, response: httpx.Response) -> T:
        """The typed answer. Raises `ApiError`."""
        try:
            return self.read(response)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            if not response.is_success:
                raise api_error(response) from None
            kind = response.headers.get("content-type", "no content type")
            message = f"{shown(response.url)} does not answer as an ml-serve gateway does ({kind})"
            raise ApiError(response.status_code, "unexpected_answer", message, {}, None) from None


def json_call(
    path: str,
    read: Callable[[httpx.Response], T],
    body: Mapping[str, Any],
    deadline: float | None,
    wait: float | None = None,
    *,
    method: str = "POST",
    session: str | None = None,
) -> Call[T]:
    """A request with JSON; keys whose value is None are left out.

    Raises:
        ValueError, TypeError: a value cannot be written as JSON, NaN among them; or the session cannot be sent.
    """
    content = to_json({key: value for key, value in body.items() if value is not None})
    headers = {"content-type": "application/json", **session_headers(session)}
    return Call(method, path, read, content, headers, deadline, wait)


def session_headers(session: str | None) -> dict[str, str]:
    """What keeps a caller with one version of a model. Raises `ValueError` for what no header carries as it is."""
    if session is None:
        return {}
    if not session or not session.isascii() or not session.isprintable() or session != session.strip():
        raise ValueError(f"the session {session!r} is not printable ASCII without spaces around it")
    return {"x-session-id": session}


def path(
    model: str, version: str | int | None = None, alias: str | None = None, verb: str = "", *, root: str = "/v1/models/"
) -> str:
    """The path of a reference: names are percent-encoded, ``@`` and ``/versions/`` stay readable."""
    if version is not None and alias is not None:
        raise ValueError("give a version or an alias, not both")
    if version is not None:
        model = f"{model}/versions/{version}"
    elif alias is not None:
        model = f"{model}@{alias}"
    name, separator, number = model.partition("/versions/")
    return f"{root}{quote(name, safe='@')}{separator}{quote(number, safe='')}{verb}"


def reads(parse: Callable[[Any], T]) -> Callable[[httpx.Response], T]:
    """A reader of the JSON of a success. It raises `ApiError` for other answers."""
    return lambda response: parse(json_of(response))


def json_of(response: httpx.Response, *also: int) -> Any:
    """The JSON of a success, or of an answer with one of the other statuses. Raises `ApiError`, `ValueError`."""
    if not response.is_success and response.status_code not in also:
        raise api_error(response)
    return response.json()


def to_json(value: Any) -> bytes:
    """JSON, with numpy's values as numbers and lists, dates as ISO 8601 and bytes as base64.

    Raises:
        ValueError, TypeError: a value cannot be written as JSON, NaN among them.
    """
    return json.dumps(value, default=_plain, allow_nan=False).encode()


def shown(url: httpx.URL) -> str:
    """The URL without a user name and password."""
    return str(url.copy_with(userinfo=b"***") if url.userinfo else url)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"a value of type {type(value).__name__} cannot be sent as JSON")
