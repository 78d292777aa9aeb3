"""Calls between deployments, with Ray's errors turned into ours."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from app.errors import Overloaded, PoolUnavailable, ReplicaDied, ServingError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

_GATHER_S = 5.0

Handle: TypeAlias = Any
"""Ray's ``DeploymentHandle``, whose methods are those of the deployment behind it."""


async def answer(response: Awaitable[T], part: str) -> T:
    """Await a handle's response.

    The text of a remote error never reaches a caller: Ray writes the remote traceback into it.

    Args:
        part: what is called, for messages: ``pool 'default'``.

    Raises:
        ServingError: the one that the remote side raised.
        ReplicaDied: the replica died with this call, or cannot be reached any more.
        PoolUnavailable: there is no replica to call.
        Overloaded: the replicas refuse more calls.
    """
    try:
        return await response
    except ServingError as error:
        raise _own(error) from None
    except RayTaskError as error:
        log.exception("%s failed", part)
        raise _own(error) from error
    except RayActorError as error:  # died, or unreachable while the call was under way
        raise ReplicaDied(f"a replica of {part} died while it answered; try again") from error
    except BackPressureError as error:
        raise Overloaded(f"{part} refuses more calls; try again", {"retry_after_s": 1}) from error
    except (DeploymentUnavailableError, ReplicaUnavailableError, RayError) as error:
        raise PoolUnavailable(f"{part} does not answer now; try again") from error
    except Exception as error:  # over gRPC the remote side's exception comes as it is, and so do gRPC's own
        log.exception("%s failed", part)
        raise Unavailable(f"{part} failed; the log has the cause") from error


async def gather(handle: Handle, method: str, *args: Any) -> Sequence[Any]:
    """The answers of all of a deployment's replicas, exceptions among them; none where they do not answer in time."""
    try:
        results: Sequence[Any] = await handle.broadcast(method, *args).results_async(
            timeout_s=_GATHER_S, return_exceptions=True
        )
    except Exception:  # no replica, or none that answers: there is nothing to show
        log.warning("a deployment does not tell its figures", exc_info=True)
        return ()
    return results


def returns_errors(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | ServingError]]:
    """Have a deployment's method return our errors: Serve writes a traceback into the log for what a replica raises.

    The caller's side is `raised`.
    """

    @wraps(method)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T | ServingError:
        try:
            return await method(*args, **kwargs)
        except ServingError as error:
            return copy.copy(error)  # without the frames that it has come through

    return wrapper


def raised(found: T | ServingError) -> T:
    """What a method of `returns_errors` has returned, or raised again."""
    if isinstance(found, ServingError):
        raise found
    return found


def _own(error: Any) -> Exception:
    """The remote side's own exception, without Ray's text around it."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else error
    if isinstance(cause, ServingError):
        return copy.copy(cause)
    return Unavailable("a part behind the gateway failed; the log has the cause")
