"""The demo: a small model and the features it needs, so that a fresh installation has something to serve.

`seed` is called by the command line. All data is synthetic, drawn from a fixed seed: it says nothing about any market.
MLflow, Feast and scikit-learn are imported where they are used, since the command line imports this module.
"""
# ruff: noqa: PLC0415 - for that reason

from __future__ import annotations

import io
import logging
import runpy
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from app.adapters.mlflow_registry import MlflowRegistry, configure
from app.errors import StartupError
from app.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

MODEL = "commodity_price_predictor"
SERVICE = "commodity_price_service"
COLUMNS = ("crude_oil_price", "natural_gas_price", "exchange_rate")
EXAMPLE = (75.5, 3.2, 1.18)

COMMODITIES = {
    "crude_oil_wti": EXAMPLE,
    "crude_oil_brent": (79.8, 3.2, 1.18),
    "crude_oil_dubai": (78.1, 3.1, 1.17),
    "natural_gas_henry_hub": (74.2, 3.4, 1.18),
    "natural_gas_ttf": (74.9, 5.6, 1.09),
    "heating_oil": (81.3, 3.0, 1.18),
    "gasoline_rbob": (77.4, 2.9, 1.19),
    "coal_newcastle": (70.6, 4.2, 1.12),
}
"""Entities of the feature view and their newest values, in the order of `COLUMNS`."""

_EXPERIMENT = "ml-serve-demo"
_STATE = "demo.state"  # tag of the registered model: 'partial' until everything is there
_ESTIMATOR = "demo.estimator"  # tag of a version: which of the two it is
_ROWS = 2000
_DATA_ENDS = datetime(2026, 1, 1, tzinfo=UTC)
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "scikit-learn", "skops")
_NOTICE = "Trained on synthetic data: its answers are no forecasts."

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


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What there is to call. `entities` are ids for `feature_service`; None where a foreign feature store is in use."""

    model: str
    feature_service: str | None
    entities: tuple[str, ...]
    changed: bool


def seed(settings: Settings, progress: Callable[[str], None]) -> DemoSummary:
    """See to it that the demo model is registered and its features can be read; does nothing where they are there.

    A model or a Feast repository that is not the demo's own is left alone, and so are aliases once they are set.

    Args:
        progress: is told what takes time, one line each.

    Raises:
        RegistryUnavailable: the registry does not answer.
        StartupError: something is in the way; the message says what.
    """
    own_features = settings.feast_repo is None or settings.feast_folder == settings.demo_feast_repo
    changed = False
    if not _has_model(settings.registry_uri):
        progress(f"preparing the demo model {MODEL} (synthetic data)")
        with _alone(settings), _quiet():
            changed = _register(settings, own_features)
    if not own_features:
        progress(f"the feature store in {settings.feast_folder} is used as it is: no demo features")
    elif not _has_features(settings.demo_feast_repo):
        progress(f"building the demo's feature store in {settings.demo_feast_repo}")
        with _alone(settings), _quiet():
            _build_features(settings.demo_feast_repo)
        changed = True
    return DemoSummary(
        model=MODEL,
        feature_service=SERVICE if own_features else None,
        entities=tuple(COMMODITIES) if own_features else (),
        changed=changed,
    )


def _has_model(registry_uri: str) -> bool:
    """A look without MLflow, whose import takes seconds. False where in doubt: then MLflow itself is asked."""
    tags: dict[str, str] | None = None
    if registry_uri.startswith("sqlite:///"):
        tags = _tags_in_database(Path(registry_uri.removeprefix("sqlite:///")))
    elif registry_uri.startswith(("http://", "https://")):
        tags = _tags_on_server(registry_uri)
    return tags is not None and tags.get(_STATE) != "partial"


def _tags_in_database(path: Path) -> dict[str, str] | None:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            if not database.execute("SELECT 1 FROM registered_models WHERE name = ?", (MODEL,)).fetchall():
                return None
            return dict(database.execute("SELECT key, value FROM registered_model_tags WHERE name = ?", (MODEL,)))
    except sqlite3.Error:
        return None


def _tags_on_server(uri: str) -> dict[str, str] | None:
    import httpx

    address = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/get"
    try:
        answer = httpx.get(address, params={"name": MODEL}, timeout=3)
        return {
            tag["key"]: tag["value"] for tag in answer.raise_for_status().json()["registered_model"].get("tags", [])
        }
    except (httpx.HTTPError, ValueError, KeyError):
        return None


def _has_features(folder: Path) -> bool:
    return all((folder / file).exists() for file in (*_TEXTS, *_DATA))


def _register(settings: Settings, own_features: bool) -> bool:
    configure(settings)
    MlflowRegistry(settings).check()
    from mlflow import MlflowClient

    client = MlflowClient()
    try:
        model = next(iter(client.search_registered_models(f"name='{MODEL}'")), None)
        if model is None:
            client.create_registered_model(
                MODEL, tags={_STATE: "partial"}, description=f"Price of a commodity. {_NOTICE}"
            )
        elif model.tags.get(_STATE) != "partial":
            return False
        _register_versions(settings, client, own_features)
        client.set_registered_model_tag(MODEL, _STATE, "complete")
    except Exception as error:  # of MLflow, or of the artifact store's own client
        reason = next(iter(str(error).splitlines()), "")[:300]
        raise StartupError(f"the demo model cannot be registered: {type(error).__name__}: {reason}") from error
    return True


def _register_versions(settings: Settings, client: MlflowClient, own_features: bool) -> None:
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.linear_model import LinearRegression

    there = {version.tags.get(_ESTIMATOR): version for version in client.search_model_versions(f"name='{MODEL}'")}
    aliases = client.get_registered_model(MODEL).aliases
    variants = [
        (settings.default_alias, "linear", "Linear regression.", LinearRegression()),
        (
            "challenger",
            "gradient-boosted",
            "Gradient-boosted trees; follows the curve in the data that the linear model leaves out.",
            GradientBoostingRegressor(n_estimators=60, random_state=0),
        ),
    ]
    for alias, estimator, description, regressor in variants:
        version = there.get(estimator)
        if version is None:
            tags = {_ESTIMATOR: estimator, "data": "synthetic"}
            if own_features:
                tags["feast.feature_service"] = SERVICE  # where Feast itself looks for a model's features
            version = _log_version(settings, client, regressor, tags)
            client.update_model_version(MODEL, version.version, f"{description} {_NOTICE}")
        if alias not in aliases:
            client.set_registered_model_alias(MODEL, alias, version.version)
            aliases[alias] = version.version


def _log_version(settings: Settings, client: MlflowClient, regressor: Any, tags: dict[str, str]) -> Any:
    import mlflow
    import mlflow.sklearn
    import numpy as np
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    rows, prices = _training_data()
    regressor.fit(rows, prices)
    with mlflow.start_run(experiment_id=_experiment(settings, client), run_name=tags[_ESTIMATOR]):
        mlflow.log_metric("rmse", float(np.sqrt(np.mean((regressor.predict(rows) - prices) ** 2))))
        logged = mlflow.sklearn.log_model(
            regressor,
            name="model",
            signature=ModelSignature(
                inputs=Schema([ColSpec("double", column, required=True) for column in COLUMNS]),
                outputs=Schema([ColSpec("double", "price")]),
            ),
            input_example=pd.DataFrame([EXAMPLE], columns=list(COLUMNS)),
            # skops loads types on a list and never runs a pickle. It does not list the nodes of a decision tree, which
            # are plain arrays behind a compiled class of scikit-learn.
            serialization_format="skops",
            skops_trusted_types=["sklearn.tree._tree.Tree"],
            # Named, because MLflow would otherwise find them by loading the model in a process of its own.
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in _REQUIREMENTS],
        )
        return mlflow.register_model(logged.model_uri, MODEL, tags=tags)


def _experiment(settings: Settings, client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    if experiment is None:
        # A server knows where its artifacts go; a database does not, and MLflow would put them where we happen to run.
        is_server = settings.tracking_uri.startswith(("http://", "https://", "databricks"))
        return str(client.create_experiment(_EXPERIMENT, None if is_server else settings.artifact_root.as_uri()))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _training_data() -> tuple[pd.DataFrame, pd.Series]:
    """Synthetic rows, and prices that a straight line explains but for a wave in the price of crude oil.

    The constants let the linear model answer 78.3 to `EXAMPLE`.
    """
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(254)
    crude = random.uniform(40, 110, _ROWS)
    gas = random.uniform(1.5, 6, _ROWS)
    exchange = random.uniform(0.95, 1.35, _ROWS)
    noise = random.normal(0, 0.8, _ROWS)
    prices = 22.2 + 0.82 * crude + 2.6 * gas - 12 * exchange + 2.5 * np.sin(crude / 6) + noise
    return pd.DataFrame(dict(zip(COLUMNS, (crude, gas, exchange), strict=True))), pd.Series(prices, name="price")


def _build_features(folder: Path) -> None:
    """Build the Feast repository beside its place and move it there when it is whole."""
    import pandas as pd
    from feast import FeatureStore

    if _has_features(folder):
        return
    for path in folder.glob("*"):
        own = path.read_text() == _TEXTS[path.name] if path.name in _TEXTS else path.name in _DATA
        if not own:
            raise StartupError(f"{path} is not the demo's, and the demo's feature store belongs there: move it away")
    draft = Path(tempfile.mkdtemp(prefix="feast-", dir=folder.parent))
    try:
        for name, text in _TEXTS.items():
            (draft / name).write_text(text)
        pd.DataFrame(
            [
                # Older rows exist to be left out: the online store keeps the newest of each entity.
                {"commodity_id": name, **{c: v * (1 - 0.01 * age) for c, v in zip(COLUMNS, values, strict=True)}}
                | {"event_timestamp": _DATA_ENDS - timedelta(days=age)}
                for name, values in COMMODITIES.items()
                for age in range(3)
            ]
        ).to_parquet(draft / "commodity_prices.parquet")
        store = FeatureStore(repo_path=str(draft), fs_yaml_file=draft / "feature_store.yaml")
        defined = runpy.run_path(str(draft / "features.py"))
        store.apply([defined[name] for name in ("commodity", "prices", "commodity_features", SERVICE)])
        store.materialize(_DATA_ENDS - timedelta(days=30), _DATA_ENDS + timedelta(days=1))
        shutil.rmtree(folder, ignore_errors=True)
        draft.chmod(0o755)  # a temporary folder is private
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _alone(settings: Settings) -> FileLock:
    """Held while the demo is made, so that two starts do not make it twice."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return FileLock(settings.home / "demo.lock")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MLflow, Alembic and Feast print, log and warn about off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
