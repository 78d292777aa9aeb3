"""Turn an error into a reply: one table of statuses, one encoder per dialect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from app import errors
from app.api.http.exchange import ErrorEncoder, Exchange, Reply, dump
from app.errors import ServingError

log = logging.getLogger(__name__)

STATUSES: dict[type[ServingError], int] = {
    errors.InvalidRequest: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Unsupported: 501,
    errors.TooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.Overloaded: 429,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.CallerGone: 499,
    errors.ModelFailed: 500,
    errors.StartupError: 500,
    errors.ServingError: 500,
}
"""Status of each class and of its subclasses without a status of their own."""


def status_of(error: ServingError) -> int:
    """Return the status of the nearest base class in `STATUSES`."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def known(error: Exception, request_id: str) -> ServingError:
    """Return the error itself, or for an unexpected one a safe substitute. The cause goes to the log."""
    if isinstance(error, ServingError):
        if status_of(error) == 500:
            log.error(
                "request failed: %s request_id=%s code=%s details=%s",
                error.message,
                request_id,
                error.code,
                error.details,
            )
        return error
    log.error(
        "request failed with an unexpected error, answering status 500: request_id=%s", request_id, exc_info=error
    )
    return ServingError("the gateway failed unexpectedly; its log has the cause under the request id")


def _headers(error: ServingError) -> tuple[tuple[bytes, bytes], ...]:
    seconds = error.details.get("retry_after_s")
    return ((b"retry-after", str(seconds).encode()),) if seconds is not None else ()


def serve_error(error: Exception, exchange: Exchange) -> Reply:
    """Encode as ``{"status": "error", "error": {"code", "message", "details"?}, "request_id"}``."""
    fault = known(error, exchange.request_id)
    described: dict[str, Any] = {"code": fault.code, "message": fault.message}
    if fault.details:
        described["details"] = fault.details
    body = {"status": "error", "error": described, "request_id": exchange.request_id}
    return Reply(dump(body), status_of(fault), _headers(fault))


def v1_error(error: Exception, exchange: Exchange) -> Reply:
    """Encode as KServe's ``{"error": "..."}``, with the code, details and request id beside it."""
    fault = known(error, exchange.request_id)
    body = {"error": fault.message, "code": fault.code, "details": fault.details, "request_id": exchange.request_id}
    return Reply(dump(body), status_of(fault), _headers(fault))


MLFLOW_CODES: dict[type[ServingError], str] = {
    errors.MalformedBody: "BAD_REQUEST",
    errors.InvalidRequest: "INVALID_PARAMETER_VALUE",
    errors.ModelNotFound: "RESOURCE_DOES_NOT_EXIST",
    errors.NotFound: "ENDPOINT_NOT_FOUND",
    errors.Conflict: "RESOURCE_CONFLICT",
    errors.TooLarge: "BAD_REQUEST",
    errors.UnsupportedMediaType: "BAD_REQUEST",
    errors.Unsupported: "NOT_IMPLEMENTED",
    errors.Overloaded: "RESOURCE_EXHAUSTED",
    errors.Unavailable: "TEMPORARILY_UNAVAILABLE",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.ServingError: "INTERNAL_ERROR",
}
"""MLflow's error code of each class and of its subclasses without a code of their own."""


def mlflow_error(error: Exception, exchange: Exchange) -> Reply:
    """Encode as MLflow's ``{"error_code", "message"}``, with details and the request id beside it."""
    fault = known(error, exchange.request_id)
    code = next(MLFLOW_CODES[kind] for kind in type(fault).__mro__ if kind in MLFLOW_CODES)
    if isinstance(fault, errors.InvalidInput) and _is_value_error(fault.details):
        code = "BAD_REQUEST"
    body = {"error_code": code, "message": fault.message, "details": fault.details, "request_id": exchange.request_id}
    return Reply(dump(body), status_of(fault), _headers(fault))


def _is_value_error(details: Mapping[str, Any]) -> bool:
    """Tell a wrong value, which MLflow finds in the body, from a wrong name or shape, which its model finds."""
    return "row" in details and "missing" not in details and details.get("expected") != "object"


def encoder_of(path: str) -> ErrorEncoder:
    """Return the encoder of the dialect that owns a path, for paths without a route."""
    if path.startswith(("/invocations", "/models/", "/ping", "/version")):
        return mlflow_error
    return v1_error if path.startswith(("/v1", "/v2")) else serve_error
