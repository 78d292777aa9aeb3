import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from app import __version__
from app.adapters.access.keys import KeyFile, create_key
from app.api.app import create_app
from app.api.http.access import Access
from app.cli import cli
from app.cli.errors import EPILOG, FAILED, NO_RESPONSE, OK, REFUSED, USAGE
from app.errors import ModelUnavailable
from app.serving.comparison.statistics import ShadowCounts, Statistics, VariantCounts
from app.serving.confidence import Moments
from app.serving.references import ModelVersion
from app.serving.releases.traffic import TrafficPlan
from tests.fakes import FakeFeatureStore, FakeModel, Fakes, columns, make_fakes, tensor, total
from tests.ports import free_ports
from tests.server import Server

BROKEN = FakeModel(lambda batch: tensor(batch.arrays[0]), error=ModelUnavailable("its library is missing"))
POOL = {"replica": "p1", "deployment": "Pool", "rss_bytes": 512_000_000, "models": 2, "model_bytes": 3_400_000}


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def fakes(server: Server) -> Fakes:
    scaled = FakeModel(
        lambda batch: tensor(batch.arrays[0] * json.loads(batch.layout.params or '{"by": 1}')["by"]),
        columns("a"),
        params=[{"name": "by", "type": "double", "default": 1.0, "shape": None}],
    )
    fakes = make_fakes(
        {
            "sum": total("a", "b"),
            "sum/versions/2": total("a", "b", offset=100),
            "sum/versions/3": total("a", "b", "c"),
            "scaled": scaled,
            "[bold]": BROKEN,
        },
        aliases={"sum": {"champion": "1"}},
        features=FakeFeatureStore({"daily": {"oil": {"a": 1.0, "b": 2.0}, 7: {"a": 3.0, "b": 4.0}}}),
    )
    server.app = fakes.app
    return fakes


class Shell:
    """Runs commands against the server at `url`."""

    def __init__(self, url: str | None = None) -> None:
        self._url = url

    def __call__(self, *words: str, stdin: str | None = None, code: int = OK) -> Result:
        result = CliRunner().invoke(cli, words, input=stdin, env={"ML_SERVE_URL": self._url})
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    def json(self, *words: str, stdin: str | None = None, code: int = OK) -> Any:
        """The one document on stdout."""
        return json.loads(self(*words, "--json", stdin=stdin, code=code).stdout)


@pytest.fixture
def run(server: Server, fakes: Fakes) -> Shell:
    return Shell(server.url)


def rows(result: Result) -> list[list[str]]:
    """The words of each line of stdout."""
    return [line.split() for line in result.stdout.splitlines()]


# Models


def test_models_are_a_table(run: Shell, fakes: Fakes) -> None:
    fakes.manager.desired["sum"] = {"champion": "2"}
    run("load", "sum")
    run("load", "[bold]", code=FAILED)
    shown = run("models").stdout
    assert rows(run("models"))[0] == ["model", "default", "aliases", "pool", "versions", "problems"]
    assert "champion v1 → v2" in shown
    assert "v1 ready ×1, 1.0 MB" in shown
    assert "v2 cold" in shown
    assert "v1 failed" in shown
    assert "v1: its library is missing" in shown
    assert "[bold]" in shown


def test_models_are_json_for_scripts(run: Shell) -> None:
    found = {model["name"]: model for model in run.json("models")}
    assert found.keys() == {"sum", "scaled", "[bold]"}
    assert found["sum"]["default"] == "1"
    assert found["sum"]["versions"]["2"] == {
        "state": "cold", "replicas": 0, "nbytes": 0, "load_ms": 0.0, "error": None, "batching": None,
        "doing": None, "isolation": None,
        "accelerator": None,
    }  # fmt: skip


def test_an_empty_registry_is_said_in_words(run: Shell, server: Server) -> None:
    server.app = make_fakes({}).app
    assert run("models").stdout == "no registered models\n"
    assert run.json("models") == []


def test_a_model_is_loaded_and_unloaded(run: Shell) -> None:
    assert run("load", "sum/versions/2").stdout == "sum v2 is ready\n"
    assert run("unload", "sum/versions/2").stdout == "sum v2 is unloaded\n"
    assert run.json("load", "sum@champion", "--timeout", "5") == {"model": "sum", "version": "1", "state": "ready"}
    assert run.json("unload", "sum") == {"model": "sum", "version": "1", "state": "unloaded"}


# Predictions


def test_a_row_is_an_argument(run: Shell) -> None:
    assert run("predict", "sum", '{"a": 1, "b": 2}').stdout == "sum v1\n3.0\n"
    assert run("predict", "sum/versions/2", '[{"a": 1, "b": 2}, {"a": 3, "b": 4}]').stdout == "sum v2\n103.0\n107.0\n"


def test_a_prediction_is_json_for_scripts(run: Shell) -> None:
    answer = run.json("predict", "sum", '{"a": 1, "b": 2}')
    assert answer.pop("request_id")
    assert answer == {"predictions": [3.0], "model": "sum", "version": "1", "features": None}


@pytest.mark.parametrize("words", [(), ("-",)])
def test_rows_come_from_standard_input(run: Shell, words: tuple[str, ...]) -> None:
    assert run.json("predict", "sum", *words, stdin='{"a": 1, "b": 2}')["predictions"] == [3.0]


def test_rows_come_from_a_file(run: Shell, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('[{"a": 1, "b": 2}]')
    assert run.json("predict", "sum", "--file", str(file))["predictions"] == [3.0]
    assert "not both" in run("predict", "sum", "{}", "--file", str(file), code=USAGE).stderr
    assert "No such file" in run("predict", "sum", "--file", str(tmp_path / "none"), code=USAGE).stderr


def test_entities_are_read_from_the_feature_store(run: Shell) -> None:
    words = ("predict", "sum", "--feature-view", "daily")
    assert run.json(*words, "--entity", "id=oil")["predictions"] == [3.0]
    answer = run.json(*words, "--entity", '{"id": "oil"}', "--entity", "id=7", '{"b": 10}')
    assert answer["predictions"] == [11.0, 13.0]
    assert answer["features"] == {"a": [1.0, 3.0], "b": [10, 10]}


def test_parameters_are_json_values(run: Shell) -> None:
    assert run.json("predict", "scaled", '{"a": 2}', "--param", "by=2.5")["predictions"] == [5.0]
    assert "parameter 'by' is 'x'" in run("predict", "scaled", '{"a": 2}', "--param", "by=x", code=REFUSED).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{",), "is not valid JSON"),
        (("3",), "must be an object"),
        (('{"a": NaN}',), "NaN is not JSON"),
        (("{}", "--param", "x"), "'x' is not of the form key=value"),
        (("{}", "--entity", "id=1"), "--entity needs --feature-service or --feature-view"),
        (("{}", "--feature-view", "v"), "--entity needs --feature-service or --feature-view"),
        (("[1]", "--feature-view", "v", "--entity", "id=1"), "must be an object of columns"),
        (("--feature-view", "v", "--entity", "oil"), "'oil' is not of the form key=value"),
        (("--feature-view", "v", "--entity", "{1}"), "--entity is not valid JSON"),
        (("{}", "--timeout", "0"), "--timeout"),
    ],
)
def test_invalid_rows_are_a_usage_error(run: Shell, words: tuple[str, ...], message: str) -> None:
    result = run("predict", "sum", *words, code=USAGE)
    assert message in result.stderr
    assert result.stdout == ""


# Releases


def test_a_blocked_alias_is_shown_with_its_reason(run: Shell, fakes: Fakes) -> None:
    fakes.manager.desired["sum"] = {"champion": "2", "next": "3"}
    fakes.manager.blocked["sum"] = {"champion": "version 2 takes other inputs", "next": "it cannot be loaded"}
    shown = run("models").stdout
    assert "champion v1 → v2" in shown
    assert "champion stays at v1: version 2 takes other inputs" in shown
    assert "next serves nothing: it cannot be loaded" in shown
    assert "1 with a blocked alias" in run("status").stdout


def test_a_version_is_promoted_and_rolled_back(run: Shell) -> None:
    assert run("promote", "sum", "2").stdout == "sum@champion serves v2, previously v1\n"
    assert run("promote", "sum", "2").stdout == "sum@champion already serves v2, previously v1\n"
    assert run("predict", "sum", '{"a": 1, "b": 2}').stdout == "sum v2\n103.0\n"
    assert run("rollback", "sum").stdout == "sum@champion serves v1, previously v2\n"
    assert run.json("rollback", "sum", "--timeout", "5") == {
        "model": "sum", "version": "1", "state": "ready", "alias": "champion", "previous": "2", "changed": False,
        "default": "1",
    }  # fmt: skip


def test_a_promotion_moves_or_follows_another_alias(run: Shell) -> None:
    assert run("promote", "sum", "2", "--alias", "challenger").stdout == "sum@challenger serves v2\n"
    assert run.json("promote", "sum", "--from", "challenger")["default"] == "2"
    assert "nothing is known" in error_line(run("rollback", "sum", "--alias", "challenger", code=REFUSED))


def test_an_incompatible_version_is_promoted_by_force_only(run: Shell) -> None:
    assert "takes other inputs" in error_line(run("promote", "sum", "3", code=REFUSED))
    assert run.json("promote", "sum", "3", "--force")["version"] == "3"


@pytest.mark.parametrize("words", [("promote", "sum", "2"), ("rollback", "sum"), ("traffic", "sum", "champion=100")])
def test_a_read_only_registry_is_one_line(run: Shell, fakes: Fakes, words: tuple[str, ...]) -> None:
    fakes.manager.read_only = True
    assert "not written to" in error_line(run(*words, code=REFUSED))


def test_traffic_is_shown_split_shadowed_and_cleared(run: Shell) -> None:
    assert run("traffic", "sum").stdout == "sum: no traffic split\n"
    run("promote", "sum", "2", "--alias", "challenger")
    divided = run("traffic", "sum", "champion=90", "challenger=10")
    assert rows(divided) == [["alias", "version", "percent"], ["champion", "v1", "90"], ["challenger", "v2", "10"]]
    assert "shadow: challenger v2" in run("traffic", "sum", "--shadow", "challenger").stdout
    kept = run.json("traffic", "sum", "champion=95", "challenger=5")
    assert (kept["weights"], kept["shadow"]) == ({"champion": 95.0, "challenger": 5.0}, "challenger")
    bare = run.json("traffic", "sum", "--no-shadow")
    assert (bare["weights"], bare["shadow"]) == ({"champion": 95.0, "challenger": 5.0}, None)
    assert run.json("traffic", "sum") == bare
    assert run("traffic", "sum", "--clear").stdout == "sum: no traffic split\n"


def test_traffic_shows_ignored_tags_and_aliases_without_version(run: Shell, fakes: Fakes) -> None:
    fakes.manager.plans["sum"] = TrafficPlan((("champion", 90.0), ("next", 10.0)), "later")
    fakes.manager.problems["sum"] = ["tag serving.traffic is ignored: it is not JSON"]
    shown = run("traffic", "sum")
    assert ["next", "-", "10"] in rows(shown)
    assert "shadow: later without a version yet" in shown.stdout
    assert "it is not JSON" in shown.stdout
    assert "it is not JSON" in run("models").stdout


def test_an_invalid_traffic_split_is_refused(run: Shell) -> None:
    assert "sum up to 110" in error_line(run("traffic", "sum", "champion=90", "challenger=20", code=REFUSED))
    assert "no alias 'nobody'" in error_line(run("traffic", "sum", "--shadow", "nobody", code=REFUSED))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("promote", "sum"), "give either VERSION or --from ALIAS"),
        (("promote", "sum", "2", "--from", "challenger"), "give either VERSION or --from ALIAS"),
        (("traffic", "sum", "champion"), "'champion' is not of the form"),
        (("traffic", "sum", "champion=most"), "such as challenger=10"),
        (("traffic", "sum", "champion=1e999"), "such as challenger=10"),
        (("traffic", "sum", "champion=50", "champion=50"), "give each alias once"),
        (("traffic", "sum", "--shadow", "a", "--no-shadow"), "not both"),
        (("traffic", "sum", "champion=100", "--clear"), "--clear removes split and shadow"),
    ],
)
def test_invalid_release_options_are_a_usage_error(run: Shell, words: tuple[str, ...], message: str) -> None:
    result = run(*words, code=USAGE)
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


# Status


def compared(fakes: Fakes) -> None:
    """Two versions that differ in their errors, one of which got copies."""
    variant = VariantCounts(0, 60, 1, Moments(100, 0.02, 0.01), Moments(100, 5.0, 100.0))
    copies = ShadowCounts(
        0,
        60,
        {"compared": 40, "model_failed": 2},
        {"rows": 1},
        80,
        4,
        Moments(40, 0.5, 1.0),
        3.0,
        Moments(40, 0.1, 0.1),
        Moments(40, 0.01, 0.001),
    )
    fakes.manager.counted_of = {
        ModelVersion("sum", "1"): Statistics(variant=variant),
        ModelVersion("sum", "2"): Statistics(variant=replace(variant, faults=30), shadows={"1": copies}),
    }


def test_two_versions_are_compared_side_by_side(run: Shell, fakes: Fakes) -> None:
    compared(fakes)
    shown = run("compare", "sum", "champion", "2").stdout.splitlines()
    assert shown[0] == "sum: calls of the bare name, assigned to the versions at random"
    assert shown[1] == "counted from 1970-01-01T00:00:00+00:00 to 1970-01-01T00:01:00+00:00; intervals at 95 %"
    text = "\n".join(" ".join(line.split()) for line in shown)
    assert "champion v1 v2 difference" in text
    assert "requests 101 130" in text
    assert "requests 40 with 80 rows" in text
    assert "error rate 0.99 % (0.17 % … 5.40 %) 23.08 % (16.67 % … 31.03 %) +22.09 %" in text
    assert "more errors" in text
    assert "latency 20.00 ms (18.03 ms … 21.97 ms) 20.00 ms (18.03 ms … 21.97 ms) 0.00 ms (-2.79 ms … +2.79 ms)" in text
    assert "no difference can be told yet" in text
    assert "shadow requests of champion v1, sent to v2" in text
    assert "mismatches 5.00 % (1.96 % … 12.16 %) of the rows" in text
    assert "difference 0.5 (0.4504 … 0.5496) at most 3, 10.00 % on average" in text
    assert "2 model_failed" in text
    assert "dropped 1 1 by the limit on rows" in text


def test_a_comparison_is_json_for_scripts(run: Shell, fakes: Fakes) -> None:
    compared(fakes)
    found = run.json("compare", "sum", "champion", "2")
    assert (found["model"], found["error_rate"]["verdict"]) == ("sum", "more errors")


def test_a_comparison_without_counts_shows_no_differences(run: Shell) -> None:
    shown = run("compare", "sum", "1", "2").stdout
    assert "since the gateway started" in shown
    assert "shadow" not in shown
    assert rows(run("compare", "sum", "1", "2"))[-1][0] == "prediction"
    run("compare", "sum", "champion", "1", code=REFUSED)


def test_status_shows_parts_replicas_and_models(run: Shell, fakes: Fakes) -> None:
    counts = {"hits": 4, "downloads": 2, "downloaded_bytes": 3_400_000, "download_seconds": 0.5, "evictions": 1}
    fakes.manager.replicas.append({**POOL, "evictions": 1, "artifact_cache": {**counts, "damaged": 1}})
    fakes.manager.parts["registry"] = {"status": "unavailable", "reason": "it does not answer"}
    fakes.manager.parts["models"] = {"status": "degraded", "failed": ["x/versions/1: broken"]}
    run("load", "sum")
    run("load", "[bold]", code=FAILED)
    result = run("status")
    assert "is degraded" in result.stdout
    assert ["registry", "unavailable", "it", "does", "not", "answer"] in rows(result)
    assert ["models", "degraded", "failed:", "x/versions/1:", "broken"] in rows(result)
    assert ["Gateway", "g1", "150"] in rows(result)
    downloads = ["2", "(3.4", "MB),", "4", "cached,", "1", "damaged"]
    assert ["Pool", "p1", "512", "2", "3.4", "1", *downloads] in rows(result)
    assert "models: 3 registered, 1 ready, 1 with a failed version" in result.stdout


def test_status_is_one_json_document(run: Shell) -> None:
    answer = run.json("status")
    assert answer["health"]["status"] == "ok"
    assert answer["replicas"][0]["rss_bytes"] == 150_000_000
    assert len(answer["models"]) == 3


def test_status_fails_when_the_platform_is_unavailable(run: Shell, fakes: Fakes) -> None:
    fakes.manager.ready = False
    fakes.manager.parts["pools"] = {"status": "unavailable", "reason": {"default": "no replica"}}
    result = run("status", code=FAILED)
    assert "is unavailable, not ready" in result.stdout
    assert "default: no replica" in result.stdout
    assert run.json("status", code=FAILED)["health"]["status"] == "unavailable"


def test_one_part_that_fails_does_not_hide_the_others(run: Shell, fakes: Fakes) -> None:
    async def fail() -> Any:
        raise ModelUnavailable("no answer")

    fakes.manager.status = fakes.manager.usage = fail  # type: ignore[method-assign]
    shown = run("status").stdout
    assert "replicas: no answer (503" in shown
    assert "models: no answer (503" in shown
    answer = run.json("status")
    assert answer["replicas"] is answer["models"] is None


# Errors and options


def error_line(result: Result) -> str:
    """The one line on stderr."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_refused_request_is_one_line_and_its_own_code(run: Shell) -> None:
    assert "no registered model 'nope'" in error_line(run("predict", "nope", "{}", code=REFUSED))
    assert "column 'b'" in error_line(run("predict", "sum", '{"a": 1, "b": "x"}', code=REFUSED))


def test_a_failure_of_the_platform_is_one_line(run: Shell, server: Server) -> None:
    assert "its library is missing" in error_line(run("load", "[bold]", "--json", code=FAILED))

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"no server\x1b[31m\r\nis up"})

    server.app = plain
    assert "a server before the gateway answered: no server [31m is up" in error_line(run("models", code=FAILED))
    assert "a server before the gateway" in error_line(run("status", code=FAILED))


def test_an_unreachable_url_is_one_line_with_a_hint() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://me:secret@127.0.0.1:{unused.getsockname()[1]}"
        for command in (("models",), ("status", "--json"), ("predict", "m", "{}"), ("load", "m"), ("unload", "m")):
            line = error_line(Shell(url)(*command, code=NO_RESPONSE))
            assert f"127.0.0.1:{unused.getsockname()[1]}" in line
            assert "start it with: ml-serve up" in line
            assert "secret" not in line


def test_an_answer_that_breaks_off_is_one_line(run: Shell, server: Server) -> None:
    async def cut(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})

    server.app = cut
    line = error_line(run("models", code=NO_RESPONSE))
    assert "broke" in line
    assert "is it running" not in line


def test_the_url_is_an_option_before_and_after_the_command(server: Server, fakes: Fakes) -> None:
    elsewhere = Shell("http://127.0.0.1:1")
    elsewhere("models", code=NO_RESPONSE)
    elsewhere("--url", server.url, "models")
    elsewhere("models", "--url", server.url)
    elsewhere("--url", "http://127.0.0.1:2", "models", "--url", server.url)
    assert "is not a URL" in elsewhere("models", "--url", "localhost", code=USAGE).stderr


def test_an_unforeseen_error_has_no_traceback_unless_asked_for(run: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("app.settings.load", fail)
    assert "ZeroDivisionError: two lines; 'ml-serve --debug" in error_line(run("doctor", code=FAILED))
    assert isinstance(CliRunner().invoke(cli, ["--debug", "doctor"]).exception, ZeroDivisionError)


def test_help_and_version(run: Shell) -> None:
    assert run("--version").stdout == f"ml-serve {__version__}\n"
    shown = run("--help").stdout
    for line in EPILOG.splitlines()[1:]:
        assert line.strip() in shown
    for command in ("up", "demo", "doctor", "models", "load", "unload", "predict", "status"):
        assert f"  {command} " in shown
        run(command, "--help")


def test_importing_the_command_line_is_light() -> None:
    script = "import sys, app.cli; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    names = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    for name in ("ray", "mlflow", "feast", "pandas", "numpy", "fastapi", "httpx", "rich", "pydantic"):
        assert f"'{name}'" not in names


# Commands that run on this machine


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs commands on this machine, with a home of their own."""
    monkeypatch.setenv("ML_SERVE_HOME", str(tmp_path / "home"))
    return Shell()


def test_settings_that_are_wrong_are_an_error_line_each(here: Shell, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("http_prt: 1\nhaproxy: 2\n")
    for command in ("up", "demo", "doctor"):
        result = here(command, "--config", str(config), code=FAILED)
        lines = result.stderr.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("error: unknown setting 'http_prt'")
        assert lines[1].startswith("error: unknown setting 'haproxy'")


def test_up_runs_with_the_settings_of_its_options(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake_run(settings: Any, *, demo: bool, console: Any) -> int:
        calls.append((settings.http_port, settings.dashboard, demo))
        return 7

    monkeypatch.setattr("app.up.run", fake_run)
    here("up", "--port", "8123", code=7)
    here("up", "--no-demo", "--dashboard", code=7)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    here("up", code=7)
    here("up", "--demo", code=7)
    assert calls == [(8123, False, True), (8000, True, False), (8000, False, False), (8000, False, True)]


def test_doctor_is_a_table_and_fails_with_a_check(here: Shell, server: Server) -> None:
    # The server's own port stands for one that is taken; the others may be anything that is free.
    names = ("ML_SERVE_HAPROXY_STATS_PORT", "ML_SERVE_HAPROXY_METRICS_PORT", "ML_SERVE_GRPC_PORT")
    env = dict(zip(names, map(str, free_ports(len(names))), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        patch.setenv("ML_SERVE_HTTP_PORT", str(server.port))
        result = here("doctor", code=FAILED)
        assert f"✗  port {server.port}" in result.stdout
        assert "✓  home" in result.stdout
        checks = here.json("doctor", code=FAILED)
        assert [check["name"] for check in checks if not check["ok"]] == [f"port {server.port}"]
        patch.setenv("ML_SERVE_HTTP_PORT", str(free_ports(1)[0]))
        here("doctor")


def test_demo_tells_what_it_does_and_what_there_is(
    here: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = tmp_path / "home" / "feast" / "feature_store.yaml"

    def seed(settings: Any, progress: Callable[[str], None]) -> bool:
        progress("preparing")
        return not features.exists()

    monkeypatch.setattr("app.demo.seed", seed)
    assert here("demo").stdout.splitlines() == ["preparing", "commodity_price_predictor is registered"]
    features.parent.mkdir(parents=True)
    features.touch()
    assert here("demo").stdout.splitlines() == [
        "preparing",
        "commodity_price_predictor is already registered",
        "feature service commodity_price_service has 8 entities",
    ]


# API keys


def test_keys_are_made_listed_and_revoked(run: Shell, tmp_path: Path) -> None:
    file = ("--file", str(tmp_path / "keys.json"))
    made = run.json("keys", "create", "desk", "--scope", "predict", "--model", "price_*", "--days", "7", *file)
    assert made["key"].startswith(f"mls_{made['id']}_")
    other = run("keys", "create", "ops", "--scope", "manage", "--scope", "observe", *file).stdout
    assert other.startswith("mls_")
    (desk, ops) = run.json("keys", "list", *file)
    assert desk == {name: value for name, value in made.items() if name != "key"}
    assert (ops["scopes"], ops["models"], ops["expires"]) == (["manage", "observe"], ["*"], None)
    shown = run("keys", "list", *file).stdout
    assert "price_*" in shown
    assert made["key"] not in shown
    assert run("keys", "revoke", desk["id"], *file).stdout == f"revoked {desk['id']} of desk\n"
    assert [key["name"] for key in run.json("keys", "list", *file)] == ["ops"]
    assert "no key has the id" in run("keys", "revoke", desk["id"], *file, code=FAILED).stderr
    assert "'scopes'" in run("keys", "create", "x", "--scope", "admin", *file, code=FAILED).stderr
    assert "cannot read the key file" in run("keys", "list", "--file", str(tmp_path / "none"), code=FAILED).stderr


def test_commands_send_the_key_of_the_environment(
    server: Server, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, key = create_key(tmp_path / "keys.json", "desk", ["predict"])
    fakes.access = Access(KeyFile(tmp_path / "keys.json"))
    server.app = fakes.app = create_app(fakes.service, fakes.manager, fakes.http_limits, access=fakes.access)
    run = Shell(server.url)
    row = '{"a": 1, "b": 2}'
    assert "credentials are missing" in run("predict", "sum", row, code=REFUSED).stderr
    monkeypatch.setenv("ML_SERVE_API_KEY", key)
    assert run("predict", "sum", row).stdout == "sum v1\n3.0\n"
    refused = run("load", "sum", code=REFUSED).stderr
    assert f"this needs the scope 'manage', which 'desk/{entry.id}' does not have" in refused
    monkeypatch.setenv("ML_SERVE_API_KEY", f"{key} x")
    assert key not in run("predict", "sum", row, code=USAGE).stderr
