"""How long the reader of the registry waits between two readings."""

from __future__ import annotations

from typing import Any, cast

import pytest

from app.deployments.registry_reader import RegistryReader
from app.serving.pool_members import PoolPlan
from app.serving.release_book import ReleaseBook


async def nothing() -> None:
    """Nobody is told."""


@pytest.mark.parametrize(
    ("poll_s", "failures", "took_s", "pause_s"),
    [(5, 0, 0.1, 5), (5, 0, 4, 20), (5, 1, 4, 10), (5, 2, 0, 20), (5, 50, 0, 30), (60, 3, 0, 60)],
)
def test_pauses_grow_with_failures_and_with_long_readings_and_are_never_all_alike(
    poll_s: float, failures: int, took_s: float, pause_s: float
) -> None:
    book = ReleaseBook(default_alias="champion", preload=(), pools={"default": PoolPlan()})
    reader = RegistryReader(cast(Any, None), book, nothing, poll_s)
    reader._failures = failures
    pauses = [reader._pause_s(took_s) for _ in range(200)]
    assert all(0.8 * pause_s <= pause <= 1.2 * pause_s for pause in pauses)
    assert len(set(pauses)) > 100
