from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from app.errors import DeadlineExceeded, FeatureSourceNotFound
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.serving.observation import TraceCarrier
from app.serving.prediction import enrichment
from app.serving.prediction.enrichment import Enrichment, FeatureRequest
from tests.fakes import FakeFeatureStore

QUERY = FeatureQuery("prices", None)


class CountingStore(FakeFeatureStore):
    """Counts the definitions that it is asked for; a call listed in `hangs` never returns."""

    def __init__(self, *hangs: str) -> None:
        super().__init__({"prices": {"oil": {"price": 1.5}}})
        self.sources = 0
        self._hangs = hangs

    async def source(self, query: FeatureQuery) -> FeatureSource:
        self.sources += 1
        await self._hang("source")
        return await super().source(query)

    async def read(
        self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]], traces: Sequence[TraceCarrier] = ()
    ) -> FeatureRows:
        await self._hang("read")
        return await super().read(query, entities, traces)

    async def _hang(self, call: str) -> None:
        if call in self._hangs:
            await asyncio.Event().wait()


async def read(reads: Enrichment, query: FeatureQuery = QUERY, within_s: float = 60) -> list[Any]:
    deadline = asyncio.get_running_loop().time() + within_s
    found = await reads.read(FeatureRequest(query, ids=["oil"]), deadline)
    return list(found.rows.columns["price"])


async def test_a_definition_is_asked_for_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    store = CountingStore()
    reads = Enrichment(store, max_entities=8)
    assert [await read(reads) for _ in range(3)] == [[1.5]] * 3
    await reads.source(QUERY)
    assert store.sources == 1
    monkeypatch.setattr(enrichment, "_SOURCE_TTL_S", 0.0)
    await read(reads)
    assert store.sources == 2


async def test_a_missing_source_is_asked_for_every_time() -> None:
    store = CountingStore()
    reads = Enrichment(store, max_entities=8)
    for _ in range(2):
        with pytest.raises(FeatureSourceNotFound):
            await read(reads, FeatureQuery("nothing", None))
    assert store.sources == 2


@pytest.mark.parametrize("call", ["source", "read"])
async def test_a_store_that_hangs_costs_only_the_deadline(call: str) -> None:
    reads = Enrichment(CountingStore(call), max_entities=8)
    with pytest.raises(DeadlineExceeded):
        await read(reads, within_s=0.05)
