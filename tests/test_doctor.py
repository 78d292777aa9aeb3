import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from app import doctor
from app.doctor import Check, examine
from app.settings import Settings
from tests.ports import free_ports

# The imports of MLflow and Feast cause warnings.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PUBLIC_KEY = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAETpwgdCFaaibLi8xlUA1oZUqpm/Vb
gU1gFxX2TOCGYWWGf3oX/DuC9lSMIMVPlBZHH83WJATTn2wrGQBgbI72VQ==
-----END PUBLIC KEY-----
"""
UNREACHABLE = "http://me:secret@127.0.0.1:1"


@pytest.fixture(autouse=True)
def mlflow_as_before() -> Iterator[None]:
    """Undo what the check of the registry configures for the whole process."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
    if "mlflow" in sys.modules:
        import mlflow

        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def settings(tmp_path: Path, **given: Any) -> Settings:
    fields = ("http_port", "grpc_port", "haproxy_stats_port", "haproxy_metrics_port", "dashboard_port")
    ports = dict(zip(fields, free_ports(len(fields)), strict=True))
    return Settings(**{"home": tmp_path / "home", **ports, **given})


def check(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.ok]


def test_a_fresh_machine_passes_and_stays_as_it_is(tmp_path: Path) -> None:
    checks = examine(settings(tmp_path))
    assert failed(checks) == []
    assert [check.name for check in checks if not check.name.startswith("port ")] == [
        "system", "home", "access", "model libraries", "registry", "feature store",
    ]  # fmt: skip
    assert "will be created" in check(checks, "home").message
    assert "will be created" in check(checks, "registry").message
    assert "not configured" in check(checks, "feature store").message
    assert "scikit-learn" in check(checks, "model libraries").message
    assert list(tmp_path.iterdir()) == []


# Ports


@pytest.mark.parametrize("field", ["http_port", "haproxy_stats_port", "haproxy_metrics_port"])
def test_a_port_that_is_taken_names_the_process(tmp_path: Path, taken: int, field: str) -> None:
    checks = examine(settings(tmp_path, **{field: taken}))
    assert failed(checks) == [f"port {taken}"]
    message = check(checks, f"port {taken}").message
    assert f"process {os.getpid()} ({psutil.Process().name()}" in message
    assert f"set ML_SERVE_{field.upper()}" in message
    assert "\n" not in message


def test_a_port_whose_last_connections_are_closing_is_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listening.accept()[0].close()
    assert failed(examine(settings(tmp_path, http_port=port))) == []


def test_the_dashboard_port_counts_only_if_a_dashboard_starts(tmp_path: Path, taken: int) -> None:
    assert failed(examine(settings(tmp_path, dashboard_port=taken))) == []
    assert failed(examine(settings(tmp_path, dashboard_port=taken, dashboard=True))) == [f"port {taken}"]


def test_no_port_counts_where_a_cluster_is_joined(tmp_path: Path, taken: int) -> None:
    checks = examine(settings(tmp_path, http_port=taken, ray_address="ray://head:10001"))
    assert not any(check.name.startswith("port ") for check in checks)


def test_one_port_for_two_things_is_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    checks = examine(settings(tmp_path, http_port=port, haproxy_stats_port=port))
    assert failed(checks) == [f"port {port}"]
    assert any(f"http_port and haproxy_stats_port are both {port}" in check.message for check in checks)


# The home folder


def test_a_home_that_is_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    checks = examine(settings(tmp_path, home=tmp_path / "home" / "inner"))
    assert failed(checks) == ["home"]
    assert str(tmp_path / "home") in check(checks, "home").message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_fails(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert failed(examine(settings(tmp_path))) == ["home"]


# Registry and feature store


def test_an_unreachable_registry_is_named_without_its_password(tmp_path: Path) -> None:
    checks = examine(settings(tmp_path, mlflow_tracking_uri=UNREACHABLE))
    assert failed(checks) == ["registry"]
    message = check(checks, "registry").message
    assert "does not answer" in message
    assert "http://127.0.0.1:1" in message
    assert "secret" not in message


def test_a_database_that_is_no_registry_fails(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "mlflow.db").write_text("no database at all" * 100)
    checks = examine(settings(tmp_path))
    assert failed(checks) == ["registry"]
    assert "cannot be read" in check(checks, "registry").message


@pytest.mark.slow
def test_an_embedded_registry_and_a_feature_store_pass(tmp_path: Path) -> None:
    from app.demo.features import build_features  # the quickest way to a real repository

    configured = settings(tmp_path)
    configured.home.mkdir()
    (configured.home / "mlflow.db").touch()
    build_features(configured.demo_feast_repo)
    # A warning of MLflow. Filtered here, because the import of Feast adds a filter that overrides the mark above.
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning)
    checks = examine(configured)
    assert failed(checks) == []
    assert "answers" in check(checks, "registry").message
    assert "can be read" in check(checks, "feature store").message


@pytest.mark.parametrize("text", [None, "project: [", "project: x\nprovider: nowhere\n", "- a list"])
def test_a_broken_feature_repository_fails(tmp_path: Path, text: str | None) -> None:
    folder = tmp_path / "feast"
    folder.mkdir()
    if text is not None:
        (folder / "feature_store.yaml").write_text(text)
    checks = examine(settings(tmp_path, feast_repo=folder))
    assert failed(checks) == ["feature store"]
    message = check(checks, "feature store").message
    assert "feature_store.yaml" in message or "feature store" in message
    assert "Traceback" not in message


def test_a_missing_key_of_those_who_sign_models_fails(tmp_path: Path) -> None:
    key = tmp_path / "signing.pub"
    required = {"require": True, "public_keys": [key]}

    def signatures(**given: Any) -> Check:
        return check(doctor.examine_machine(settings(tmp_path, **given)), "signatures")

    missing = signatures(signatures=required)
    assert not missing.ok
    assert missing.message == f"cannot read {key} of signatures.public_keys: No such file or directory"
    assert signatures(signatures=required, profile="cluster").ok, "only the nodes of the pools need it"
    assert not signatures(signatures={"require": True}, profile="cluster").ok
    key.write_bytes(PUBLIC_KEY)
    found = signatures(signatures=required)
    assert (found.ok, found.message) == (True, "models that match * need a signature by one of 1 trusted keys")


def test_a_check_that_hangs_or_breaks_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(_: Settings) -> str:
        time.sleep(5)
        return ""

    def fail(_: Settings) -> str:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr(doctor, "_CHECK_S", 0.05)
    monkeypatch.setattr(doctor, "_registry", hang)
    monkeypatch.setattr(doctor, "_features", fail)
    checks = examine(settings(tmp_path))
    assert check(checks, "registry") == Check("registry", False, "the registry did not answer within 0.05 s")
    assert check(checks, "feature store").message == (
        "the feature store cannot be checked: ZeroDivisionError: first line"
    )


# The machine


@pytest.mark.parametrize(
    "given", [{"mlflow_s3_endpoint_url": "http://minio:9000"}, {"aws_access_key_id": "id"}], ids=["endpoint", "key"]
)
def test_a_missing_artifact_store_client_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    remote = settings(tmp_path, mlflow_tracking_uri=UNREACHABLE, **given)
    monkeypatch.setattr(doctor, "_registry", lambda _: "")
    installed = ModuleType("boto3")
    installed.__spec__ = ModuleSpec("boto3", None)
    monkeypatch.setitem(sys.modules, "boto3", installed)
    assert failed(examine(remote)) == []
    monkeypatch.setitem(sys.modules, "boto3", None)
    checks = examine(remote)
    assert failed(checks) == ["artifact store"]
    assert "pip install 'ml-serve-gateway[stores]'" in check(checks, "artifact store").message
    # The embedded registry keeps artifacts in the home folder, whatever the shell has exported for other programs.
    assert failed(examine(settings(tmp_path, **given))) == []


def test_an_unsupported_python_or_system_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PYTHONS", ((3, 98), (3, 99)))
    checks = examine(settings(tmp_path))
    assert failed(checks) == ["system"]
    assert "use 3.98 to 3.98" in check(checks, "system").message
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert failed(examine(settings(tmp_path))) == ["system"]
