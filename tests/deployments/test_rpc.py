"""Calls to other deployments: typed, and with Ray's errors translated."""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Awaitable
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError
    from ray.serve.exceptions import BackPressureError

    from app.deployments import remotes
    from app.deployments.gateway import Gateway
    from app.deployments.model_pool import ModelPool
    from app.deployments.rpc import Remote, answer

from app.errors import InvalidInput, Overloaded, PoolUnavailable, ReplicaDied, ServingError, Unavailable


async def value() -> int:
    return 7


async def failing(error: Exception) -> int:
    raise error


def call(error: Exception) -> Awaitable[int]:
    return answer(failing(error), "pool 'default'")


def remote(error: Exception) -> Exception:
    """The error as Ray hands it to a caller: a class of both kinds, with the remote traceback in its text."""
    both: Exception = RayTaskError("predict", "Traceback: /secret/path", error).as_instanceof_cause()
    return both


async def test_the_answer_of_a_call_is_returned() -> None:
    assert await answer(value(), "pool") == 7


def methods(cls: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(cls, inspect.isfunction) if name[0] != "_"}


@pytest.mark.parametrize(
    ("protocol", "deployment"),
    [
        (remotes.RemoteGateway, Gateway),
        (remotes.RemotePool, ModelPool),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_deployment_has_the_methods_of_its_protocol(protocol: type, deployment: Any) -> None:
    declared, found = methods(protocol), methods(deployment.func_or_class)
    assert len(declared) > 1
    for name, method in declared.items():
        wanted, given = inspect.signature(method), inspect.signature(found[name])
        shape = [(one.name, one.kind, one.annotation) for one in wanted.parameters.values()]
        assert [(one.name, one.kind, one.annotation) for one in given.parameters.values()] == shape, name
        assert given.return_annotation == wanted.return_annotation, name


class Handle:
    """A Serve handle of a pool of two replicas, one of which fails."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def options(self, method_name: str, **options: Any) -> Handle:
        self.calls.append((method_name, (), options))
        return self

    def broadcast(self, *call: Any) -> Handle:
        self.calls.append(("broadcast", call, {}))
        return self

    async def results_async(self, **_: Any) -> list[object]:
        return [RuntimeError("dead"), {"replica": "r2"}]

    async def remote(self, *args: Any) -> Any:
        return args

    def __getattr__(self, name: str) -> Handle:
        self.calls.append((name, (), {}))
        return self


async def test_calls_name_the_method_by_its_protocol() -> None:
    handle = Handle()
    pool = Remote(handle, "pool 'default'")
    assert await pool.call(remotes.RemotePool.usage) == ()  # type: ignore[comparison-overlap]
    await pool.bind(remotes.RemotePool.usage, _by_reference=True)()
    assert handle.calls == [("usage", (), {}), ("usage", (), {"_by_reference": True})]


async def test_a_broadcast_leaves_out_replicas_that_fail() -> None:
    handle = Handle()
    assert await Remote(handle, "pool").broadcast(remotes.RemotePool.usage) == [{"replica": "r2"}]
    assert handle.calls == [("broadcast", ("usage",), {})]


async def test_a_broadcast_without_replicas_returns_nothing() -> None:
    class NoReplica(Handle):
        async def results_async(self, **_: Any) -> list[object]:
            raise RuntimeError("no replica")

    assert await Remote(NoReplica(), "pool").broadcast(remotes.RemotePool.usage) == []


@pytest.mark.parametrize("wrap", [lambda error: error, remote], ids=["grpc", "actor call"])
async def test_our_own_errors_arrive_as_they_were_raised(wrap: type) -> None:
    with pytest.raises(InvalidInput) as caught:
        await call(wrap(InvalidInput("row 3 is wrong", {"row": 3})))
    assert type(caught.value) is InvalidInput
    assert (caught.value.message, caught.value.details) == ("row 3 is wrong", {"row": 3})
    assert "secret" not in str(caught.value)
    pickle.dumps(caught.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), ReplicaDied),
        (ActorUnavailableError("gone", b"x" * 16), ReplicaDied),
        (BackPressureError(num_queued_requests=1, max_queued_requests=1), Overloaded),
        (GetTimeoutError("late"), PoolUnavailable),
        (RuntimeError("/secret/path"), Unavailable),
        (remote(RuntimeError("/secret/path")), Unavailable),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_rays_errors_become_ours_without_their_text(error: Exception, kind: type[ServingError]) -> None:
    with pytest.raises(ServingError) as caught:
        await call(error)
    assert type(caught.value) is kind
    assert "secret" not in caught.value.message
    assert "Traceback" not in caught.value.message
