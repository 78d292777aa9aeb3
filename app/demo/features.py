"""Feature store of the demo: a Feast repository on SQLite, with synthetic prices by commodity."""
# ruff: noqa: PLC0415 - the command line imports this: heavy libraries are imported only where they are used

from __future__ import annotations

import runpy
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from app.demo.data import COLUMNS, COMMODITIES, DATA_ENDS, MODEL, SERVICE
from app.errors import StartupError

_FEATURE_STORE = """\
project: commodities
provider: local
registry:
  path: registry.db
online_store:
  type: sqlite
  path: online_store.db
entity_key_serialization_version: 3
"""

_DEFINITIONS = f'''\
"""Features of the demo model. Change them, then run `feast apply` in this folder."""

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, String

commodity = Entity(name="commodity", join_keys=["commodity_id"], value_type=ValueType.STRING)

prices = FileSource(name="commodity_prices", path="commodity_prices.parquet", timestamp_field="event_timestamp")

commodity_features = FeatureView(
    name="commodity_features",
    entities=[commodity],
    ttl=None,  # the rows of a demo must not grow stale
    schema=[
        Field(name="commodity_id", dtype=String),
        *[Field(name=column, dtype=Float64) for column in {COLUMNS!r}],
    ],
    source=prices,
    description="Synthetic prices by commodity.",
)

commodity_price_service = FeatureService(
    name="{SERVICE}", features=[commodity_features], tags={{"model": "{MODEL}"}}
)
'''

_TEXTS = {"feature_store.yaml": _FEATURE_STORE, "features.py": _DEFINITIONS}
_DATA = ("commodity_prices.parquet", "registry.db", "online_store.db")


def has_features(folder: Path) -> bool:
    """Return whether the repository is complete."""
    return all((folder / file).exists() for file in (*_TEXTS, *_DATA))


def build_features(folder: Path) -> None:
    """Build the Feast repository in a temporary folder next to `folder`, and move it there when complete.

    Raises:
        StartupError: `folder` contains a file that is not the demo's.
    """
    import pandas as pd

    from app.adapters.feast import FeatureStore

    if has_features(folder):
        return
    for path in folder.glob("*"):
        own = path.read_text() == _TEXTS[path.name] if path.name in _TEXTS else path.name in _DATA
        if not own:
            raise StartupError(f"{path} is not the demo's, but in the folder of its feature store: move it away")
    draft = Path(tempfile.mkdtemp(prefix="feast-", dir=folder.parent))
    try:
        for name, text in _TEXTS.items():
            (draft / name).write_text(text)
        pd.DataFrame(
            [
                # The online store must ignore the older rows: it keeps the latest of each entity.
                {"commodity_id": name, **{c: v * (1 - 0.01 * age) for c, v in zip(COLUMNS, values, strict=True)}}
                | {"event_timestamp": DATA_ENDS - timedelta(days=age)}
                for name, values in COMMODITIES.items()
                for age in range(3)
            ]
        ).to_parquet(draft / "commodity_prices.parquet")
        store = FeatureStore(repo_path=str(draft), fs_yaml_file=draft / "feature_store.yaml")
        defined = runpy.run_path(str(draft / "features.py"))
        store.apply([defined[name] for name in ("commodity", "prices", "commodity_features", SERVICE)])
        store.materialize(DATA_ENDS - timedelta(days=30), DATA_ENDS + timedelta(days=1))
        shutil.rmtree(folder, ignore_errors=True)
        draft.chmod(0o755)  # a temporary folder is private
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
