"""``GET /v1/models/{name}/compare``: compare two versions of a model by the statistics of the gateways."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal
from urllib.parse import parse_qs

from pydantic import BaseModel

from app.api.bodies import V1Error
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import Route, parameter
from app.api.oip.endpoints import version_reference
from app.api.v1.predict import PREFIX
from app.api.v1.releases import NAME
from app.errors import Conflict, InvalidRequest
from app.serving.comparison.compare import compare
from app.serving.confidence import LEVEL
from app.serving.ports import ModelManager
from app.serving.prediction.service import PredictionService

_SIDES = ("base", "other")


class EstimateBody(BaseModel):
    """A rate or a mean with its confidence interval, which is null if the variance is unknown."""

    value: float
    low: float | None
    high: float | None


class DifferenceBody(BaseModel):
    """Difference of the other version and the base, with its confidence interval and a verdict in words."""

    value: float
    low: float
    high: float
    verdict: str


class ComparedVersionBody(BaseModel):
    """One of the two versions."""

    reference: str
    version: str
    requests: int
    faults: int
    error_rate: EstimateBody | None
    latency_s: EstimateBody | None
    prediction: EstimateBody | None
    since: datetime | None
    until: datetime | None


class ShadowBody(BaseModel):
    """Shadow requests: copies of the base's requests that the other version answered."""

    requests: int
    rows: int
    mismatch_rate: EstimateBody | None
    difference: EstimateBody | None
    largest: float | None
    relative: float | None
    latency_s: DifferenceBody | None
    error_rate: EstimateBody | None
    errors: dict[str, int]
    dropped: dict[str, int]
    since: datetime | None
    until: datetime | None


class CompareResponse(BaseModel):
    """The response of ``GET /v1/models/{name}/compare``."""

    model_name: str
    level: float
    counted: Literal["divided", "all"]
    base: ComparedVersionBody
    other: ComparedVersionBody
    error_rate: DifferenceBody | None
    latency_s: DifferenceBody | None
    prediction: DifferenceBody | None
    shadow: ShadowBody | None


_PARAMETERS = (
    NAME,
    parameter("query", "base", "Alias or number of the version to compare with."),
    parameter("query", "other", "Alias or number of the version to compare."),
)


class ComparisonEndpoint:
    """The handler of comparisons."""

    def __init__(self, service: PredictionService, manager: ModelManager) -> None:
        self._service = service
        self._manager = manager

    def routes(self) -> list[Route]:
        route = partial(Route, answer=CompareResponse, parameters=_PARAMETERS, statuses=(409,))
        return [route("GET", PREFIX + "{name}/compare", self.compare, "v1", V1Error)]

    async def compare(self, exchange: Exchange) -> Reply:
        """Compare two versions of a model by their statistics."""
        name, texts = exchange.path_params["name"], _query(exchange)
        refs = [version_reference(name, text) for text in texts]
        base, other = [await self._service.resolve(ref) for ref in refs]
        if base == other:
            raise Conflict(
                f"'{texts[0]}' and '{texts[1]}' both mean version {base.version}; name two different versions",
                {"version": base.version},
            )
        counted = await asyncio.gather(self._manager.statistics(base), self._manager.statistics(other))
        found = asdict(compare(base.version, counted[0], other.version, counted[1]))
        for side, text in zip(_SIDES, texts, strict=True):
            found[side] = {"reference": text, **found[side]}
        for part in (*_SIDES, "shadow"):
            _format_times(found[part])
        return Reply(dump({"model_name": name, "level": LEVEL, **found}))


def _query(exchange: Exchange) -> list[str]:
    """Return the two aliases or versions of the query string."""
    query = parse_qs(exchange.scope["query_string"].decode("latin-1"))
    if set(query) != set(_SIDES) or any(len(values) > 1 for values in query.values()):
        raise InvalidRequest(
            "the query string must name two versions or aliases and no more, as in ?base=champion&other=challenger",
            {"allowed": list(_SIDES)},
        )
    return [query[side][0] for side in _SIDES]


def _format_times(part: dict[str, Any] | None) -> None:
    """Turn the Unix times of a part into ISO 8601."""
    for key in ("since", "until"):
        if part is not None and part[key] is not None:
            part[key] = datetime.fromtimestamp(part[key], UTC).isoformat(timespec="seconds")
