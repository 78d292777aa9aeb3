"""Demo model: two registered versions, trained on synthetic data drawn from a fixed seed."""
# ruff: noqa: PLC0415 - the command line imports this: heavy libraries are imported only where they are used

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.adapters.mlflow.registry import MlflowRegistry, configure
from app.demo.data import COLUMNS, EXAMPLE, MODEL, NOTES, SERVICE
from app.errors import StartupError
from app.settings import Settings

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

_EXPERIMENT = "ml-serve-demo"
_STATE = "demo.state"  # tag of the registered model: 'partial' until it is complete
_ESTIMATOR = "demo.estimator"  # tag of a version: which of the two it is
_ROWS = 2000
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "scikit-learn", "skops")
_NOTICE = "Trained on synthetic data: its answers are no forecasts."


def has_model(registry_uri: str) -> bool:
    """Look for the model without MLflow, whose import takes seconds. Return False if in doubt."""
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

    url = f"{uri.rstrip('/')}/api/2.0/mlflow/registered-models/get"
    try:
        model = httpx.get(url, params={"name": MODEL}, timeout=3).raise_for_status().json()["registered_model"]
        return {tag["key"]: tag["value"] for tag in model.get("tags", [])}
    except (httpx.HTTPError, ValueError, KeyError):
        return None


def register(settings: Settings, own_features: bool) -> bool:
    """Register what is missing of the model. Return False if nothing is.

    Args:
        own_features: whether the demo's feature service exists, to which the model then refers.

    Raises:
        RegistryUnavailable: the registry does not respond.
        StartupError: the model cannot be registered.
    """
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
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    existing = {version.tags.get(_ESTIMATOR): version for version in client.search_model_versions(f"name='{MODEL}'")}
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
        # A null, which the feature store may return, counts as the mean of its column.
        pipeline = make_pipeline(SimpleImputer(), regressor)
        version = existing.get(estimator)
        if version is None:
            tags = {_ESTIMATOR: estimator, "data": "synthetic"}
            if own_features:
                tags["feast.feature_service"] = SERVICE  # the tag that Feast itself reads
            version = _log_version(settings, client, pipeline, tags)
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
            metadata={"columns": NOTES},
            # skops loads only trusted types and never runs a pickle. Numpy's dtypes and the nodes of a decision tree,
            # plain arrays in a compiled class of scikit-learn, are not trusted by default.
            serialization_format="skops",
            skops_trusted_types=["numpy.dtype", "sklearn.tree._tree.Tree"],
            # Listed, because MLflow would otherwise load the model in another process to infer them.
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in _REQUIREMENTS],
        )
        return mlflow.register_model(logged.model_uri, MODEL, tags=tags)


def _experiment(settings: Settings, client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(_EXPERIMENT)
    if experiment is None:
        # A server has an artifact location. For a database, MLflow would use the current folder.
        is_server = settings.tracking_uri.startswith(("http://", "https://", "databricks"))
        return str(client.create_experiment(_EXPERIMENT, None if is_server else settings.artifact_root.as_uri()))
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _training_data() -> tuple[pd.DataFrame, pd.Series]:
    """Return synthetic rows and prices: linear, except for a wave in the price of crude oil.

    With these constants the linear model predicts 78.3 for `EXAMPLE`.
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
