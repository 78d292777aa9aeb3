from __future__ import annotations

import importlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient
from starlette.requests import Request
from starlette.responses import Response

from app import demo
from app.adapters.mlflow import registry as mlflow_registry
from app.adapters.mlflow.registry import MlflowRegistry, configure
from app.errors import (
    InvalidReference,
    InvalidRequest,
    ModelNotFound,
    RegistryReadOnly,
    RegistryUnavailable,
    StartupError,
)
from app.serving.references import ModelVersion
from app.settings import Settings
from tests.adapters.between import Between
from tests.conftest import environment_of_nobody
from tests.mlflow_server import EmptyRegistry
from tests.ports import free_port
from tests.server import Server

pytestmark = [
    pytest.mark.usefixtures("starting_server"),  # starts while the first tests run
    # SQLAlchemy's pools close their connections when they are garbage-collected.
    pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
    # Far longer than a call may take, far shorter than MLflow's own retries.
    pytest.mark.timeout(60, func_only=True),
]

DEMO = demo.MODEL


def settings_for(home: Path, uri: str | None = None) -> Settings:
    return Settings(home=home, mlflow_tracking_uri=uri)


@pytest.fixture
def embedded(empty_registry: EmptyRegistry, tmp_path: Path) -> Settings:
    """Settings of a home with an empty embedded registry that no other test uses."""
    settings = settings_for(empty_registry(tmp_path))
    configure(settings)
    return settings


@pytest.fixture
def client(embedded: Settings) -> MlflowClient:
    return MlflowClient(embedded.tracking_uri, embedded.registry_uri)


@pytest.fixture
def registry(embedded: Settings) -> MlflowRegistry:
    return MlflowRegistry(embedded)


@pytest.fixture(scope="module")
def on_server(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a real server with the demo model."""
    # The first request imports Feast's plug-in: on a busy machine, that alone can exceed the time limit of a call.
    importlib.import_module("mlflow.tracking.request_header.registry")
    settings = settings_for(tmp_path_factory.mktemp("remote"), mlflow_server)
    foreign = settings.model_copy(update={"feast_repo": settings.home / "elsewhere"})
    with environment_of_nobody():
        assert demo.seed(foreign, lambda line: None)
    return settings


def add_version(client: MlflowClient, name: str, folder: Path, status: str = "READY") -> str:
    (folder / "artifacts").mkdir(exist_ok=True)
    (folder / "artifacts" / "MLmodel").write_text("flavors: {}\n")
    version = str(client.create_model_version(name, source=str(folder / "artifacts")).version)
    if status != "READY":
        with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
            database.execute("UPDATE model_versions SET status = ? WHERE version = ?", (status, version))
    return version


def test_models_have_aliases_tags_and_latest_version(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("empty")
    client.create_registered_model("prices", tags={"serving.traffic": '{"champion": 90}'})
    for _ in range(10):
        add_version(client, "prices", tmp_path)
    client.set_registered_model_alias("prices", "champion", "9")
    empty, prices = registry.models()
    assert (empty.name, empty.aliases, empty.tags, empty.latest) == ("empty", {}, {}, None)
    assert (prices.name, prices.aliases, prices.latest) == ("prices", {"champion": "9"}, "10")
    assert prices.tags == {"serving.traffic": '{"champion": 90}'}
    assert prices.created >= empty.created > 0
    assert registry.model("prices") == prices


def test_models_are_read_page_by_page(
    registry: MlflowRegistry, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_registry, "_PAGE", 2)
    for number in range(5):
        client.create_registered_model(f"model-{number}")
    assert [model.name for model in registry.models()] == [f"model-{number}" for number in range(5)]


@pytest.mark.parametrize("status", ["PENDING_REGISTRATION", "FAILED_REGISTRATION"])
def test_a_version_that_is_not_ready_does_not_count(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path, status: str
) -> None:
    client.create_registered_model("it's")
    add_version(client, "it's", tmp_path)
    unready = ModelVersion("it's", add_version(client, "it's", tmp_path, status))
    assert [model.latest for model in registry.models()] == ["1"]
    assert registry.has_version(ModelVersion("it's", "1"))
    assert not registry.has_version(unready)
    with pytest.raises(ModelNotFound, match="no version 2 that is ready"):
        registry.identity(unready)
    with pytest.raises(ModelNotFound, match="no version 2 that is ready"):
        registry.set_alias("it's", "champion", "2")


def test_a_model_without_a_ready_version_has_no_latest(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("prices")
    add_version(client, "prices", tmp_path, "PENDING_REGISTRATION")
    assert registry.model("prices").latest is None


def test_an_unknown_model_is_not_found(registry: MlflowRegistry, client: MlflowClient) -> None:
    client.create_registered_model("prices")
    with pytest.raises(ModelNotFound, match="no registered model 'price'") as caught:
        registry.model("price")
    assert caught.value.details == {"model": "price"}


@pytest.mark.parametrize("version", ["2", "0", "9" * 18, "latest", "1 OR 1=1"])
def test_has_version_is_false_for_a_missing_version(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path, version: str
) -> None:
    client.create_registered_model("prices")
    add_version(client, "prices", tmp_path)
    assert not registry.has_version(ModelVersion("prices", version))
    assert not registry.has_version(ModelVersion("costs", version))


def test_an_alias_is_set_and_moved(registry: MlflowRegistry, client: MlflowClient, tmp_path: Path) -> None:
    client.create_registered_model("prices")
    for version in ("1", "2"):
        add_version(client, "prices", tmp_path)
        registry.set_alias("prices", "champion", version)
        assert registry.model("prices").aliases == {"champion": version}


def test_an_alias_that_mlflow_reserves_is_refused(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("prices")
    add_version(client, "prices", tmp_path)
    with pytest.raises(InvalidReference, match="'latest' cannot be an alias"):
        registry.set_alias("prices", "latest", "1")


def test_a_tag_is_set_changed_and_deleted(registry: MlflowRegistry, client: MlflowClient) -> None:
    client.create_registered_model("prices", tags={"owner": "desk"})
    for value in ('{"champion": 90}', "", '{"champion": "ö"}'):
        registry.set_tag("prices", "serving.traffic", value)
        assert registry.model("prices").tags == {"owner": "desk", "serving.traffic": value}
    for _ in range(2):
        registry.delete_tag("prices", "serving.traffic")
        assert registry.model("prices").tags == {"owner": "desk"}


def test_a_tag_that_mlflow_cannot_keep_is_refused(registry: MlflowRegistry, client: MlflowClient) -> None:
    client.create_registered_model("prices")
    for key, value in (("serving.live", "x" * 100_001), ("k" * 251, "x"), ("not\na key", "x")):
        with pytest.raises(InvalidRequest, match="rejects the tag"):
            registry.set_tag("prices", key, value)
    with pytest.raises(InvalidRequest, match="rejects the tag"):
        registry.delete_tag("prices", "not\na key")


def writes(registry: MlflowRegistry, name: str) -> list[Callable[[], None]]:
    return [
        lambda: registry.set_alias(name, "candidate", "1"),
        lambda: registry.set_tag(name, "serving.live", "{}"),
        lambda: registry.delete_tag(name, "serving.live"),
    ]


def test_writes_to_a_missing_model_are_refused(registry: MlflowRegistry, client: MlflowClient) -> None:
    client.create_registered_model("prices")
    for write in writes(registry, "costs"):
        with pytest.raises(ModelNotFound, match="no registered model 'costs'"):
            write()


def test_writes_are_refused_if_the_settings_forbid_them(
    embedded: Settings, client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("prices")
    add_version(client, "prices", tmp_path)
    registry = MlflowRegistry(embedded.model_copy(update={"registry_read_only": True}))
    before = registry.model("prices")
    for write in writes(registry, "prices"):
        with pytest.raises(RegistryReadOnly, match="registry_read_only"):
            write()
    assert registry.model("prices") == before


def test_a_read_only_database_is_read_and_rejects_writes(
    embedded: Settings, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # of an address with `file:` MLflow makes a folder of that name
    client.create_registered_model("prices", tags={"serving.live": "{1}"})
    for _ in range(2):
        add_version(client, "prices", tmp_path)
    client.set_registered_model_alias("prices", "candidate", "2")
    database = f"sqlite:///file:{embedded.home}/mlflow.db?mode=ro&uri=true"
    settings = Settings(home=embedded.home, mlflow_tracking_uri=database)
    configure(settings)
    registry = MlflowRegistry(settings)
    registry.check()
    assert [model.aliases for model in registry.models()] == [{"candidate": "2"}]
    for write in writes(registry, "prices"):
        with pytest.raises(RegistryReadOnly, match="denies the platform write access") as caught:
            write()
        assert "sql" not in caught.value.message.lower()


def test_a_version_registered_again_has_another_identity(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    version = ModelVersion("prices", "1")
    identities = set()
    for _ in range(2):
        client.create_registered_model("prices")
        add_version(client, "prices", tmp_path)
        identities |= {registry.identity(version), registry.identity(version)}
        client.delete_registered_model("prices")
    assert len(identities) == 2


def test_artifacts_are_copied_into_the_folder(registry: MlflowRegistry, client: MlflowClient, tmp_path: Path) -> None:
    client.create_registered_model("prices")
    add_version(client, "prices", tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    registry.download(ModelVersion("prices", "1"), target)
    assert (target / "MLmodel").read_text() == "flavors: {}\n"


def test_artifacts_that_are_gone_are_an_os_error(
    registry: MlflowRegistry, client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("prices")
    add_version(client, "prices", tmp_path)
    (tmp_path / "artifacts").rename(tmp_path / "away")
    (tmp_path / "target").mkdir()
    with pytest.raises(OSError, match="prices/versions/1 are gone"):
        registry.download(ModelVersion("prices", "1"), tmp_path / "target")


def test_a_server_answers_as_a_database_does(on_server: Settings, tmp_path: Path) -> None:
    configure(on_server)
    registry = MlflowRegistry(on_server)
    registry.check()
    model = registry.model(DEMO)
    assert model in registry.models()
    assert (model.aliases, model.latest) == ({"champion": "1", "challenger": "2"}, "2")
    assert registry.has_version(ModelVersion(DEMO, "2"))
    assert not registry.has_version(ModelVersion(DEMO, "3"))
    assert not registry.has_version(ModelVersion("commodity", "1"))
    assert registry.identity(ModelVersion(DEMO, "1")) != registry.identity(ModelVersion(DEMO, "2"))
    with pytest.raises(ModelNotFound, match="no registered model"):
        registry.model(DEMO[:-1])
    registry.download(ModelVersion(DEMO, "1"), tmp_path)
    assert {"MLmodel", "model.skops", "input_example.json"} <= {path.name for path in tmp_path.iterdir()}


def test_an_alias_is_set_on_a_server(on_server: Settings) -> None:
    configure(on_server)
    registry = MlflowRegistry(on_server)
    registry.set_alias(DEMO, "candidate", "2")
    assert registry.model(DEMO).aliases["candidate"] == "2"
    with pytest.raises(InvalidReference):
        registry.set_alias(DEMO, "v1", "2")
    with pytest.raises(ModelNotFound):
        registry.set_alias(DEMO, "candidate", "7")


def test_tags_are_set_and_deleted_on_a_server(on_server: Settings) -> None:
    configure(on_server)
    registry = MlflowRegistry(on_server)
    registry.set_tag(DEMO, "serving.passing", "1")
    assert registry.model(DEMO).tags["serving.passing"] == "1"
    for _ in range(2):
        registry.delete_tag(DEMO, "serving.passing")
        assert "serving.passing" not in registry.model(DEMO).tags
    with pytest.raises(InvalidRequest):
        registry.set_tag(DEMO, "serving.live", "x" * 100_001)
    with pytest.raises(ModelNotFound):
        registry.delete_tag("costs", "serving.live")


@pytest.mark.parametrize("body", ["Permission denied", '{"error_code": "PERMISSION_DENIED", "message": "no"}'])
def test_a_read_only_server_is_read_and_rejects_writes(on_server: Settings, tmp_path: Path, body: str) -> None:
    def refuse_writes(request: Request, answer: httpx.Response | None) -> Response | None:
        return None if request.method == "GET" else Response(body, 403)

    with Server(Between(on_server.tracking_uri, refuse_writes)) as server:
        settings = settings_for(tmp_path, server.url)
        configure(settings)
        registry = MlflowRegistry(settings)
        before = registry.models()
        for write in writes(registry, DEMO):
            with pytest.raises(RegistryReadOnly, match="denies the platform write access"):
                write()
        assert registry.models() == before


def test_the_demo_on_a_server_is_found_again_without_mlflow(on_server: Settings) -> None:
    code = (
        "import sys; from app import demo; from app.settings import Settings\n"
        f"settings = Settings(home={str(on_server.home)!r}, mlflow_tracking_uri={on_server.tracking_uri!r},"
        " feast_repo='/elsewhere')\n"
        "assert not demo.seed(settings, lambda line: None)\n"
        "assert not {'mlflow', 'feast', 'sklearn'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert not (on_server.home / "mlflow.db").exists()
    assert not (on_server.home / "artifacts").exists()


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, f"http://user:secret@127.0.0.1:{free_port()}")
    configure(settings)
    registry = MlflowRegistry(settings)
    for ask in (registry.check, registry.models, lambda: registry.model("prices")):
        with pytest.raises(RegistryUnavailable) as caught:
            ask()
        assert caught.value.message == "the model registry does not answer: no connection can be made"


def test_a_server_that_goes_away_is_unavailable(tmp_path: Path) -> None:
    with OneAnswer(200, '{"registered_models": []}') as address:
        settings = settings_for(tmp_path, address)
        configure(settings)
        registry = MlflowRegistry(settings)
        assert registry.models() == []
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        registry.models()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (503, "busy", "the model registry does not answer"),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "SELECT * FROM t"}', "the model registry does not answer"),
        (404, "<html>nothing here</html>", "the model registry does not answer"),
        (200, "<html>welcome</html>", "the model registry does not answer"),
        (401, "who are you?", "the model registry refuses this client: check its credentials"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', "the model registry refuses this client"),
    ],
)
def test_the_text_of_a_failing_server_is_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, body: str, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # retries without waiting
    with OneAnswer(status, body) as address:
        settings = settings_for(tmp_path, address)
        configure(settings)
        registry = MlflowRegistry(settings)
        for ask in (registry.models, lambda: registry.has_version(ModelVersion("prices", "1"))):
            with pytest.raises(RegistryUnavailable) as caught:
                ask()
            assert caught.value.message.startswith(message)
            assert body not in caught.value.message
            assert caught.value.__cause__ is not None


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "mysql+pymysql"])
def test_a_database_server_that_is_not_there_is_unavailable(tmp_path: Path, scheme: str) -> None:
    settings = settings_for(tmp_path, f"{scheme}://user:secret@127.0.0.1:{free_port()}/mlflow")
    with pytest.raises(RegistryUnavailable, match="no connection"):
        MlflowRegistry(settings).check()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(RegistryUnavailable, match="database file cannot be read"):
        MlflowRegistry(settings_for(tmp_path)).check()


def test_a_database_of_another_release_stops_the_start(embedded: Settings) -> None:
    with closing(sqlite3.connect(embedded.home / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'bd07f7e963c5'")
    with pytest.raises(StartupError, match="mlflow db upgrade"):
        MlflowRegistry(embedded).check()


def test_a_registry_of_an_unknown_kind_stops_the_start(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, mlflow_registry_uri="gopher://registry")
    configure(settings)
    with pytest.raises(StartupError, match="MLflow keeps no models at a registry URI of this kind"):
        MlflowRegistry(settings).check()


def test_a_missing_database_driver_stops_the_start(tmp_path: Path) -> None:
    with OneAnswer(200, "") as address:
        port = address.rpartition(":")[2]
        settings = settings_for(tmp_path, f"mysql+mysqlconnector://user:secret@127.0.0.1:{port}/mlflow")
        configure(settings)
        with pytest.raises(StartupError, match="needs the library 'mysql', which is not installed"):
            MlflowRegistry(settings).check()


def test_configure_exports_storage_and_keeps_operator_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    configure(Settings(home=tmp_path, mlflow_s3_endpoint_url="http://minio:9000", aws_secret_access_key="hidden"))
    assert os.environ["MLFLOW_S3_ENDPOINT_URL"] == "http://minio:9000"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hidden"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"


def test_configure_does_not_export_the_embedded_registry(tmp_path: Path) -> None:
    configure(settings_for(tmp_path))
    assert Settings(home=tmp_path).is_embedded_registry
    os.environ["MLFLOW_TRACKING_URI"] = "http://theirs"
    configure(settings_for(tmp_path))
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://theirs"


def test_importing_the_adapter_does_not_load_mlflow() -> None:
    code = "import sys, app.adapters.mlflow.registry; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_process_that_calls_a_server_does_not_load_feast(on_server: Settings) -> None:
    code = (
        "import sys; from app.settings import Settings\n"
        "from app.adapters.mlflow.registry import MlflowRegistry, configure\n"
        f"settings = Settings(home={str(on_server.home)!r}, mlflow_tracking_uri={on_server.tracking_uri!r})\n"
        "configure(settings)\n"
        "assert MlflowRegistry(settings).models()\n"
        "assert 'feast' not in sys.modules\n"
        "from mlflow.utils.plugins import get_entry_points\n"
        "assert [one.name for one in get_entry_points('mlflow.request_header_provider')] == ['feast']"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


class OneAnswer:
    """Server that gives one answer to every request, as a proxy in front of a dead registry does."""

    def __init__(self, status: int, body: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_models_that_the_settings_leave_out_do_not_exist(
    embedded: Settings, client: MlflowClient, tmp_path: Path
) -> None:
    for name in ("prices", "costs"):
        client.create_registered_model(name)
        add_version(client, name, tmp_path)
    registry = MlflowRegistry(embedded.model_copy(update={"models": ("price*", "other")}))
    assert [model.name for model in registry.models()] == ["prices"]
    assert registry.model("prices").latest == "1"
    with pytest.raises(ModelNotFound, match="no registered model 'costs'"):
        registry.model("costs")
    version = ModelVersion("costs", "1")
    assert (registry.has_version(ModelVersion("prices", "1")), registry.has_version(version)) == (True, False)
    with pytest.raises(ModelNotFound):
        registry.download(version, tmp_path)
    for write in writes(registry, "costs"):
        with pytest.raises(ModelNotFound):
            write()
    assert client.get_registered_model("costs").aliases == {}
