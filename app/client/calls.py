"""What each method of a client sends and how its answer is read: one function per method, shared by both clients.

The signatures and docstrings here are those of the methods.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

from app.client import answers
from app.client.answers import Health, Loaded, Model, Prediction, ReplicaUsage
from app.client.errors import ApiError, api_error

T = TypeVar("T")
Row = Mapping[str, Any] | Sequence[Any]
"""An object of columns, or a list of values for a model that takes an array or has no signature."""

LOAD_WAIT_S = 330.0
"""Seconds that a load without a deadline is waited for: a little more than a gateway allows it by default."""
_CONNECT_S = 5.0
_MARGIN_S = 5.0  # at the deadline the gateway answers 504: waiting a little longer lets that answer arrive


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request and how its answer is read.

    Args:
        deadline: seconds after which the gateway shall give up.
        wait: seconds to wait for the answer where there is no deadline; None leaves it to the client.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    body: Mapping[str, Any] | None = None
    deadline: float | None = None
    wait: float | None = None

    def arguments(self, wait: float) -> dict[str, Any]:
        """Arguments for httpx's ``request``; `wait` is the client's own.

        Raises:
            ValueError, TypeError: a value of the body cannot be written as JSON, NaN among them.
        """
        seconds = self.deadline + _MARGIN_S if self.deadline is not None else self.wait or wait
        headers = {}
        content = None
        if self.deadline is not None:
            headers["x-request-timeout-seconds"] = f"{self.deadline:g}"
        if self.body is not None:
            headers["content-type"] = "application/json"
            given = {key: value for key, value in self.body.items() if value is not None}
            content = json.dumps(given, default=_plain, allow_nan=False).encode()
        timeout = httpx.Timeout(seconds, connect=min(_CONNECT_S, seconds))
        return {"method": self.method, "url": self.path, "headers": headers, "content": content, "timeout": timeout}

    def answer(self, response: httpx.Response) -> T:
        """The typed answer. Raises `ApiError`."""
        try:
            return self.read(response)
        except (KeyError, TypeError, ValueError, AttributeError):
            if not response.is_success:
                raise api_error(response) from None
            kind = response.headers.get("content-type", "no content type")
            message = f"{shown(response.url)} does not answer as an ml-serve gateway does ({kind})"
            raise ApiError(response.status_code, "unexpected_answer", message, {}, None) from None


def predict(
    model: str,
    data: Mapping[str, Any] | Iterable[Row],
    *,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> Call[Prediction]:
    """Predict rows.

    Args:
        model: a registered model's name, or a reference: ``name@alias``, ``name/versions/N``.
        data: one row as an object of columns, or several rows. Values may also be numpy's, dates and bytes.
        version, alias: one of them, instead of writing a reference.
        params: inference parameters, where the model has them.
        timeout: seconds until the gateway gives up.
    """
    instances = [data] if isinstance(data, Mapping) else list(data)
    body = {"instances": instances, "parameters": params}
    return Call("POST", _path(model, version, alias, ":predict"), _prediction, body, timeout)


def predict_entities(
    model: str,
    entities: Sequence[Mapping[str, Any]],
    *,
    feature_service: str | None = None,
    feature_view: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> Call[Prediction]:
    """Predict entities, whose columns the gateway reads from the feature store.

    Args:
        entities: one object of join keys per row.
        feature_service, feature_view: one of them: where the columns are read.
        overrides: columns that replace or add to the store's: one value for all entities, or a list with one each.

    The others are those of `predict`.
    """
    body = {
        "entities": list(entities),
        "feature_service": feature_service,
        "feature_view": feature_view,
        "overrides": overrides,
        "parameters": params,
    }
    return Call("POST", _path(model, version, alias, ":predict"), _prediction, body, timeout)


def models() -> Call[list[Model]]:
    """Every registered model."""
    return Call("GET", "/v1/models", _reads(answers.models))


def model(name: str) -> Call[Model]:
    """One registered model."""
    return Call("GET", _path(name), _reads(answers.one_model))


def load(ref: str, *, timeout: float | None = None) -> Call[Loaded]:
    """Make a version resident; returns once it is warm on every replica of its pool.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
        timeout: seconds until the gateway gives up.
    """
    return Call("POST", _path(ref, verb=":load"), _reads(answers.loaded), deadline=timeout, wait=LOAD_WAIT_S)


def unload(ref: str) -> Call[Loaded]:
    """Let a version go from memory; it comes back when it is called or loaded."""
    return Call("POST", _path(ref, verb=":unload"), _reads(answers.loaded))


def health() -> Call[Health]:
    """Every part and its state, also when the platform cannot answer requests."""
    return Call("GET", "/health", lambda response: answers.health(_json(response, 503)))


def ready() -> Call[bool]:
    """Whether the models that should be served are loaded; False too while no replica is up."""
    return Call("GET", "/readyz", lambda response: not response.is_server_error and bool(_json(response)["status"]))


def status() -> Call[list[ReplicaUsage]]:
    """What every replica takes."""
    return Call("GET", "/v1/status", _reads(answers.replicas))


def shown(url: httpx.URL) -> str:
    """The URL without a user name and password."""
    return str(url.copy_with(userinfo=b"***") if url.userinfo else url)


def _path(model: str, version: str | int | None = None, alias: str | None = None, verb: str = "") -> str:
    """The path of a reference: names are percent-encoded, ``@`` and ``/versions/`` stay readable."""
    if version is not None and alias is not None:
        raise ValueError("give a version or an alias, not both")
    if version is not None:
        model = f"{model}/versions/{version}"
    elif alias is not None:
        model = f"{model}@{alias}"
    name, separator, number = model.partition("/versions/")
    return f"/v1/models/{quote(name, safe='@')}{separator}{quote(number, safe='')}{verb}"


def _reads(parse: Callable[[Any], T]) -> Callable[[httpx.Response], T]:
    return lambda response: parse(_json(response))


def _json(response: httpx.Response, *also: int) -> Any:
    """The JSON of a success, or of an answer with one of the other statuses. Raises `ApiError`, `ValueError`."""
    if not response.is_success and response.status_code not in also:
        raise api_error(response)
    return response.json()


def _prediction(response: httpx.Response) -> Prediction:
    return answers.prediction(_json(response), response.headers.get("x-request-id"))


def _plain(value: Any) -> Any:
    """What JSON has no type for: numpy's arrays and numbers, dates as ISO 8601, bytes as base64."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(f"a value of type {type(value).__name__} cannot be sent as JSON")
