"""Versions load from every kind of store through registry and cache, and predict as MLflow alone does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from pydantic import SecretStr

from app.adapters.mlflow.registry import MlflowRegistry, configure
from app.errors import ModelNotFound, RegistryReadOnly, RegistryUnavailable
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout
from app.settings import Settings
from tests.conftest import environment_of_nobody
from tests.mlflow_server import EmptyRegistry
from tests.ports import free_port
from tests.stores.ceph import S3
from tests.stores.postgres import Postgres
from tests.stores.processes import Processes, is_answering

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    from app.adapters.mlflow.loader import ModelLoader

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NAME = "prices"
SLOPES = {"1": 2.0, "2": 3.0}
FRAME = pd.DataFrame({"x": [1.0, -2.5, 1e6]})
LAYOUT = Layout("columns", ("x",), ("float64",), ((),))


@pytest.fixture(autouse=True, scope="module")
def _mlflow_as_before() -> Iterator[None]:
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def register(settings: Settings, artifacts: str | None) -> None:
    """Log and register two versions of a model."""
    import mlflow
    from sklearn.linear_model import LinearRegression

    configure(settings)
    experiment = mlflow.create_experiment("prices", artifact_location=artifacts)
    for slope in SLOPES.values():
        model = LinearRegression().fit(FRAME, FRAME["x"] * slope)
        with mlflow.start_run(experiment_id=experiment):
            info = mlflow.sklearn.log_model(model, name="model", input_example=FRAME.head(1), pip_requirements=[])
        mlflow.register_model(info.model_uri, NAME)
    MlflowClient().set_registered_model_alias(NAME, "champion", "2")


def check(settings: Settings, cache: Path) -> None:
    """Assert that both versions are found, downloaded and loaded, and predict as MLflow's own pyfunc does."""
    import mlflow

    registry = MlflowRegistry(settings)
    registry.check()
    (model,) = registry.models()
    assert registry.model(NAME) == model
    assert (model.aliases, model.latest) == ({"champion": "2"}, "2")
    loader = ModelLoader(registry, cache)
    for version, slope in SLOPES.items():
        loaded = loader.load(ModelVersion(NAME, version))
        predicted = loaded.predict(Batch(LAYOUT, (FRAME["x"].to_numpy(),), len(FRAME))).arrays[0]
        theirs = mlflow.pyfunc.load_model(f"models:/{NAME}/{version}").predict(FRAME)
        assert predicted.tolist() == np.asarray(theirs).tolist()
        np.testing.assert_allclose(predicted, FRAME["x"] * slope)
        assert loaded.problem is None
    with pytest.raises(ModelNotFound):
        loader.load(ModelVersion(NAME, "3"))
    counts = ModelLoader(registry, cache)
    counts.load(ModelVersion(NAME, "1"))
    assert (counts.cache_counts.hits, counts.cache_counts.downloads) == (1, 0)
    assert loader.cache_counts.downloads == 2


def failing(settings: Settings, cache: Path, *secrets: str) -> str:
    """Load a version in a new process, because MLflow caches connections and credentials. Return the error."""
    code = (
        "import logging, sys, warnings; warnings.simplefilter('ignore'); logging.basicConfig(level=logging.INFO)\n"
        "from pathlib import Path\n"
        "from app.adapters.mlflow.registry import MlflowRegistry, configure\n"
        "from app.adapters.mlflow.loader import ModelLoader\n"
        "from app.errors import ServingError\n"
        "from app.serving.references import ModelVersion\n"
        "from app.settings import Settings\n"
        "settings = Settings.model_validate_json(sys.stdin.read())\n"
        "configure(settings)\n"
        "try:\n"
        f"    ModelLoader(MlflowRegistry(settings), Path(sys.argv[1])).load(ModelVersion('{NAME}', '1'))\n"
        "except ServingError as error:\n"
        "    print(f'{type(error).__name__}: {error.message}')\n"
    )
    given = settings.model_dump(mode="json", exclude_unset=True)
    if settings.aws_secret_access_key is not None:
        given["aws_secret_access_key"] = settings.aws_secret_access_key.get_secret_value()
    with environment_of_nobody():
        # MLflow retries a database until this time limit.
        os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        done = subprocess.run(
            [sys.executable, "-c", code, cache], input=json.dumps(given), capture_output=True, text=True, check=False
        )
    for secret in secrets:
        assert secret not in done.stdout
        assert secret not in done.stderr
    return done.stdout.strip() or done.stderr


def test_local_files(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    register(settings, settings.artifact_root.as_uri())
    check(settings, tmp_path / "cache")


def test_an_mlflow_server_that_hands_out_the_artifacts(tmp_path: Path, empty_registry: EmptyRegistry) -> None:
    with Processes(empty_registry(tmp_path)) as processes:
        uri = start_mlflow(processes, f"sqlite:///{tmp_path}/mlflow.db", (tmp_path / "artifacts").as_uri())
        settings = Settings(home=tmp_path, mlflow_tracking_uri=uri)
        register(settings, None)
        assert MlflowClient().get_model_version(NAME, "1").source.startswith("models:/")
        check(settings, tmp_path / "cache")


def test_s3_with_signatures(s3: S3, tmp_path: Path) -> None:
    import boto3

    settings = Settings(
        home=tmp_path,
        mlflow_s3_endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        aws_default_region="us-east-1",
    )
    configure(settings)
    store = boto3.client("s3", endpoint_url=s3.endpoint)
    store.create_bucket(Bucket="models")
    register(settings, "s3://models/prices")
    assert store.list_objects_v2(Bucket="models")["KeyCount"] > 10
    check(settings, tmp_path / "cache")

    wrong = settings.model_copy(update={"aws_secret_access_key": SecretStr("wrongsecret")})
    said = failing(wrong, tmp_path / "other", "wrongsecret", s3.secret_key)
    assert said == f"ModelUnavailable: the artifacts of {NAME}/versions/1 cannot be downloaded; the log has the cause"


def test_an_mlflow_server_on_postgresql_with_its_artifacts_on_s3(
    database: Postgres, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    server = {"MLFLOW_S3_ENDPOINT_URL": s3.endpoint, "AWS_DEFAULT_REGION": "us-east-1", **keys}
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=s3.endpoint).create_bucket(Bucket="proxied")
    with Processes(tmp_path) as processes:
        uri = start_mlflow(processes, database.uri(), "s3://proxied/artifacts")
        for name in server:  # the server fetches the artifacts: the platform needs no credentials
            monkeypatch.delenv(name)
        settings = Settings(home=tmp_path, mlflow_tracking_uri=uri)
        register(settings, None)
        check(settings, tmp_path / "cache")


def test_postgresql(database: Postgres, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri=database.uri())
    register(settings, (tmp_path / "artifacts").as_uri())
    check(settings, tmp_path / "cache")

    wrong = Settings(home=tmp_path, mlflow_tracking_uri=database.uri(password="wrongpassword"))
    said = failing(wrong, tmp_path / "other", "wrongpassword")
    assert said == f"RegistryUnavailable: the model registry does not answer, and {NAME}/versions/1 is not cached here"

    database.run(
        "CREATE ROLE reader LOGIN PASSWORD 'readers'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        "CREATE ROLE guarded LOGIN PASSWORD 'guardeds'",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO guarded",
        "ALTER ROLE guarded SET default_transaction_read_only = on",
    )
    for role in ("reader", "guarded"):
        reading = Settings(home=tmp_path, mlflow_tracking_uri=database.uri(role, f"{role}s"))
        configure(reading)
        registry = MlflowRegistry(reading)
        assert registry.model(NAME).aliases == {"champion": "2"}
        with pytest.raises(RegistryReadOnly):
            registry.set_alias(NAME, "champion", "1")
        with pytest.raises(RegistryReadOnly):
            registry.set_tag(NAME, "serving.live", "{}")


def test_postgresql_that_crashes_and_comes_back(database: Postgres, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_tracking_uri=database.uri())
    register(settings, (tmp_path / "artifacts").as_uri())
    registry = MlflowRegistry(settings)
    loader = ModelLoader(registry, tmp_path / "cache")
    loader.load(ModelVersion(NAME, "1"))
    before = registry.models()

    database.kill()
    with pytest.raises(RegistryUnavailable):
        registry.models()
    fresh = ModelLoader(MlflowRegistry(settings), tmp_path / "cache")
    assert fresh.load(ModelVersion(NAME, "1")).spec.flavor == "sklearn"
    with pytest.raises(RegistryUnavailable, match="not cached"):
        fresh.load(ModelVersion(NAME, "2"))

    database.start()
    assert registry.models() == before
    fresh.load(ModelVersion(NAME, "2"))


def start_mlflow(processes: Processes, backend: str, artifacts: str) -> str:
    """Start a real MLflow server that also serves the artifacts. Return its URL."""
    port = free_port()
    options: dict[str, Any] = {
        "--backend-store-uri": backend,
        "--artifacts-destination": artifacts,
        "--host": "127.0.0.1",
        "--port": port,
        "--workers": 1,
    }
    command = [sys.executable, "-m", "mlflow", "server", "--serve-artifacts"]
    command += [str(part) for option in options.items() for part in option]
    url = f"http://127.0.0.1:{port}"
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    processes.start("mlflow", command, lambda: is_answering(f"{url}/health"), env=settings)
    return url
