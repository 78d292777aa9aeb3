"""Threads that run blocking iterators for the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator

import pytest

from app.errors import ModelFailed, Overloaded
from app.hosting.stream_threads import StreamThreads


class Numbers:
    """Counts without an end; tells how far it came and whether it was closed, and in which thread."""

    def __init__(self) -> None:
        self.last = -1
        self.closed = threading.Event()
        self.threads: set[int] = set()

    def __call__(self) -> Generator[int]:
        try:
            while True:
                self.threads.add(threading.get_ident())
                self.last += 1
                yield self.last
        finally:
            self.threads.add(threading.get_ident())
            self.closed.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads change it
            await asyncio.sleep(0.001)


async def test_items_arrive_in_order_and_end() -> None:
    assert [item async for item in StreamThreads(1).iterate(lambda: iter(range(1000)))] == list(range(1000))


async def test_an_item_arrives_while_the_iterator_works() -> None:
    go_on = threading.Event()

    def items() -> Iterator[str]:
        yield "first"
        assert go_on.wait(10)
        yield "second"

    stream = StreamThreads(1).iterate(items)
    assert await anext(stream) == "first"
    go_on.set()
    assert [item async for item in stream] == ["second"]


async def test_a_slow_reader_holds_the_iterator_back() -> None:
    numbers = Numbers()
    stream = StreamThreads(1).iterate(numbers)
    assert await anext(stream) == 0
    await asyncio.sleep(0.1)
    assert numbers.last < 32
    await stream.aclose()


async def test_a_closed_stream_closes_the_iterator_in_its_thread() -> None:
    numbers, threads = Numbers(), StreamThreads(1)
    stream = threads.iterate(numbers)
    await anext(stream)
    await stream.aclose()
    await until(numbers.closed.is_set)
    assert len(numbers.threads) == 1
    await until(lambda: threads.busy == 0)


async def test_a_cancelled_reader_closes_the_iterator() -> None:
    numbers, reached = Numbers(), asyncio.Event()

    async def read() -> None:
        async for _ in StreamThreads(1).iterate(numbers):
            reached.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(read())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(numbers.closed.is_set)


async def test_errors_of_the_iterator_reach_the_reader() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ModelFailed("the model raised")

    stream = StreamThreads(1).iterate(items)
    assert await anext(stream) == 1
    with pytest.raises(ModelFailed):
        await anext(stream)


async def test_one_stream_too_many_is_refused_until_one_ends() -> None:
    threads = StreamThreads(2)
    streams = [threads.iterate(Numbers()) for _ in range(3)]
    for stream in streams[:2]:
        await anext(stream)
    assert threads.busy == 1
    with pytest.raises(Overloaded, match="all 2 stream threads"):
        await anext(streams[2])
    await streams[0].aclose()
    await until(lambda: threads.busy < 1)
    assert await anext(threads.iterate(Numbers())) == 0
    threads.close()


async def test_calls_wait_for_a_thread() -> None:
    threads, gate = StreamThreads(1), threading.Event()
    first = asyncio.create_task(threads.call(lambda: gate.wait(10)))
    second = asyncio.create_task(threads.call(lambda: "second"))
    await until(lambda: threads.busy == 2)
    gate.set()
    assert await second == "second"
    assert await first is True


async def test_closing_stops_all_iterators() -> None:
    numbers, threads = Numbers(), StreamThreads(1)
    stream = threads.iterate(numbers)
    await anext(stream)
    threads.close()
    await until(numbers.closed.is_set)
