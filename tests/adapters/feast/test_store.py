from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from feast.feature_view import FeatureViewState

from app.adapters.feast import store as feast_store
from app.adapters.feast.store import FeastStore
from app.errors import FeatureSourceNotFound, FeatureStoreUnavailable, InvalidInput, StartupError
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource
from tests.adapters.feast.conftest import DEFINITIONS, FEATURE_STORE, apply_definitions, materialise
from tests.ports import free_port

pytestmark = [
    pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning"),
]


def view(name: str) -> FeatureQuery:
    return FeatureQuery(view=name, service=None)


def service(name: str) -> FeatureQuery:
    return FeatureQuery(view=None, service=name)


def keep_definitions_in_database(folder: Path, mode: str) -> None:
    """Move the definitions to a database, which unlike a file does not show that it was written to."""
    settings = {"registry_type": "sql", "path": f"sqlite:///{folder}/definitions.db", "cache_mode": mode}
    text = FEATURE_STORE.format(ttl=1).replace("  path: registry.db\n", "")
    lines = "".join(f"  {key}: {value}\n" for key, value in settings.items())
    (folder / "feature_store.yaml").write_text(text.replace("registry:\n", f"registry:\n{lines}"))
    apply_definitions(folder, DEFINITIONS)


@pytest.fixture(scope="module")
def store(built_repository: Path) -> FeastStore:
    return FeastStore(built_repository)


def test_a_view_gives_its_join_keys_and_its_features_in_order(store: FeastStore) -> None:
    assert store.source(view("prices")) == FeatureSource(("commodity_id",), ("spot", "volume", "grade"))


def test_a_view_with_two_entities_has_two_join_keys(store: FeastStore) -> None:
    assert store.source(view("quotes")).join_keys == ("commodity_id", "venue_id")


def test_read_tells_nulls_from_unknown_entities(store: FeastStore) -> None:
    rows = store.read(view("prices"), [{"commodity_id": name} for name in ("nothing", "brent", "wti")])
    assert list(rows.columns) == ["spot", "volume", "grade"]
    assert rows == FeatureRows(
        {"spot": [None, None, 75.5], "volume": [None, 7, 2**53 + 1], "grade": [None, None, "light"]},
        [False, True, True],
    )


def test_entities_may_repeat_and_keep_their_order(store: FeastStore) -> None:
    rows = store.read(view("prices"), [{"commodity_id": name} for name in ("wti", "brent", "wti", "wti")])
    assert rows.columns["volume"] == [2**53 + 1, 7, 2**53 + 1, 2**53 + 1]


def test_both_keys_of_a_view_with_two_entities_select_the_row(store: FeastStore) -> None:
    entities: list[dict[str, Any]] = [
        {"commodity_id": "wti", "venue_id": 2},
        {"venue_id": 1, "commodity_id": "wti"},
        {"commodity_id": "brent", "venue_id": 1},
    ]
    rows = store.read(view("quotes"), entities)
    assert rows.columns["spread"] == [0.2, 0.1, None]
    assert list(rows.found) == [True, True, False]


def test_a_64_bit_entity_id_keeps_all_its_digits(store: FeastStore) -> None:
    rows = store.read(view("venues"), [{"venue_id": 2**40}, {"venue_id": 2**40 + 1}])
    assert rows == FeatureRows({"fee": [0.25, None]}, [True, False])


def test_a_view_without_entity_is_read_with_empty_entities(store: FeastStore) -> None:
    assert store.source(view("market")) == FeatureSource((), ("exchange_rate",))
    assert store.read(view("market"), [{}, {}]) == FeatureRows({"exchange_rate": [1.18, 1.18]}, [True, True])


def test_a_service_gives_only_the_features_that_it_projects(store: FeastStore) -> None:
    assert store.source(service("projected")) == FeatureSource(("commodity_id",), ("volume",))
    assert store.read(service("projected"), [{"commodity_id": "brent"}]) == FeatureRows({"volume": [7]}, [True])


def test_a_service_may_rename_a_view_and_its_join_key(store: FeastStore) -> None:
    assert store.source(service("renamed")) == FeatureSource(("id",), ("spot", "volume", "grade"))
    rows = store.read(service("renamed"), [{"id": "wti"}, {"id": "nothing"}])
    assert rows.columns["spot"] == [75.5, None]
    assert list(rows.found) == [True, False]


def test_features_with_equal_names_are_prefixed_with_their_view(store: FeastStore) -> None:
    assert store.source(service("colliding")).features == ("prices__spot", "quotes__spot", "spread")
    rows = store.read(service("colliding"), [{"commodity_id": "wti", "venue_id": 2}])
    assert rows.columns == {"prices__spot": [75.5], "quotes__spot": [75.7], "spread": [0.2]}


def test_an_on_demand_view_takes_a_value_of_the_request(store: FeastStore) -> None:
    assert store.source(view("notional")) == FeatureSource(("commodity_id", "lots"), ("notional",))
    entities: list[dict[str, Any]] = [{"commodity_id": "wti", "lots": 2}, {"commodity_id": "wti", "lots": None}]
    assert store.read(view("notional"), entities).columns == {"notional": [151.0, 0.0]}


def test_an_on_demand_value_does_not_make_an_entity_known(store: FeastStore) -> None:
    rows = store.read(view("notional"), [{"commodity_id": name, "lots": 1.0} for name in ("nothing", "wti")])
    assert list(rows.found) == [False, True]


def test_a_service_of_several_views_reads_them_all(store: FeastStore) -> None:
    entity = {"commodity_id": "wti", "venue_id": 2**40, "lots": 1.0}
    rows = store.read(service("everything"), [entity, {**entity, "commodity_id": "nothing", "venue_id": 3}])
    assert rows.columns == {
        "spot": [75.5, None],
        "volume": [2**53 + 1, None],
        "grade": ["light", None],
        "fee": [0.25, None],
        "exchange_rate": [1.18, 1.18],
        "notional": [75.5, 0.0],
    }
    assert list(rows.found) == [True, False]


def test_no_entities_give_empty_columns(store: FeastStore) -> None:
    assert store.read(view("venues"), []) == FeatureRows({"fee": []}, [])


@pytest.mark.parametrize(
    ("query", "entity", "column", "expected"),
    [
        (view("prices"), {"commodity_id": 7}, "commodity_id", "string"),
        (view("prices"), {"commodity_id": None}, "commodity_id", "string"),
        (view("prices"), {"commodity_id": "\ud800"}, "commodity_id", "string"),
        (view("venues"), {"venue_id": "7"}, "venue_id", "int64"),
        (view("venues"), {"venue_id": 7.5}, "venue_id", "int64"),
        (view("venues"), {"venue_id": True}, "venue_id", "int64"),
        (view("venues"), {"venue_id": 2**63}, "venue_id", "int64"),
        (view("notional"), {"commodity_id": "wti", "lots": "many"}, "lots", "double"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_key_and_row(
    store: FeastStore, query: FeatureQuery, entity: dict[str, Any], column: str, expected: str
) -> None:
    good = {"commodity_id": "wti", "venue_id": 2, "lots": 1.0}
    with pytest.raises(InvalidInput, match=f"entity 1: the key '{column}' expects {expected}, got") as caught:
        store.read(query, [{key: good[key] for key in entity}, entity])
    assert caught.value.details == {"column": column, "row": 1, "expected": expected}


def test_a_missing_key_is_named_with_what_is_expected(store: FeastStore) -> None:
    with pytest.raises(InvalidInput, match=r"entity 0 lacks the key 'venue_id'.*'venue_id' \(int64\)") as caught:
        store.read(view("quotes"), [{"commodity_id": "wti"}])
    assert caught.value.details["column"] == "venue_id"


def test_an_unknown_key_is_named(store: FeastStore) -> None:
    with pytest.raises(InvalidInput, match="entity 0 has an unknown key 'commodity'"):
        store.read(view("prices"), [{"commodity_id": "wti", "commodity": "wti"}])


def test_an_unknown_view_is_refused_with_a_suggestion(store: FeastStore) -> None:
    with pytest.raises(FeatureSourceNotFound, match=r"no feature view 'price'; did you mean 'prices'\?.*market, not"):
        store.source(view("price"))
    with pytest.raises(FeatureSourceNotFound, match=r"no feature service 'rename'; did you mean 'renamed'\?"):
        store.read(service("rename"), [])


def test_a_service_that_is_asked_for_as_a_view_is_recognised(store: FeastStore) -> None:
    with pytest.raises(FeatureSourceNotFound, match="no feature view 'renamed'; there is a feature service of that"):
        store.source(view("renamed"))


def test_names_lists_views_of_every_kind_and_services(store: FeastStore) -> None:
    views, services = store.names()
    assert views == ["market", "notional", "prices", "quotes", "unread", "venues"]
    assert services == ["colliding", "everything", "projected", "renamed"]


def test_a_disabled_view_says_so(repository: Path) -> None:
    FeatureStore(str(repository)).disable_feature_view("prices")
    with pytest.raises(FeatureStoreUnavailable, match="feature service 'projected' cannot be served now: a view in it"):
        FeastStore(repository).read(service("projected"), [{"commodity_id": "wti"}])


def test_a_view_is_served_again_soon_after_materialization(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feast_store, "_RECHECK_S", 0.1)
    text = FEATURE_STORE.format(ttl=600).replace("registry:\n", "registry:\n  cache_mode: thread\n")
    (repository / "feature_store.yaml").write_text(text)  # not reloaded when the file changes, like one on S3
    job = FeatureStore(str(repository))
    job.set_feature_view_state("prices", FeatureViewState.MATERIALIZING)
    store = FeastStore(repository)
    with pytest.raises(FeatureStoreUnavailable, match="is being materialized"):
        store.read(service("projected"), [{"commodity_id": "wti"}])
    job.set_feature_view_state("prices", FeatureViewState.AVAILABLE_ONLINE)

    def can_be_read() -> bool:
        try:
            return store.read(service("projected"), [{"commodity_id": "brent"}]).columns == {"volume": [7]}
        except FeatureStoreUnavailable:
            return False

    _until(can_be_read)


def test_check_passes_where_some_view_can_be_read(repository: Path) -> None:
    FeatureStore(str(repository)).disable_feature_view("market")  # the first that it tries
    FeastStore(repository).check()


def test_many_threads_read_at_once(repository: Path) -> None:
    shared = FeastStore(repository)

    def read(number: int) -> Any:
        name = "wti" if number % 2 else "brent"
        return shared.read(service("everything"), [{"commodity_id": name, "venue_id": 2**40, "lots": 1.0}])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(read, range(200)))
    assert [rows.columns["volume"] for rows in answers] == [[2**53 + 1] if n % 2 else [7] for n in range(200)]


def test_a_broken_online_store_is_unavailable_and_shows_no_path(repository: Path) -> None:
    (repository / "online.db").write_bytes(b"no database" * 100)
    broken = FeastStore(repository)
    with pytest.raises(FeatureStoreUnavailable) as caught:
        broken.read(view("prices"), [{"commodity_id": "wti"}])
    assert caught.value.message == "feature view 'prices' cannot be read from the feature store now"
    assert caught.value.__cause__ is not None
    with pytest.raises(FeatureStoreUnavailable):
        broken.check()


def test_a_registry_that_does_not_answer_is_unavailable(repository: Path) -> None:
    remote = f"project: test\nprovider: local\nregistry:\n  registry_type: remote\n  path: localhost:{free_port()}\n"
    (repository / "feature_store.yaml").write_text(f"{remote}online_store:\n  type: sqlite\n  path: online.db\n")
    down = FeastStore(repository)
    with pytest.raises(FeatureStoreUnavailable, match="definition of feature view 'prices' cannot be read"):
        down.source(view("prices"))
    with pytest.raises(FeatureStoreUnavailable, match="definitions"):
        down.check()


def test_refresh_reloads_the_definitions(repository: Path) -> None:
    store = FeastStore(repository)
    assert store.source(service("projected")).features == ("volume",)
    apply_definitions(repository, DEFINITIONS.replace('prices[["volume"]]', 'prices[["grade", "volume"]]'))
    store.refresh()
    assert store.source(service("projected")).features == ("grade", "volume")
    assert store.read(service("projected"), [{"commodity_id": "wti"}]).columns["grade"] == ["light"]


@pytest.mark.parametrize("mode", ["sync", "thread"])
def test_definitions_are_reloaded_after_their_ttl(repository: Path, mode: str) -> None:
    keep_definitions_in_database(repository, mode)
    store = FeastStore(repository)
    assert store.source(service("projected")).features == ("volume",)
    apply_definitions(repository, DEFINITIONS.replace('prices[["volume"]]', 'prices[["grade", "volume"]]'))
    _until(lambda: store.source(service("projected")).features == ("grade", "volume"))
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):  # Feast's own, which would go on for ever
            thread.cancel()


def test_reads_go_on_while_the_registry_is_gone(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    (repository / "feature_store.yaml").write_text(FEATURE_STORE.format(ttl=1))
    store = FeastStore(repository)
    before = store.read(view("prices"), [{"commodity_id": "wti"}])
    (repository / "registry.db").rename(repository / "registry.away")
    (repository / "registry.db").mkdir()

    def renewal_has_failed() -> bool:
        assert store.read(view("prices"), [{"commodity_id": "wti"}]) == before
        return "keeping the last ones" in caplog.text

    _until(renewal_has_failed)
    _until(lambda: not any(thread.name == "feast-registry" for thread in threading.enumerate()))


def test_a_view_has_no_entities_until_it_is_materialized(repository: Path) -> None:
    store = FeastStore(repository)
    assert store.read(view("unread"), [{"commodity_id": "wti"}]) == FeatureRows({"secret": [None]}, [False])
    materialise(repository, ["unread"])
    assert store.read(view("unread"), [{"commodity_id": "wti"}]) == FeatureRows({"secret": [1.0]}, [True])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the Feast configuration .*: No such file"),
        ("project: [", "is not valid YAML"),
        ("- a list", "is not a Feast configuration"),
        ("provider: local", "is not a Feast configuration"),
        ("project: test\nprovider: local\nregistry:\n  registry_type: clay\n", "is not a Feast configuration"),
        ("project: test\nprovider: local\nregistry: r.db\nonline_store:\n  type: no.such.Store\n", "."),
    ],
)
def test_a_broken_repository_stops_the_start_with_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "feature_store.yaml").write_text(text)
    with pytest.raises(StartupError, match=message) as caught:
        FeastStore(tmp_path).check()
    assert "\n" not in caught.value.message


@pytest.mark.slow
def test_the_reader_does_not_load_mlflow() -> None:
    code = "import sys, app.adapters.feast.store; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_metrics_stay_in_memory_here_and_in_child_processes() -> None:
    code = (
        "import os, app.adapters.feast; from feast import metrics; from prometheus_client import values\n"
        "inherited = [name for name in os.environ if name.startswith('PROMETHEUS')]\n"
        "raise SystemExit(str(inherited) if inherited else values.ValueClass is not values.MutexValue)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_feast_is_imported_without_its_type_checks() -> None:
    code = (
        "import typeguard; before = typeguard.typechecked\n"
        "import app.adapters.feast; from feast import FeatureView\n"
        "assert typeguard.typechecked is before\n"
        "assert 'typeguard' not in FeatureView.__init__.__code__.co_names"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
