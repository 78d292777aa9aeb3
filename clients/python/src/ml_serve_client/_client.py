"""The two clients. Their methods send the calls that `_operations` and `_prediction_operations` build."""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from ml_serve_client import _operations, _prediction_operations
from ml_serve_client._call import Call, masked
from ml_serve_client._errors import ClientError, ConnectionFailed, NoResponse
from ml_serve_client._retry import DEFAULT_RETRY, Attempts, Retry
from ml_serve_client._version import __version__

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_USER_AGENT = {"user-agent": f"ml-serve-client/{__version__}"}


def _describe(method: Callable[..., Any], build: Callable[..., Any]) -> None:
    """Give `method` the name, docstring and signature of `build`, for `help` and editors."""
    signature = inspect.signature(build)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__name__ = build.__name__
    method.__doc__ = build.__doc__
    method.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[client, *signature.parameters.values()], return_annotation=inspect.Signature.empty
    )


def _sync(build: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """Make a method of `Client` that sends the call of `build`."""

    def method(client: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return client._send(build(*args, **kwargs))

    _describe(method, build)
    return method


def _async(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Make a method of `AsyncClient` that sends the call of `build`."""

    async def method(client: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await client._send(build(*args, **kwargs))

    _describe(method, build)
    return method


class Client:
    """Client of a gateway for blocking code. Threads may share it. Close it, or use ``with``.

    Args:
        base_url: URL of the gateway with its path prefix: ``https://api.example.com/ml/serve``.
        timeout: seconds for a call without a deadline, retries included.
        retry: retry policy.
        api_key: API key or token of every request.
        headers: headers of every request.
        transport: transport that replaces the network.

    Raises:
        ValueError: `base_url` is not an http or https URL, or `api_key` is not printable ASCII.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        timeout: float = 60.0,
        retry: Retry = DEFAULT_RETRY,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        url = _parse_url(base_url)
        self.url = masked(url)
        """The base URL, with user name and password masked."""
        self._timeout = timeout
        self._retry = retry
        self._http = httpx.Client(
            base_url=url, headers=_headers(headers, api_key), transport=transport, trust_env=_may_use_proxy(url)
        )

    predict = _sync(_prediction_operations.predict)
    predict_inputs = _sync(_prediction_operations.predict_inputs)
    predict_entities = _sync(_prediction_operations.predict_entities)
    infer = _sync(_prediction_operations.infer)
    models = _sync(_operations.models)
    model = _sync(_operations.model)
    metadata = _sync(_operations.metadata)
    schema = _sync(_operations.schema)
    statistics = _sync(_operations.statistics)
    compare = _sync(_operations.compare)
    features = _sync(_operations.features)
    load = _sync(_operations.load)
    promote = _sync(_operations.promote)
    rollback = _sync(_operations.rollback)
    traffic = _sync(_operations.traffic)
    set_traffic = _sync(_operations.set_traffic)
    unload = _sync(_operations.unload)
    health = _sync(_operations.health)
    ready = _sync(_operations.ready)
    status = _sync(_operations.status)

    def _send(self, call: Call[T]) -> T:
        attempts = Attempts(self._retry, call.budget_s(self._timeout))
        while True:
            try:
                with _network_errors(self.url):
                    response = self._http.request(**call.arguments(attempts.begin()))
                return call.result(response)
            except ClientError as error:
                wait = attempts.wait_after(error)
                if wait is None:
                    raise
            time.sleep(wait)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"


class AsyncClient:
    """`Client` for asyncio: the same arguments and methods, awaited. Close it, or use ``async with``."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        timeout: float = 60.0,
        retry: Retry = DEFAULT_RETRY,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        url = _parse_url(base_url)
        self.url = masked(url)
        """The base URL, with user name and password masked."""
        self._timeout = timeout
        self._retry = retry
        self._http = httpx.AsyncClient(
            base_url=url, headers=_headers(headers, api_key), transport=transport, trust_env=_may_use_proxy(url)
        )

    predict = _async(_prediction_operations.predict)
    predict_inputs = _async(_prediction_operations.predict_inputs)
    predict_entities = _async(_prediction_operations.predict_entities)
    infer = _async(_prediction_operations.infer)
    models = _async(_operations.models)
    model = _async(_operations.model)
    metadata = _async(_operations.metadata)
    schema = _async(_operations.schema)
    statistics = _async(_operations.statistics)
    compare = _async(_operations.compare)
    features = _async(_operations.features)
    load = _async(_operations.load)
    promote = _async(_operations.promote)
    rollback = _async(_operations.rollback)
    traffic = _async(_operations.traffic)
    set_traffic = _async(_operations.set_traffic)
    unload = _async(_operations.unload)
    health = _async(_operations.health)
    ready = _async(_operations.ready)
    status = _async(_operations.status)

    async def _send(self, call: Call[T]) -> T:
        attempts = Attempts(self._retry, call.budget_s(self._timeout))
        while True:
            try:
                with _network_errors(self.url):
                    response = await self._http.request(**call.arguments(attempts.begin()))
                return call.result(response)
            except ClientError as error:
                wait = attempts.wait_after(error)
                if wait is None:
                    raise
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"


def _parse_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"the URL cannot be read: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"'{masked(url)}' is not a URL such as {DEFAULT_URL}")
    return url


def _headers(headers: Mapping[str, str] | None, api_key: str | None) -> httpx.Headers:
    merged = httpx.Headers(_USER_AGENT)
    if api_key is not None:
        if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
            raise ValueError("the API key is not printable ASCII without spaces")  # the message must not show it
        merged["authorization"] = f"Bearer {api_key}"
    merged.update(headers)
    return merged


def _may_use_proxy(url: httpx.URL) -> bool:
    """Whether the proxies that the environment names apply; never for this machine."""
    return url.host not in _LOCAL_HOSTS


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Translate httpx errors into `ConnectionFailed` and `NoResponse`."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ConnectionFailed(f"cannot connect to {url}{_reason(error)}") from error
    except httpx.TimeoutException as error:
        raise NoResponse(f"{url} did not answer in time") from error
    except httpx.RequestError as error:
        raise NoResponse(f"the connection to {url} broke{_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return f": {text}" if text else ""
