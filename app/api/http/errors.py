"""Turn an error into a reply: one table of statuses, one `ErrorBody` per dialect."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import islice
from typing import Any

from pydantic import BaseModel

from app import errors
from app.api.http.exchange import Exchange, Reply, dump
from app.errors import ServingError

log = logging.getLogger(__name__)

STATUSES: dict[type[ServingError], int] = {
    errors.InvalidRequest: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Unsupported: 501,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Overloaded: 429,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.BodyTimeout: 408,
    errors.CallerGone: 499,
    errors.ServingError: 500,
}
"""Status of each class and of its subclasses without a status of their own."""

_MOST_MESSAGE = 2000
_MOST_TEXT = 200
_MOST_ITEMS = 256
"""Characters of a message and of a text in the details, and items of a list there: they may quote the caller."""

_CHALLENGE = (b"www-authenticate", b"Bearer")
"""RFC 9110, 11.6.1: a response with status 401 has this header."""


class ErrorBody(BaseModel, ABC):
    """The body of a dialect's error responses: its fields document it. `request_id` is the last of them."""

    @staticmethod
    @abstractmethod
    def describe(error: ServingError) -> dict[str, Any]:
        """Return the fields other than `request_id`."""


def status_of(error: ServingError) -> int:
    """Return the status of the nearest base class in `STATUSES`."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def known(error: Exception, request_id: str, trace_id: str | None = None) -> ServingError:
    """Return the error with texts of bounded length, or for an unexpected one a safe substitute.

    The cause goes to the log.
    """
    facts = {"facts": {"trace_id": trace_id}} if trace_id is not None else None
    if isinstance(error, ServingError):
        error = _bounded(error)
        if status_of(error) == 500:
            log.error(
                "request failed: %s request_id=%s code=%s details=%s",
                error.message,
                request_id,
                error.code,
                error.details,
                extra=facts,
            )
        return error
    log.error(
        "request failed with an unexpected error, answering status 500: request_id=%s",
        request_id,
        exc_info=error,
        extra=facts,
    )
    return ServingError("the gateway failed unexpectedly; its log has the cause under the request id")


def _bounded(error: ServingError) -> ServingError:
    """Return the error as it can be sent: with texts that are UTF-8 and not too long."""
    message, details = _text(error.message, _MOST_MESSAGE), _cut(error.details)
    return error if (message, details) == (error.message, error.details) else type(error)(message, details)


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value, _MOST_TEXT)
    if isinstance(value, Mapping):
        return {_cut(key): _cut(item) for key, item in islice(value.items(), _MOST_ITEMS)}
    return [_cut(item) for item in value[:_MOST_ITEMS]] if isinstance(value, list | tuple) else value


def _text(text: str, most: int) -> str:
    text = text if len(text) <= most else f"{text[:most]}..."
    return text.encode("utf-8", "replace").decode()  # a model's names may have half a character


def error_reply(error: Exception, exchange: Exchange, kind: type[ErrorBody]) -> Reply:
    """Encode an error in the form of a dialect."""
    observation = exchange.observation
    fault = known(error, exchange.request_id, observation.trace_id if observation is not None else None)
    if observation is not None:
        observation.failed(fault)
    seconds = fault.details.get("retry_after_s")
    headers = ((b"retry-after", str(seconds).encode()),) if seconds is not None else ()
    if isinstance(fault, errors.Unauthenticated):
        headers = (_CHALLENGE,)
    body = {**kind.describe(fault), "request_id": exchange.request_id}
    return Reply(dump(body), status_of(fault), headers)
