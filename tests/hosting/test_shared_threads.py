"""Calls that hang keep only the calls for their own key waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from app.hosting import shared_threads
from app.hosting.shared_threads import SharedThreads


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_threads, "_SLOW_S", 0.1)


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """What hanging calls wait for."""
    event = threading.Event()
    yield event
    event.set()


class Call:
    """A call that waits for an event, or for nothing, and answers its thread."""

    def __init__(self, go: threading.Event | None = None) -> None:
        self._go = go
        self.runs = threading.Event()

    def __call__(self) -> str:
        self.runs.set()
        if self._go is not None:
            assert self._go.wait(30)
        return threading.current_thread().name


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def hanging(threads: SharedThreads, key: str, count: int, go: threading.Event) -> list[asyncio.Task[str]]:
    """Start calls that hang, as many as have a place."""
    calls = [Call(go) for _ in range(count)]
    tasks = [asyncio.ensure_future(threads.run(key, call)) for call in calls]
    await until(lambda: all(call.runs.is_set() for call in calls))
    return tasks


async def test_a_call_runs_in_a_thread() -> None:
    threads = SharedThreads(1, "predict")
    assert threads.idle
    assert (await threads.run("a", Call())).startswith("predict")
    await until(lambda: threads.idle)
    threads.close()


async def test_as_many_calls_run_as_there_are_places(go: threading.Event) -> None:
    threads = SharedThreads(2, "predict")
    tasks = await hanging(threads, "a", 2, go)
    third, other = Call(), Call()
    tasks += [asyncio.ensure_future(threads.run("a", third)), asyncio.ensure_future(threads.run("b", other))]
    await asyncio.sleep(0.02)
    assert not third.runs.is_set()
    assert not other.runs.is_set()
    go.set()
    await asyncio.gather(*tasks)
    threads.close()


async def test_calls_that_hang_keep_no_other_key_waiting(go: threading.Event) -> None:
    threads = SharedThreads(2, "predict")
    tasks = await hanging(threads, "a", 2, go)
    same = Call()
    tasks.append(asyncio.ensure_future(threads.run("a", same)))
    async with asyncio.timeout(10):
        for _ in range(3):
            await threads.run("b", Call())
    assert not same.runs.is_set()  # a key never has more than its places
    go.set()
    await asyncio.gather(*tasks)
    assert same.runs.is_set()
    threads.close()


async def test_one_place_is_one_call_at_a_time_for_a_key(go: threading.Event) -> None:
    threads = SharedThreads(1, "predict")
    tasks = await hanging(threads, "a", 1, go)
    second = Call()
    tasks.append(asyncio.ensure_future(threads.run("a", second)))
    await asyncio.sleep(0.3)  # the first one is slow by now
    assert not second.runs.is_set()
    go.set()
    await asyncio.gather(*tasks)
    threads.close()


async def test_a_caller_who_leaves_takes_its_call_along(go: threading.Event) -> None:
    threads = SharedThreads(1, "predict")
    tasks = await hanging(threads, "a", 1, go)
    second = Call()
    waiting = asyncio.ensure_future(threads.run("a", second))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting])
    go.set()
    await asyncio.gather(*tasks)
    await until(lambda: threads.idle)
    assert not second.runs.is_set()
    threads.close()


async def test_a_call_may_take_its_time_but_not_more(go: threading.Event) -> None:
    threads = SharedThreads(1, "load")
    with pytest.raises(TimeoutError):
        await threads.run("a", Call(go), timeout_s=0.05)
    assert not threads.idle  # it runs on
    waited = asyncio.ensure_future(threads.run("a", Call(), timeout_s=0.05))
    await asyncio.sleep(0.2)
    go.set()
    await waited  # the wait for a place did not count
    threads.close()


async def test_an_error_of_a_call_is_raised() -> None:
    def fail() -> None:
        raise ValueError("no")

    threads = SharedThreads(1, "predict")
    with pytest.raises(ValueError, match="no"):
        await threads.run("a", fail)
    assert (await threads.run("a", Call())).startswith("predict")
    threads.close()


async def test_even_slow_calls_are_bounded(go: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_threads, "_SPARE", 1)
    threads = SharedThreads(1, "predict")
    tasks = await hanging(threads, "a", 1, go)
    tasks += await hanging(threads, "b", 1, go)
    last = Call()
    tasks.append(asyncio.ensure_future(threads.run("c", last)))
    await asyncio.sleep(0.3)
    assert not last.runs.is_set()
    go.set()
    await asyncio.gather(*tasks)
    threads.close()
