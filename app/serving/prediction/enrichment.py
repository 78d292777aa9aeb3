"""Enrichment: entities in, the columns of a model out, read from the feature store or overridden by the caller."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.errors import EntityNotFound, FeatureStoreUnavailable, InvalidInput
from app.serving.batching.batcher import Batcher
from app.serving.batching.limits import BatchLimits
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from app.serving.observation import Observation, TraceCarrier
from app.serving.ports import FeatureStore
from app.serving.prediction.deadlines import expire_at, until
from app.serving.prediction.phases import phase
from app.serving.signatures.signature import Signature
from app.serving.signatures.validation_errors import short

_CALLS_IN_FLIGHT = 4
_MAX_BYTES = 64 * 1024**2
_SOURCE_TTL_S = 30.0
_UNKNOWN = (0.0, None)

Entities = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class FeatureRequest:
    """Entities to look up: either `ids` of a source with one join key, or `entities` by join key.

    `overrides` are columns that replace those of the store or add to them: one value for all entities, or a list with
    one value per entity.
    """

    query: FeatureQuery
    ids: Sequence[Any] | None = None
    entities: Entities | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of entities, which is the number of rows."""
        return len(self.entities if self.entities is not None else self.ids or ())

    @property
    def first(self) -> str | None:
        """Key of the first entity: its values, in the order of its join keys. None without entities."""
        if self.entities is not None:
            return "\0".join(str(self.entities[0][key]) for key in sorted(self.entities[0])) if self.entities else None
        return str(self.ids[0]) if self.ids else None


@dataclass(frozen=True, slots=True)
class Enriched:
    """Features that were read for a request, from which the columns of any model follow. `seconds`: time to read."""

    query: FeatureQuery
    entities: Entities
    rows: FeatureRows
    overrides: Mapping[str, list[Any]]
    seconds: float

    def columns(self, signature: Signature) -> dict[str, list[Any]]:
        """Return the columns of a model, one value per entity.

        Raises:
            EntityNotFound: an entity is not in the store, and the overrides do not replace all its features.
            InvalidInput: a required column is neither in the source nor overridden.
        """
        stored, overrides = self.rows.columns, self.overrides
        missing = [name for name in signature.required_columns if name not in stored and name not in overrides]
        if missing:
            names = ", ".join(f"'{name}'" for name in missing)
            raise InvalidInput(
                f"{self.query} does not hold the columns {names} that the model needs: give them as overrides",
                {"columns": missing},
            )
        wanted = ([] if signature.hinted else [column.name for column in signature.columns]) or stored
        columns = {name: list(stored[name]) for name in wanted if name in stored}
        if columns.keys() - overrides.keys() and not all(self.rows.found):
            index = list(self.rows.found).index(False)
            entity = dict(self.entities[index])
            raise EntityNotFound(
                f"{self.query} has no values for the entity {short(entity)}", {"row": index, "entity": entity}
            )
        return {**columns, **overrides}


class Enrichment:
    """Reads features for concurrent requests in shared calls."""

    def __init__(self, store: FeatureStore | None, *, max_entities: int) -> None:
        self._store = store
        self._batchers: dict[FeatureQuery, Batcher[Entities, FeatureRows]] = {}
        self._sources: dict[FeatureQuery, tuple[float, FeatureSource | None]] = {}  # the store has each of them
        self._max_entities = max_entities
        self._traces: dict[
            int, tuple[TraceCarrier, ...]
        ] = {}  # of reads in progress, by the identity of their entities

    async def source(self, query: FeatureQuery) -> FeatureSource:
        """Return the join keys and features, which are kept for 30 seconds.

        Raises:
            FeatureStoreUnavailable, FeatureSourceNotFound.
        """
        source = self._known(query)
        if source is None:
            if self._store is None:
                raise FeatureStoreUnavailable("no feature store is configured; send the columns of the model instead")
            source = await self._store.source(query)
            self._sources[query] = (time.perf_counter(), source)
        return source

    def _known(self, query: FeatureQuery) -> FeatureSource | None:
        since, source = self._sources.get(query, _UNKNOWN)
        return source if time.perf_counter() - since < _SOURCE_TTL_S else None

    def read(
        self, request: FeatureRequest, deadline: float, observation: Observation | None = None
    ) -> Coroutine[Any, Any, Enriched]:
        """Read the features of each entity.

        Args:
            observation: is told when the read begins and ends.

        Raises:
            DeadlineExceeded: no answer before the deadline, in event loop time.
            FeatureStoreUnavailable: no store is configured, or it does not answer.
            FeatureSourceNotFound: no such view or service.
            InvalidInput: the entities do not have the join keys of the source.
        """
        if observation is None:
            return self._read(request, deadline)
        return self._observed(request, deadline, observation)

    async def _observed(self, request: FeatureRequest, deadline: float, observation: Observation) -> Enriched:
        with phase(observation, "features") as traces:
            return await self._read(request, deadline, traces)

    async def _read(self, request: FeatureRequest, deadline: float, traces: tuple[TraceCarrier, ...] = ()) -> Enriched:
        started = time.perf_counter()
        source = self._known(request.query)
        if source is None:
            async with until(deadline):
                source = await self.source(request.query)
        entities = _entities(request, source)
        if not entities:
            raise InvalidInput("the request names no entity")
        overrides = _overrides(request.overrides, len(entities))
        answer = self._batcher(request.query).submit(
            entities, group=None, rows=len(entities), nbytes=64 * len(entities), deadline=deadline
        )
        timer = expire_at(deadline, answer)
        if traces:
            self._traces[id(entities)] = traces
        try:
            rows = await answer
        finally:
            timer.cancel()
            if traces:
                self._traces.pop(id(entities), None)
        return Enriched(request.query, entities, rows, overrides, time.perf_counter() - started)

    def _batcher(self, query: FeatureQuery) -> Batcher[Entities, FeatureRows]:
        batcher = self._batchers.get(query)
        if batcher is None:  # `source` has raised for unknown sources, so the number of batchers is bounded
            store = self._store
            assert store is not None

            async def call(parts: Sequence[Entities]) -> list[FeatureRows]:
                everyone = [entity for part in parts for entity in part]
                known = self._traces
                traces = [trace for part in parts for trace in known.get(id(part), ())] if known else ()
                return _split(await store.read(query, everyone, traces), [len(part) for part in parts])

            limits = BatchLimits(self._max_entities, _MAX_BYTES, _CALLS_IN_FLIGHT)
            batcher = self._batchers[query] = Batcher(call, lambda: limits)
        return batcher


def _entities(request: FeatureRequest, source: FeatureSource) -> Entities:
    if request.entities is not None:
        return request.entities
    if len(source.join_keys) != 1:
        keys = ", ".join(f"'{key}'" for key in source.join_keys) or "none"
        raise InvalidInput(
            f"{request.query} has {len(source.join_keys)} join keys ({keys}): "
            "name them in 'entities': [{join key: value}] instead of 'entity_id'",
            {"join_keys": list(source.join_keys)},
        )
    (key,) = source.join_keys
    return [{key: value} for value in request.ids or ()]


def _overrides(overrides: Mapping[str, Any], count: int) -> dict[str, list[Any]]:
    columns = {}
    for column, value in overrides.items():
        if isinstance(value, list) and len(value) != count:
            raise InvalidInput(
                f"column '{column[:80]}' is given {len(value)} values for {count} entities", {"column": column[:80]}
            )
        columns[column] = value if isinstance(value, list) else [value] * count
    return columns


def _split(rows: FeatureRows, counts: Sequence[int]) -> list[FeatureRows]:
    parts, start = [], 0
    for count in counts:
        stop = start + count
        columns = {name: values[start:stop] for name, values in rows.columns.items()}
        parts.append(FeatureRows(columns, rows.found[start:stop]))
        start = stop
    return parts
