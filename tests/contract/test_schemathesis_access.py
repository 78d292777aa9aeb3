"""Schemathesis against a gateway that asks for API keys, over fakes: with a key for everything, without, with too few.

`tests/contract/test_schemathesis.py` does the first on the platform, without authentication.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from app.adapters.access.keys import KeyFile, create_key
from app.api.http.access import Access
from app.api.http.routing import Endpoint
from app.serving.callers import SCOPES
from app.serving.references import ModelRef
from app.settings import ScopeName
from tests.fakes import FakeFeatureStore, Fakes, make_fakes, total
from tests.server import Server

NAMES = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
CHECKS = [getattr(schemathesis.checks, name) for name in NAMES]
EXAMPLES = 8
CREDENTIALS = {"authorization", "x-api-key"}
OPEN = {"/health", "/livez", "/readyz", "/ping", "/version", "/v2", "/v2/health/live", "/v2/health/ready"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A key for each scope, and one for all."""
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    made: dict[str, str] = {scope: create_key(path, scope, [scope])[1] for scope in sorted(SCOPES)}
    return {**made, "all": create_key(path, "all", sorted(SCOPES))[1], "path": str(path)}


@pytest.fixture(scope="module")
def fakes(keys: dict[str, str]) -> Fakes:
    store = FakeFeatureStore({"daily": {1: {"oil": 1.0}}})
    models = {"prices": total("oil"), "prices/versions/2": total("oil", offset=1.0)}
    fakes = make_fakes(models, aliases={"prices": {"champion": "1"}}, features=store)
    fakes.access = Access(KeyFile(Path(keys["path"])))
    fakes.default_model = ModelRef("prices")
    return fakes


@pytest.fixture(scope="module")
def url(fakes: Fakes) -> Iterator[str]:
    with Server(fakes.app) as server:
        yield server.url


@pytest.fixture(scope="module")
def schema(url: str, keys: dict[str, str]) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json", headers=_bearer(keys["all"]))


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def operations(schema: Any) -> list[Any]:
    return [found.ok() for found in schema.get_all_operations()]


def needed(fakes: Fakes) -> dict[tuple[str, str], frozenset[ScopeName]]:
    """The scopes of each operation, one of which suffices."""
    routes = [one._route for one in fakes.app._app.app.router.routes if isinstance(one, Endpoint)]  # type: ignore[attr-defined]
    return {(one.method, one.path.replace(":path}", "}")): frozenset(one.scopes) for one in routes if one.documented}


def asked(operation: Any, headers: dict[str, str], examples: int = 1) -> list[int]:
    """The statuses of valid requests to an operation. Each answer conforms to the document."""
    statuses: list[int] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(case=operation.as_strategy())
    def run(case: Any) -> None:
        case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() not in CREDENTIALS}
        response = case.call(headers=headers, timeout=30)
        case.validate_response(response, checks=CHECKS)
        statuses.append(response.status_code)

    run()
    return statuses


def test_a_key_for_everything_gets_documented_answers(schema: Any, keys: dict[str, str]) -> None:
    every = {**_bearer(keys["all"]), "x-request-timeout-seconds": "30"}
    statuses = {operation.label: asked(operation, every, EXAMPLES) for operation in operations(schema)}
    assert len(statuses) > 30
    found = {status for answered in statuses.values() for status in answered}
    assert {200, 400, 404} <= found
    assert found.isdisjoint({401, 403, 500})


def test_without_credentials_each_operation_answers_401(schema: Any) -> None:
    opened = set()
    for operation in operations(schema):
        if operation.definition.raw["security"]:
            assert {*asked(operation, {})} == {401}, operation.label
        else:
            opened.add(operation.path)
            assert {*asked(operation, {})} <= {200, 503}, operation.label
    assert opened == OPEN


@pytest.mark.parametrize("scope", sorted(SCOPES))
def test_a_key_without_the_scope_gets_403(scope: ScopeName, schema: Any, fakes: Fakes, keys: dict[str, str]) -> None:
    scopes = needed(fakes)
    forbidden = [one for one in operations(schema) if scope not in (scopes[one.method.upper(), one.path] or SCOPES)]
    for operation in forbidden:
        assert {*asked(operation, _bearer(keys[scope]))} == {403}, operation.label
    assert len(forbidden) > 3 or scope == "manage"
