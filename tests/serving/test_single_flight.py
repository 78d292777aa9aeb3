import asyncio

import pytest

from app.serving.single_flight import SingleFlight


async def test_work_asked_for_by_many_is_done_once() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    done = 0

    async def work() -> int:
        nonlocal done
        done += 1
        await asyncio.sleep(0.01)
        return 7

    assert await asyncio.gather(*(flight.do("k", work) for _ in range(20))) == [7] * 20
    assert done == 1
    assert "k" not in flight
    await flight.do("k", work)
    assert done == 2


async def test_a_caller_that_leaves_does_not_cancel_the_others() -> None:
    flight: SingleFlight[str, int] = SingleFlight()

    async def work() -> int:
        await asyncio.sleep(0.02)
        return 7

    first = asyncio.create_task(flight.do("k", work))
    await asyncio.sleep(0)
    second = asyncio.create_task(flight.do("k", work))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 7


async def test_a_failure_reaches_everybody_and_is_not_remembered() -> None:
    flight: SingleFlight[str, int] = SingleFlight()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def work() -> int:
        return 1

    failures = await asyncio.gather(*(flight.do("k", fail) for _ in range(3)), return_exceptions=True)
    assert [type(failure) for failure in failures] == [ZeroDivisionError] * 3
    assert await flight.do("k", work) == 1
    with pytest.raises(ZeroDivisionError):
        await flight.do("k", fail)
