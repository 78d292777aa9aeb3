import pickle
import warnings
from collections.abc import Awaitable

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError
    from ray.serve.exceptions import BackPressureError

    from app.deployments.rpc import answer

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


async def test_an_answer_is_handed_on() -> None:
    assert await answer(value(), "pool") == 7


@pytest.mark.parametrize("wrap", [lambda error: error, remote], ids=["grpc", "actor call"])
async def test_our_own_errors_come_as_they_were_raised(wrap: type) -> None:
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
