from pathlib import Path

import pytest

from app.errors import StartupError
from app.settings import Settings, TraceSettings, environment_names, load


def test_the_defaults_are_an_embedded_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings.home == tmp_path / ".ml-serve"
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/.ml-serve/mlflow.db"
    assert settings.is_embedded_registry
    assert settings.replicas(settings.gateway) == (1, 2)
    assert settings.feast_folder is None


def test_a_cluster_has_two_to_ten_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray-head:6379")
    settings = load()
    assert settings.is_cluster
    assert settings.replicas(settings.pools["default"]) == (2, 10)
    monkeypatch.setenv("ML_SERVE_PROFILE", "local")
    assert load().replicas(settings.gateway) == (1, 2)


def test_options_override_the_environment_and_that_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("http_port: 1001\nhaproxy_stats_port: 1002\nlimits:\n  rows: 7\npools:\n  gpu: {num_gpus: 0.5}\n")
    monkeypatch.setenv("ML_SERVE_HTTP_PORT", "2001")
    settings = load(config)
    assert (settings.http_port, settings.haproxy_stats_port, settings.limits.rows) == (2001, 1002, 7)
    assert settings.limits.columns == 10_000
    assert settings.pools["gpu"].num_gpus == 0.5
    assert "default" in settings.pools
    assert load(config, http_port=3001, dashboard=None).http_port == 3001
    monkeypatch.setenv("ML_SERVE_CONFIG", str(config))
    assert load().haproxy_stats_port == 1002


def test_our_variables_override_those_of_the_ecosystem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://minio:9000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    settings = load()
    assert settings.registry_uri == "http://mlflow:5000"
    assert not settings.is_embedded_registry
    assert settings.storage_environment() == {
        "MLFLOW_S3_ENDPOINT_URL": "http://minio:9000",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
    }
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv("ML_SERVE_MLFLOW_TRACKING_URI", "http://ours:5000")
    assert load().tracking_uri == "http://ours:5000"


def test_the_collector_is_also_read_from_its_own_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load().traces.endpoint is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://theirs:4318")
    assert load().traces.endpoint == "http://theirs:4318"
    monkeypatch.setenv("ML_SERVE_TRACES__SAMPLE_RATIO", "0.5")  # of the same group, from another source
    assert load().traces == TraceSettings(endpoint="http://theirs:4318", sample_ratio=0.5)
    config = tmp_path / "config.yaml"
    config.write_text("traces: {endpoint: http://file:4318}")
    assert load(config).traces.endpoint == "http://file:4318"
    monkeypatch.setenv("ML_SERVE_TRACES__ENDPOINT", "http://ours:4318")
    assert load(config).traces.endpoint == "http://ours:4318"
    assert load(config).without_secrets().traces.endpoint is None


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ML_SERVE_TRACES__ENDPOINT", "collector:4317", ["bad setting ML_SERVE_TRACES__ENDPOINT: ", "http://"]),
        ("ML_SERVE_TRACES__SAMPLE_RATIO", "1.5", ["ML_SERVE_TRACES__SAMPLE_RATIO='1.5'", "less than or equal to 1"]),
        ("ML_SERVE_LOG_FORMAT", "xml", ["ML_SERVE_LOG_FORMAT='xml'", "'text' or 'json'"]),
        ("ML_SERVE_HTTP_PORT", "abc", ["ML_SERVE_HTTP_PORT='abc'", "integer"]),
        ("ML_SERVE_HTTP_PORT", "0", ["ML_SERVE_HTTP_PORT='0'", "greater than or equal to 1"]),
        ("ML_SERVE_LIMITS__ROWS", "-1", ["ML_SERVE_LIMITS__ROWS='-1'", "greater"]),
        ("ML_SERVE_LOG_LEVEL", "loud", ["ML_SERVE_LOG_LEVEL='loud'", "'debug', 'info'"]),
        ("ML_SERVE_HTP_PORT", "1", ["unknown setting ML_SERVE_HTP_PORT", "did you mean ML_SERVE_HTTP_PORT"]),
        ("ML_SERVE_LIMITS__ROW", "1", ["unknown setting ML_SERVE_LIMITS__ROW", "ML_SERVE_LIMITS__ROWS"]),
        (
            "ML_SERVE_POOLS__GPU__NUM_GPS",
            "1",
            ["unknown setting ML_SERVE_POOLS__GPU__NUM_GPS", "did you mean ML_SERVE_POOLS__GPU__NUM_GPUS?"],
        ),
        ("ML_SERVE_LIMITS", "{bad", ["bad setting ML_SERVE_LIMITS: it must be JSON"]),
        ("ML_SERVE_LIMITS", '{"rwos": 1}', ["unknown setting 'limits.rwos' in ML_SERVE_LIMITS", "'limits.rows'"]),
        ("ML_SERVE_SIGNATURES__FILE", "MLmodel", ["ML_SERVE_SIGNATURES__FILE='MLmodel'", "match pattern"]),
        ("ML_SERVE_CONFIG", "/nowhere.yaml", ["/nowhere.yaml", "No such file"]),
    ],
)
def test_a_bad_variable_stops_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError) as caught:
        load()
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("htp_port: 1", ["unknown setting 'htp_port'", "http_port", "config.yaml"]),
        ("http_port: x", ["'http_port'", "config.yaml", "'x'"]),
        ("limits: {rwos: 1}", ["unknown setting 'limits.rwos' in ", "config.yaml; did you mean 'limits.rows'?"]),
        (
            "pools: {gpu: {num_gps: 1}}",
            ["unknown setting 'pools.gpu.num_gps' in ", "did you mean 'pools.gpu.num_gpus'?"],
        ),
        ("limits: {zzz: 1}", ["unknown setting 'limits.zzz' in ", "see docs/settings.md"]),
        ("limits: 5", ["bad setting 'limits' in ", "=5: "]),
        ("- a", ["mapping"]),
        ("a: [", ["not valid YAML"]),
    ],
)
def test_a_bad_file_stops_the_start_and_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises(StartupError) as caught:
        load(config)
    assert [word for word in words if word not in str(caught.value)] == []


def test_signatures_are_set_by_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert not load().signatures.needs("prices")
    monkeypatch.setenv("ML_SERVE_SIGNATURES__REQUIRE", "true")
    monkeypatch.setenv("ML_SERVE_SIGNATURES__PUBLIC_KEYS", "ops.pub, /keys/desk.pub")
    monkeypatch.setenv("ML_SERVE_SIGNATURES__MODELS", "price*")
    signatures = load().signatures
    assert signatures.public_keys == (tmp_path / "ops.pub", Path("/keys/desk.pub"))
    assert [signatures.needs(name) for name in ("prices", "Prices", "costs")] == [True, True, False]
    assert load().without_secrets().signatures == signatures


def test_all_errors_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_SERVE_HTTP_PORT", "x")
    monkeypatch.setenv("ML_SERVE_DRAIN_S", "-1")
    with pytest.raises(StartupError) as caught:
        load()
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("aws_secret_access_key: [hunter2]", "'aws_secret_access_key'"),
        ("aws_access_key_id: 5\naws_secret_access_key: hunter2", "'aws_access_key_id'"),
        ("mlflow_tracking_uri: ['http://me:hunter2@mlflow']", "'mlflow_tracking_uri'"),
        ("preload: {aws_secret_access_key: hunter2}", "'preload'"),
        ("aws_secret_access_key: hunter2: 1", "line 1"),
    ],
)
def test_error_messages_contain_no_secrets(tmp_path: Path, text: str, names: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    with pytest.raises(StartupError) as caught:
        load(config)
    assert names in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_group_that_is_not_json_reveals_no_file_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("aws_secret_access_key: hunter2\n")
    monkeypatch.setenv("ML_SERVE_LIMITS", "{bad")
    with pytest.raises(StartupError) as caught:
        load(config)
    assert str(caught.value) == "bad setting ML_SERVE_LIMITS: it must be JSON"


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "ML_SERVE_HTTP_PORT", "ML_SERVE_LIMITS__ROWS", "ML_SERVE_POOLS"):
        monkeypatch.setenv(name, "")
    settings = load()
    assert settings.ray_address is None
    assert not settings.is_cluster
    assert (settings.http_port, settings.limits.rows) == (8000, 100_000)
    config = tmp_path / "config.yaml"
    config.write_text("http_port: x\n")
    with pytest.raises(StartupError) as caught:
        load(config)
    assert str(caught.value).startswith(f"bad setting 'http_port' in {config}='x': ")


def test_every_setting_has_a_meaning_and_a_variable() -> None:
    named = {dotted.partition(".")[0] for _, dotted in environment_names()}
    assert named == set(Settings.model_fields)
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
