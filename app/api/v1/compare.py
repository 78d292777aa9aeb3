"""``GET /v1/models/{name}/compare``: compare two versions of a model by the statistics of the gateways."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from functools import partial
from urllib.parse import parse_qs

from app.api.bodies import V1Error
from app.api.http.exchange import Exchange, Reply, dump
from app.api.http.routing import Route, parameter
from app.api.oip.endpoints import version_reference
from app.api.v1.predict import PREFIX
from app.api.v1.releases import NAME
from app.errors import Conflict, InvalidRequest
from app.serving.callers import OBSERVE
from app.serving.comparison.compare import Comparison, Side, compare
from app.serving.confidence import LEVEL
from app.serving.ports import ModelManager
from app.serving.prediction.service import PredictionService

_SIDES = ("base", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedVersion(Side):
    """One of the two versions."""

    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareResponse(Comparison):
    """The response of ``GET /v1/models/{name}/compare``."""

    model_name: str
    level: float
    base: ComparedVersion
    other: ComparedVersion


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
        route = partial(Route, answer=CompareResponse, parameters=_PARAMETERS, statuses=(409,), scopes=OBSERVE)
        return [route("GET", PREFIX + "{name}/compare", self.compare, "v1", V1Error)]

    async def compare(self, exchange: Exchange) -> Reply:
        """Compare two versions of a model by their statistics."""
        name, texts = exchange.path_params["name"], _query(exchange)
        refs = [exchange.caller.allowed(version_reference(name, text)) for text in texts]
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
