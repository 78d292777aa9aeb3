"""Models that are not row-wise, called by many at once through the running platform."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import pytest

from ml_serve_client import Batching, Client, Model
from tests.platform import URL, Platform
from tests.scrape import total

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

CALLERS, CALLS = 16, 10
T = TypeVar("T")


async def answers(name: str, requests: list[list[float]]) -> list[Any]:
    """Call a model by `CALLERS` at once; each goes on with the next request."""
    left = list(enumerate(requests))
    found: dict[int, Any] = {}

    async def call(http: httpx.AsyncClient) -> None:
        while left:
            index, rows = left.pop()
            body = {"instances": [{"x": value} for value in rows]}
            answer = await http.post(f"/v1/models/{name}:predict", json=body)
            found[index] = answer.raise_for_status().json()["predictions"]

    async with httpx.AsyncClient(base_url=URL, timeout=120) as http:
        await asyncio.gather(*(call(http) for _ in range(CALLERS)))
    return [found[index] for index in range(len(requests))]


def reported(name: str, part: Callable[[Model], T | None]) -> T:
    """Return a part of a model's status as soon as it is there: pools and gateways report after they have answered."""
    deadline = time.monotonic() + 60
    with Client(URL) as client:
        while not (found := part(client.model(name))):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    return found


def batching(name: str) -> Batching:
    return reported(name, lambda model: model.versions["1"].batching)


async def test_running_sums_are_those_of_one_request(platform: Platform) -> None:
    assert await answers("sums", [[1.0, 1.0]] * CALLERS * CALLS) == [[1.0, 2.0]] * CALLERS * CALLS
    (large,) = await answers("sums", [[1.0] * 1025])
    assert large[-1] == 1025.0
    assert batching("sums") == Batching(
        row_wise=False, basis="disproved", reason="it answers rows of its input example differently alone and together"
    )


async def test_three_items_per_row_belong_to_their_caller(platform: Platform) -> None:
    requests = [[float(number)] for number in range(CALLERS * CALLS)]
    assert await answers("triple", requests) == [[value, value + 1, value + 2] for (value,) in requests]
    assert batching("triple").reason == "it answered 3 items for 1 rows"


async def test_a_tuple_belongs_to_its_caller(platform: Platform) -> None:
    requests = [[float(number), float(number + 1)] for number in range(CALLERS * CALLS)]
    expected = [[[f"label {value:g}" for value in rows], [value / 100 for value in rows]] for rows in requests]
    assert await answers("labels", requests) == expected


async def test_a_contradiction_gives_no_caller_a_wrong_answer(platform: Platform) -> None:
    """The example says nothing about 13."""
    assert await answers("bursting", [[1.0]]) == [[1.0]]
    assert batching("bursting") == Batching(row_wise=True, basis="proven")
    requests = [[float(number % 20)] for number in range(CALLERS * CALLS)]
    # Two calls occupy the version's slots, so that the first 13 waits with others and leaves in their batch.
    busy = [asyncio.create_task(answers("bursting", [[-1.0]])) for _ in range(2)]
    await asyncio.sleep(0.2)
    assert await answers("bursting", requests) == [rows * (2 if rows == [13.0] else 1) for rows in requests]
    assert await asyncio.gather(*busy) == [[[-1.0]]] * 2
    (problem,) = reported("bursting", lambda model: model.problems)
    assert problem.startswith("version 1 is not row-wise, so it is not batched:")
    assert batching("bursting").basis == "contradicted"
    assert total('ml_serve_repeated_requests_total{model="bursting",version="1"}') > 0
