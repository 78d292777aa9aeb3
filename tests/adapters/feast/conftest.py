"""Fixture for a Feast repository, built once per session."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import app.adapters.feast  # noqa: F401 - before the tests import Feast, which takes four times as long without it

DATA_ENDS = datetime(2026, 1, 1, tzinfo=UTC)

FEATURE_STORE = """\
project: test
provider: local
registry:
  path: registry.db
  cache_ttl_seconds: {ttl}
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""

DEFINITIONS = """\
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

commodity = Entity(name="commodity", join_keys=["commodity_id"], value_type=ValueType.STRING)
venue = Entity(name="venue", join_keys=["venue_id"], value_type=ValueType.INT64)


def view(name, entities, **columns):
    source = FileSource(name=f"{name}_rows", path=f"{name}.parquet", timestamp_field="event_timestamp")
    schema = [Field(name=column, dtype=dtype) for column, dtype in columns.items()]
    return FeatureView(name=name, entities=entities, ttl=None, schema=schema, source=source)


prices = view("prices", [commodity], commodity_id=String, spot=Float64, volume=Int64, grade=String)
venues = view("venues", [venue], venue_id=Int64, fee=Float64)
quotes = view("quotes", [commodity, venue], commodity_id=String, venue_id=Int64, spot=Float64, spread=Float64)
market = view("market", [], exchange_rate=Float64)
unread = view("unread", [commodity], commodity_id=String, secret=Float64)

order = RequestSource(name="order", schema=[Field(name="lots", dtype=Float64)])


@on_demand_feature_view(sources=[prices, order], schema=[Field(name="notional", dtype=Float64)], mode="python")
def notional(inputs):
    rows = zip(inputs["spot"], inputs["lots"])
    return {"notional": [(spot or 0.0) * (lots or 0.0) for spot, lots in rows]}


projected = FeatureService(name="projected", features=[prices[["volume"]]])
everything = FeatureService(name="everything", features=[prices, venues, market, notional])
renamed = FeatureService(name="renamed", features=[prices.with_name("cash").with_join_key_map({"commodity_id": "id"})])
colliding = FeatureService(name="colliding", features=[prices[["spot"]], quotes])
"""

ROWS: dict[str, list[dict[str, Any]]] = {
    "prices": [
        {"commodity_id": "wti", "spot": 75.5, "volume": 2**53 + 1, "grade": "light"},
        {"commodity_id": "brent", "spot": None, "volume": 7, "grade": None},
    ],
    "venues": [{"venue_id": 2**40, "fee": 0.25}],
    "quotes": [
        {"commodity_id": "wti", "venue_id": 1, "spot": 75.6, "spread": 0.1},
        {"commodity_id": "wti", "venue_id": 2, "spot": 75.7, "spread": 0.2},
    ],
    "market": [{"exchange_rate": 1.18}],
    "unread": [{"commodity_id": "wti", "secret": 1.0}],
}


@pytest.fixture(scope="session")
def built_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pandas as pd

    folder = tmp_path_factory.mktemp("feast") / "repository"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text(FEATURE_STORE.format(ttl=600))
    for name, rows in ROWS.items():
        frame = pd.DataFrame([{**row, "event_timestamp": DATA_ENDS} for row in rows])
        if name == "prices":
            frame = frame.astype({"volume": "int64"})
        frame.to_parquet(folder / f"{name}.parquet")
    apply_definitions(folder, DEFINITIONS)
    materialise(folder, ["prices", "venues", "quotes", "market"])
    return folder


@pytest.fixture
def repository(built_repository: Path, tmp_path: Path) -> Path:
    """Copy of the repository that no other test uses."""
    return Path(shutil.copytree(built_repository, tmp_path / "repository"))


def apply_definitions(folder: Path, text: str) -> None:
    import runpy

    from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView

    (folder / "features.py").write_text(text)
    defined = runpy.run_path(str(folder / "features.py")).values()
    kinds = (Entity, FeatureView, OnDemandFeatureView, FeatureService)
    FeatureStore(str(folder)).apply([one for one in defined if isinstance(one, kinds)])


def materialise(folder: Path, views: list[str]) -> None:
    from feast import FeatureStore

    FeatureStore(str(folder)).materialize(
        DATA_ENDS - timedelta(days=30), DATA_ENDS + timedelta(days=1), feature_views=views
    )
