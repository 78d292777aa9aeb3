"""Typed calls between deployments over Serve handles, with Ray's errors translated into ours."""

from __future__ import annotations

import copy
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from app.errors import Overloaded, PoolUnavailable, ReplicaDied, ServingError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_BROADCAST_S = 5.0
_END: Any = object()


class Remote:
    """Another deployment. Calls are named and typed by a method of its class, or of its Protocol in `remotes`.

    Args:
        handle: Serve's handle of the deployment.
        name: the deployment in messages, ``pool 'default'``.
    """

    def __init__(self, handle: DeploymentHandle, name: str) -> None:
        self._handle = handle
        self._name = name

    async def call(self, method: Callable[Concatenate[Any, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method on one replica. Raises as `answer`."""
        response = getattr(self._handle, method.__name__).remote(*args, **kwargs)
        found: T = await answer(response, self._name)
        return found

    def bind(self, method: Callable[Concatenate[Any, P], Awaitable[T]], **options: Any) -> Callable[P, Awaitable[T]]:
        """Prepare repeated calls of a method. Call this on the event loop.

        Serve makes a new handle for each attribute access and each set of options; a bound method keeps one.

        Args:
            options: of ``DeploymentHandle.options``.
        """
        bound = self._handle.options(method_name=method.__name__, **options)

        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            found: T = await answer(bound.remote(*args, **kwargs), self._name)
            return found

        return call

    def bind_stream(
        self, method: Callable[Concatenate[Any, P], AsyncGenerator[T]], **options: Any
    ) -> Callable[P, AsyncGenerator[T]]:
        """Prepare repeated calls of an asynchronous generator method, as `bind` does.

        Closing a call's generator, or cancelling who waits for it, cancels the call on the replica.
        """
        bound = self._handle.options(method_name=method.__name__, stream=True, **options)

        async def call(*args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T]:
            response = bound.remote(*args, **kwargs)
            try:
                while (item := await answer(anext(response, _END), self._name)) is not _END:
                    yield item
            finally:
                response.cancel()

        return call

    async def broadcast(
        self, method: Callable[Concatenate[Any, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> list[T]:
        """Call a method on all replicas. Leaves out those that fail or do not answer within five seconds."""
        try:
            found = await self._handle.broadcast(method.__name__, *args, **kwargs).results_async(
                timeout_s=_BROADCAST_S, return_exceptions=True
            )
        except Exception as error:  # no replica, or none that answers
            log.info("broadcast failed, leaving the deployment out: deployment=%r error=%s", self._name, error)
            return []
        return [result for result in found if not isinstance(result, BaseException)]


async def answer(response: Awaitable[T], name: str) -> T:
    """Await a handle's response.

    Ray writes the remote traceback into the text of an error, so that text never reaches a caller.

    Args:
        name: the deployment in messages, ``pool 'default'``.

    Raises:
        ServingError: the remote side raised it.
        ReplicaDied: the replica died during the call or became unreachable.
        PoolUnavailable: the deployment has no replica to call.
        Overloaded: the replicas refuse more calls.
    """
    try:
        return await response
    except ServingError as error:
        raise _own(error) from None
    except RayTaskError as error:
        log.exception("call failed: deployment=%r", name)
        raise _own(error) from error
    except RayActorError as error:
        raise ReplicaDied(f"a replica of {name} died during the call; try again") from error
    except BackPressureError as error:
        raise Overloaded(f"{name} refuses more calls; try again", {"retry_after_s": 1}) from error
    except (DeploymentUnavailableError, ReplicaUnavailableError, RayError) as error:
        raise PoolUnavailable(f"{name} does not answer; try again") from error
    except Exception as error:  # over gRPC the remote exception arrives unwrapped, and so do gRPC's own
        log.exception("call failed: deployment=%r", name)
        raise Unavailable(f"{name} failed; the log has the cause") from error


def returns_errors(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | ServingError]]:
    """Make a deployment's method return our errors, because Serve logs a traceback for each raised one.

    The caller's side is `raised`.
    """

    @wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | ServingError:
        try:
            return await method(*args, **kwargs)
        except ServingError as error:
            return copy.copy(error)  # without its traceback's frames

    return wrapper


def raised(found: T | ServingError) -> T:
    """Return the result of a `returns_errors` method, or raise the error that it returned."""
    if isinstance(found, ServingError):
        raise found
    return found


def _own(error: Any) -> Exception:
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else error
    if isinstance(cause, ServingError):
        return copy.copy(cause)
    return Unavailable("an internal call failed; the log has the cause")
