"""``GET /v1/models/{name}/compare``: two versions of a model by what the gateways have counted for them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict

from app.api.bodies import V1Error
from app.api.http.errors import v1_error
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import Route
from app.api.oip.endpoints import version_reference
from app.api.v1.predict import PREFIX
from app.errors import Conflict, InvalidRequest
from app.serving.comparison.compare import compare
from app.serving.confidence import LEVEL
from app.serving.ports import ModelManager
from app.serving.prediction.service import PredictionService

_SUFFIX = "/compare"
_SIDES = ("base", "other")


class EstimateAnswer(BaseModel):
    """A rate or a mean with the ends of its interval; null where its spread is not known."""

    value: float
    low: float | None
    high: float | None


class DifferenceAnswer(BaseModel):
    """The other version less the base, and in words what that means."""

    value: float
    low: float
    high: float
    verdict: str


class SideAnswer(BaseModel):
    """One of the two versions."""

    reference: str
    version: str
    requests: int
    faults: int
    error_rate: EstimateAnswer | None
    latency_s: EstimateAnswer | None
    prediction: EstimateAnswer | None
    since: datetime | None
    until: datetime | None


class ShadowAnswer(BaseModel):
    """Copies of the base's requests that the other version got."""

    requests: int
    rows: int
    mismatch_rate: EstimateAnswer | None
    difference: EstimateAnswer | None
    largest: float | None
    relative: float | None
    latency_s: DifferenceAnswer | None
    error_rate: EstimateAnswer | None
    errors: dict[str, int]
    dropped: dict[str, int]
    since: datetime | None
    until: datetime | None


class CompareResponse(BaseModel):
    """The answer of ``GET /v1/models/{name}/compare``."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    level: float
    counted: Literal["divided", "all"]
    base: SideAnswer
    other: SideAnswer
    error_rate: DifferenceAnswer | None
    latency_s: DifferenceAnswer | None
    prediction: DifferenceAnswer | None
    shadow: ShadowAnswer | None


def _parameter(name: str, where: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": True, "description": text, "schema": {"type": "string"}}


_PARAMETERS = (
    _parameter("name", "path", "A registered model."),
    _parameter("base", "query", "Alias or number of the version to compare with."),
    _parameter("other", "query", "Alias or number of the version that is compared."),
)


class ComparisonEndpoint:
    """The handler of comparisons."""

    def __init__(self, service: PredictionService, manager: ModelManager) -> None:
        self._service = service
        self._manager = manager

    def routes(self) -> list[Route]:
        """The one endpoint."""
        path = PREFIX + "{name}" + _SUFFIX
        further: dict[str, Any] = {"answer": CompareResponse, "parameters": _PARAMETERS, "statuses": (409,)}
        return [Route("GET", path, self.compare, "v1", v1_error, V1Error, **further)]

    async def compare(self, exchange: Exchange) -> Reply:
        """Compare two versions of a model by what was counted for them.

        ``GET /v1/models/{name}/compare?base=champion&other=challenger``. Raises `ServingError`.
        """
        path: str = exchange.scope["path"]
        name = path[len(PREFIX) : -len(_SUFFIX)]
        texts = _given(exchange)
        refs = [version_reference(name, text) for text in texts]
        base, other = [await self._service.resolve(ref) for ref in refs]
        if base == other:
            raise Conflict(
                f"'{texts[0]}' and '{texts[1]}' both mean version {base.version}: there is nothing to compare",
                {"version": base.version},
            )
        counted = await asyncio.gather(self._manager.statistics(base), self._manager.statistics(other))
        found = asdict(compare(base.version, counted[0], other.version, counted[1]))
        for side, text in zip(_SIDES, texts, strict=True):
            found[side] = {"reference": text, **found[side]}
        for part in (*_SIDES, "shadow"):
            _date(found[part])
        return Reply(dump({"model_name": name, "level": LEVEL, **found}))


def _given(exchange: Exchange) -> list[str]:
    """The two aliases or versions of the query."""
    query = parse_qs(exchange.scope["query_string"].decode("latin-1"))
    if set(query) != set(_SIDES) or any(len(values) > 1 for values in query.values()):
        raise InvalidRequest(
            "the query names two versions or aliases, and nothing else: ?base=champion&other=challenger",
            {"allowed": list(_SIDES)},
        )
    return [query[side][0] for side in _SIDES]


def _date(part: dict[str, Any] | None) -> None:
    """Make the moments of a part ISO 8601."""
    for key in ("since", "until"):
        if part is not None and part[key] is not None:
            part[key] = datetime.fromtimestamp(part[key], UTC).isoformat(timespec="seconds")
