"""Resolve a feature query against Feast's definitions: what to request, and how to read the response.

Feast's behavior that shapes this module:

- Looking up a `FeatureService` by name on every call costs milliseconds. A plan sends feature references instead, and
  the service only if it renames, re-keys or pins a view.
- Feast's own online read returns PRESENT or NOT_FOUND and ignores the TTL of a view. OUTSIDE_MAX_AGE comes from its
  remote online store: the entity is known, and its expired value becomes None.
- The output of an on-demand feature view is always PRESENT, even if computed from nothing. A plan reads its source
  views too, and they decide whether the entity is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feast import FeatureService, FeatureStore, OnDemandFeatureView
from feast.feature_view import DUMMY_ENTITY_ID
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.value_type import ValueType

from app.serving.features import FeatureQuery, FeatureRows, FeatureSource

_PRESENT, _NOT_FOUND = FieldStatus.PRESENT, FieldStatus.NOT_FOUND  # each access searches a table of names
_Reference = tuple[str, str]  # a view, as Feast's references call it, and a feature


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """A resolved query.

    Attributes:
        request: what Feast is asked for.
        full_names: whether Feast prefixes feature names with their view.
        keys: the keys of an entity with their types.
        nullable: those of `keys` that are inputs of an on-demand view.
        columns: by feature, the name of its column in Feast's response.
        stored: columns of the response that decide whether an entity is known.
        stamp: version of the definitions that the plan was made from.
    """

    source: FeatureSource
    request: list[str] | FeatureService
    full_names: bool
    keys: Mapping[str, ValueType]
    nullable: frozenset[str]
    columns: Mapping[str, str]
    stored: frozenset[str]
    stamp: object

    def rows(self, response: OnlineResponse, count: int) -> FeatureRows:
        """Convert Feast's response for `count` entities, with the features in the order of the source."""
        values = response.to_dict()
        names = response.proto.metadata.feature_names.val
        statuses = {n: [*vector.statuses] for n, vector in zip(names, response.proto.results, strict=True)}
        columns = {}
        for feature, name in self.columns.items():
            column = values[name]
            if any(status != _PRESENT for status in statuses[name]):
                pairs = zip(column, statuses[name], strict=True)
                column = [value if status == _PRESENT else None for value, status in pairs]
            columns[feature] = column
        if not self.stored:
            return FeatureRows(columns, [True] * count)
        by_entity = zip(*(statuses[name] for name in self.stored), strict=True)
        return FeatureRows(columns, [any(status != _NOT_FOUND for status in row) for row in by_entity])


def resolve(store: FeatureStore, query: FeatureQuery) -> FeaturePlan:
    """Read the definitions that the query needs.

    Raises:
        feast.errors.FeastObjectNotFoundException: the view or service, or one that it refers to, is not defined.
    """
    stamp = definitions_stamp(store)  # first: a change meanwhile must make the plan outdated, not wrong
    registry, project = store.registry, store.project

    def view_of(name: str) -> Any:
        return registry.get_any_feature_view(name, project, allow_cache=True)

    service = registry.get_feature_service(query.service, project, allow_cache=True) if query.service else None
    projections = [view_of(str(query.view)).projection] if service is None else service.feature_view_projections
    keys: dict[str, ValueType] = {}
    from_request: dict[str, ValueType] = {}
    wanted: list[_Reference] = []
    stored: list[_Reference] = []
    without_entity: list[_Reference] = []
    sources: list[_Reference] = []
    for projection in projections:
        view = view_of(projection.name)
        wanted += _references(projection)
        if isinstance(view, OnDemandFeatureView) and not view.write_to_online_store:
            from_request |= view.get_request_data_schema()
            for source in view.source_feature_view_projections.values():
                keys |= _join_keys(view_of(source.name), source)
                sources += _references(source) if _is_plain(source) else []
        else:
            join_keys = _join_keys(view, projection)
            keys |= join_keys
            (stored if join_keys else without_entity).extend(_references(projection))
    stored = stored or without_entity  # features that all entities share do not make one of them known

    times = Counter(feature for _, feature in wanted)
    full_names = max(times.values(), default=0) > 1

    def in_response(reference: _Reference) -> str:
        return "__".join(reference) if full_names else reference[1]

    columns = {"__".join(ref) if times[ref[1]] > 1 else ref[1]: in_response(ref) for ref in wanted}
    request = service
    if all(_is_plain(projection) for projection in projections):
        for ref in dict.fromkeys(sources):
            # Do not request a source's feature whose name in the response is taken.
            if ref not in stored and in_response(ref) not in map(in_response, [*wanted, *stored]):
                stored.append(ref)
        request = [":".join(ref) for ref in dict.fromkeys([*wanted, *stored])]
    return FeaturePlan(
        source=FeatureSource((*keys, *from_request), tuple(columns)),
        request=request,
        full_names=full_names,
        keys=keys | from_request,
        nullable=frozenset(from_request),
        columns=columns,
        stored=frozenset(map(in_response, stored)),
        stamp=stamp,
    )


def definitions_stamp(store: FeatureStore) -> object:
    """Return when the current definitions were read; None for registries that keep none in memory."""
    return getattr(store.registry, "cached_registry_proto_created", None)


def _is_plain(projection: Any) -> bool:
    return not (projection.name_alias or projection.join_key_map or projection.version_tag is not None)


def _references(projection: Any) -> list[_Reference]:
    return [(projection.name_to_use(), feature.name) for feature in projection.features]


def _join_keys(view: Any, projection: Any) -> dict[str, ValueType]:
    return {
        projection.join_key_map.get(column.name, column.name): column.dtype.to_value_type()
        for column in view.entity_columns
        if column.name != DUMMY_ENTITY_ID  # Feast's stand-in for 'no entity'
    }
