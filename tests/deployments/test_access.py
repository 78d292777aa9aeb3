from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.adapters.access.keys import KeyFile, create_key
from app.adapters.access.tokens import TokenVerifier
from app.deployments.access import make_access, require_access
from app.errors import StartupError
from app.settings import Settings

JWT = {"jwt_issuer": "https://i", "jwt_audience": "a", "jwt_keys": "/keys"}


def settings(tmp_path: Path, **given: Any) -> Settings:
    return Settings(**{"home": tmp_path, **given})


@pytest.mark.parametrize("host", [None, "127.0.0.1", "127.5.0.1", "::1", "localhost"])
def test_this_machine_needs_no_authentication(tmp_path: Path, host: str | None) -> None:
    require_access(settings(tmp_path, host=host))
    assert not make_access(settings(tmp_path))[0].is_on


@pytest.mark.parametrize(
    "given", [{"host": "0.0.0.0"}, {"host": "::"}, {"host": "10.0.0.7"}, {"host": "gateway"}, {"profile": "cluster"}]
)
def test_other_machines_need_authentication_or_an_open_word(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(StartupError, match=r"set auth\.mode .* or auth\.open=true"):
        require_access(settings(tmp_path, **given))
    require_access(settings(tmp_path, **given, auth={"open": True}))
    create_key(tmp_path / "keys.json", "desk", ["predict"])
    require_access(settings(tmp_path, **given, auth={"mode": "api-key"}))


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ({"mode": "api-key"}, "cannot read the key file .*keys.json"),
        ({"mode": "jwt"}, "auth.jwt_issuer, auth.jwt_audience, auth.jwt_keys"),
        ({"mode": "jwt", **JWT, "jwt_audience": None}, "needs the settings auth.jwt_audience"),
        ({"mode": "proxy"}, "needs the setting auth.proxy_secret"),
        ({"mode": "proxy", "proxy_secret": "short"}, "shorter than 16"),
        ({"proxy_secret": "long enough to be one"}, "has no effect"),
    ],
)
def test_an_incomplete_authentication_stops_the_start(tmp_path: Path, auth: dict[str, Any], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        require_access(settings(tmp_path, auth=auth))


def test_each_mode_is_made(tmp_path: Path) -> None:
    create_key(tmp_path / "keys.json", "desk", ["predict"])
    assert isinstance(make_access(settings(tmp_path, auth={"mode": "api-key"}))[1], KeyFile)
    assert isinstance(make_access(settings(tmp_path, auth={"mode": "jwt", **JWT}))[1], TokenVerifier)
    access, authenticator = make_access(settings(tmp_path, auth={"mode": "proxy", "proxy_secret": "x" * 16}))
    assert (access.is_on, authenticator) == (True, None)


def test_lists_are_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_SERVE_AUTH__HOSTS", "gateway, *.svc")
    monkeypatch.setenv("ML_SERVE_AUTH__PROXY_SCOPES", "predict,observe")
    monkeypatch.setenv("ML_SERVE_ENVIRONMENTS__VARIABLES", "TZ_TOKEN")
    monkeypatch.setenv("ML_SERVE_MODELS", "price_*,risk")
    found = settings(tmp_path)
    assert (found.auth.hosts, found.auth.proxy_scopes) == (("gateway", "*.svc"), ("predict", "observe"))
    assert (found.environments.variables, found.models) == (("TZ_TOKEN",), ("price_*", "risk"))
    assert [found.serves(name) for name in ("price_a", "risk", "risky")] == [True, True, False]


def test_paths_are_those_of_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    auth = settings(tmp_path, auth={"keys_file": "keys.json", "jwt_keys": "jwks.json"}).auth
    assert (auth.keys_file, auth.jwt_keys) == (tmp_path / "keys.json", str(tmp_path / "jwks.json"))
    url = "https://issuer.example/jwks"
    assert settings(tmp_path, auth={"jwt_keys": url}).auth.jwt_keys == url


def test_processes_of_models_get_no_secrets(tmp_path: Path) -> None:
    given = settings(
        tmp_path,
        mlflow_tracking_uri="postgresql://user:hunter2@db/mlflow",
        mlflow_registry_uri="https://user:hunter2@mlflow/x",
        aws_access_key_id="hunter2",
        aws_secret_access_key="hunter2",
        aws_session_token="hunter2",
        auth={"mode": "proxy", "proxy_secret": "hunter2hunter2hunter2"},
    )
    bare = given.without_secrets()
    texts = str(bare.model_dump(mode="json")) + str(bare.storage_environment())
    assert "hunter2" not in texts
    assert (bare.tracking_uri, bare.registry_uri) == ("postgresql://db/mlflow", "https://mlflow/x")
    assert bare.model_copy(update={"home": tmp_path}).cache_folder == given.cache_folder
