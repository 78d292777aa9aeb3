"""`Releases` on a real registry, without Ray: its methods are coroutines of one event loop."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from app.deployments.releases import Releases as Deployment

from app.adapters.mlflow.registry import configure
from app.deployments.rpc import raised
from app.errors import Conflict, ModelNotFound, ModelUnavailable, RegistryReadOnly, RegistryUnavailable
from app.serving.placement.states import VersionState
from app.serving.references import ModelRef, ModelVersion
from app.serving.releases.observed import Contract
from app.serving.releases.table import ReleaseTable, Switch
from app.serving.releases.tags import LIVE_TAG
from app.serving.releases.traffic import make_plan
from app.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore")

Replica: Any = Deployment


class Releases(Replica):  # type: ignore[misc]
    """Raises what a replica returns to its callers, as their side does."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("resolve", "load", "unload", "promote", "rollback", "set_traffic", "model"):
            return found

        async def call(*args: Any) -> Any:
            return raised(await found(*args))

        return call


READY = VersionState("ready", None, 100, 5.0)
V1, V2, V3 = (ModelVersion("prices", number) for number in "123")


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Registry of a model with two versions, to be copied: MLflow creates an empty one in more than a second."""
    home = tmp_path_factory.mktemp("registered")
    settings = Settings(home=home)
    configure(settings)
    client = registry(settings)
    client.create_registered_model("prices")
    for _ in range(2):
        client.create_model_version("prices", f"{home}/artifacts")
    client.set_registered_model_alias("prices", "champion", "1")
    return home / "mlflow.db"


@pytest.fixture
def settings(registered: Path, tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path, registry_poll_s=0.2, load_timeout_s=30)
    shutil.copy(registered, tmp_path)
    configure(settings)
    return settings


def registry(settings: Settings) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri, settings.registry_uri)


async def newer(releases: Any, table: ReleaseTable) -> ReleaseTable:
    found: ReleaseTable = await asyncio.wait_for(releases.watch(table.term, table.epoch, "r1"), 20)
    return found


INPUTS = Contract([{"name": "oil", "type": "double", "required": True}])


async def ready(releases: Any, *versions: ModelVersion, inputs: Any = INPUTS) -> None:
    """A pool member has loaded these; `inputs` are those of the last one."""
    described = {**dict.fromkeys(versions, INPUTS), versions[-1]: inputs}
    table: ReleaseTable = releases._loop.state.table
    states = dict.fromkeys(versions, READY)
    await releases.report("r1", "default", states, described, term=table.term, orders=table.orders())


async def until(releases: Any, condition: Callable[[ReleaseTable], bool]) -> ReleaseTable:
    """The first table that meets a condition."""
    table: ReleaseTable = releases._loop.state.table
    while not condition(table):
        table = await newer(releases, table)
    return table


@asynccontextmanager
async def gateway(releases: Any, table: ReleaseTable | None = None) -> AsyncIterator[list[str | None]]:
    """A gateway replica that follows the table; the list holds what the bare name meant, each time it changed.

    Args:
        table: the one that it has.
    """
    answered: list[str | None] = []

    async def follow(table: ReleaseTable) -> None:
        while True:
            table = await releases.watch(table.term, table.epoch, gateway_id="g1")
            release = table.releases.get("prices")
            version = release.default if release is not None else None
            if not answered or answered[-1] != version:
                answered.append(version)

    task = asyncio.create_task(follow(table or ReleaseTable()))
    yield answered
    task.cancel()
    await releases.gateway_left("g1")


async def test_a_watch_returns_as_soon_as_the_table_changes(settings: Settings) -> None:
    releases = Releases(settings)
    table = await newer(releases, ReleaseTable())
    assert table.resident == {"default": (V1,)}
    waiting = asyncio.create_task(newer(releases, table))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await ready(releases, V1)
    assert (await waiting).ready


async def test_an_alias_is_followed_once_the_version_is_warm(settings: Settings) -> None:
    releases = Releases(settings)
    table = await newer(releases, ReleaseTable())
    await ready(releases, V1)
    table = await newer(releases, table)
    registry(settings).set_registered_model_alias("prices", "champion", "2")
    table = await newer(releases, table)
    assert table.releases["prices"].default == "1"
    await ready(releases, V1, V2)
    table = await newer(releases, table)
    assert table.releases["prices"].default == "2"


async def test_a_missing_reference_is_asked_for_once(settings: Settings) -> None:
    releases = Releases(settings.model_copy(update={"registry_poll_s": 60}))
    await newer(releases, ReleaseTable())
    reads = 0
    registry = releases._registry._registry
    read = registry.model

    def counted(name: str) -> Any:
        nonlocal reads
        reads += 1
        return read(name)

    registry.model = counted
    for _ in range(5):
        with pytest.raises(ModelNotFound, match="did you mean 'prices'"):
            await releases.resolve(ModelRef("price"))
    assert reads == 1
    for missing in (ModelRef("prices", "nobody"), ModelRef("prices", None, "9")):
        with pytest.raises(ModelNotFound):
            await releases.resolve(missing)
    assert isinstance(await Replica.resolve(releases, ModelRef("price")), ModelNotFound), "nothing for Serve's log"
    assert await releases.resolve(ModelRef("prices", None, "2")) == V2


async def test_a_load_returns_when_the_version_is_warm_everywhere(settings: Settings) -> None:
    releases = Releases(settings)
    table = await newer(releases, ReleaseTable())
    await ready(releases, V1)
    loads = [asyncio.create_task(releases.load(ModelRef("prices", None, "2"))) for _ in range(2)]
    while V2 not in table.resident["default"]:
        table = await newer(releases, table)
    assert not loads[0].done()
    await ready(releases, V1, V2)
    assert await asyncio.gather(*loads) == [V2, V2]


async def test_a_failed_load_says_why_and_changes_nothing(settings: Settings) -> None:
    releases = Releases(settings)
    table = await newer(releases, ReleaseTable())
    await ready(releases, V1)
    load = asyncio.create_task(releases.load(ModelRef("prices", None, "2")))
    while V2 not in table.resident["default"]:
        table = await newer(releases, table)
    await releases.report("r1", "default", {V1: READY, V2: VersionState("failed", "it is broken")})
    with pytest.raises(ModelUnavailable, match="it is broken"):
        await load
    assert releases._loop.state.table.resident == {"default": (V1,)}
    assert releases._loop.state.table.unloads == {}


async def test_a_load_or_promote_ends_when_the_version_is_unloaded(settings: Settings) -> None:
    releases = Releases(settings)
    await newer(releases, ReleaseTable())
    await ready(releases, V1)
    for begin in (partial(releases.load, ModelRef("prices", None, "2")), partial(releases.promote, V2, None, False)):
        under_way = asyncio.create_task(begin())
        await until(releases, lambda table: V2 in table.resident["default"])
        await releases.unload(ModelRef("prices", None, "2"))
        with pytest.raises(ModelUnavailable, match="unloaded"):
            await asyncio.wait_for(under_way, 20)
    assert str(registry(settings).get_registered_model("prices").aliases["champion"]) == "1"
    await ready(releases, V1, V2)
    assert (await promoted(releases)).changed


async def test_a_version_deleted_from_the_registry_can_be_unloaded(settings: Settings) -> None:
    releases = Releases(settings)
    await newer(releases, ReleaseTable())
    await ready(releases, V1, V2)
    await releases.load(ModelRef("prices", None, "2"))
    registry(settings).delete_model_version("prices", "2")
    await releases.report("r1", "default", {V1: READY, V2: VersionState("failed", "there is no such version")}, {})
    assert releases._loop.state.table.resident == {"default": (V1, V2)}
    assert await releases.unload(ModelRef("prices", None, "2")) == V2
    assert releases._loop.state.table.resident == {"default": (V1,)}
    with pytest.raises(ModelNotFound):
        await releases.unload(ModelRef("prices", None, "3"))


async def test_a_promote_moves_the_alias_when_its_caller_leaves(settings: Settings) -> None:
    releases = Releases(settings)
    await newer(releases, ReleaseTable())
    await ready(releases, V1)
    promotion = asyncio.create_task(releases.promote(V2, None, False))
    await until(releases, lambda table: V2 in table.resident["default"])
    promotion.cancel()
    await ready(releases, V1, V2)
    table = await until(releases, lambda table: table.releases["prices"].default == "2")
    assert str(registry(settings).get_registered_model("prices").aliases["champion"]) == "2"
    assert table.resident == {"default": (V1, V2)}, "version 1 stays for a rollback"


async def promoted(releases: Any, version: ModelVersion = V2, alias: str | None = None, **further: Any) -> Switch:
    """Promote a version that the pool has."""
    await ready(releases, V1, V2, **further)
    switch: Switch = await asyncio.wait_for(releases.promote(version, alias, False), 20)
    return switch


async def test_promote_and_rollback_return_when_gateways_answer_so(settings: Settings) -> None:
    releases = Releases(settings)
    async with gateway(releases) as answered:
        await until(releases, lambda table: "prices" in table.releases)
        assert await promoted(releases) == Switch(V2, "champion", "1", changed=True)
        assert answered[-1] == "2"
        assert await promoted(releases) == Switch(V2, "champion", "1", changed=False)
        assert await releases.rollback("prices", None) == Switch(V1, "champion", "2", changed=True)
        assert answered[-1] == "1"
        assert await releases.rollback("prices", None) == Switch(V1, "champion", "2", changed=False)
        assert str(registry(settings).get_registered_model("prices").aliases["champion"]) == "1"
        assert answered == ["1", "2", "1"]


async def test_a_promote_after_a_restart_waits_for_older_gateways(settings: Settings) -> None:
    releases = Releases(settings)
    async with gateway(releases, ReleaseTable(term=1, epoch=7)) as answered:
        await until(releases, lambda table: "prices" in table.releases)
        await promoted(releases)
        assert answered[-1:] == ["2"]


async def test_another_alias_is_promoted_with_the_same_care(settings: Settings) -> None:
    registry(settings).set_registered_model_alias("prices", "challenger", "1")
    releases = Releases(settings)
    await until(releases, lambda table: "prices" in table.releases)
    assert await promoted(releases, alias="challenger") == Switch(V2, "challenger", "1", changed=True)
    assert releases._loop.state.table.releases["prices"].aliases == {"champion": "1", "challenger": "2"}
    assert releases._loop.state.table.releases["prices"].default == "1"


async def test_an_incompatible_version_is_promoted_by_force_only(settings: Settings) -> None:
    releases = Releases(settings)
    await until(releases, lambda table: "prices" in table.releases)
    other = Contract([*(INPUTS.inputs or ()), {"name": "gas", "type": "double", "required": True}])
    with pytest.raises(Conflict, match="'gas'") as caught:
        await promoted(releases, inputs=other)
    assert caught.value.details["differences"]
    assert str(registry(settings).get_registered_model("prices").aliases["champion"]) == "1"
    await releases.promote(V2, None, True)
    model = registry(settings).get_registered_model("prices")
    assert (str(model.aliases["champion"]), model.tags["serving.force"]) == ("2", "2")
    assert releases._loop.state.table.releases["prices"].default == "2"
    switch = await releases.rollback("prices", None)
    assert switch.changed, "back to the previous version, in spite of its inputs"
    assert releases._loop.state.table.releases["prices"].default == "1"


async def test_what_a_call_has_loaded_is_compared_before_a_promote(settings: Settings) -> None:
    releases = Releases(settings)
    table = await until(releases, lambda table: "prices" in table.releases)
    await releases.report("r1", "default", {V1: READY, V2: READY}, {V1: INPUTS}, term=table.term)
    promotion = asyncio.create_task(releases.promote(V2, None, False))
    await until(releases, lambda table: V2 in table.resident["default"])
    await ready(releases, V1, V2, inputs=Contract([*(INPUTS.inputs or ()), {"name": "gas", "type": "double"}]))
    with pytest.raises(Conflict, match="'gas'"):
        await promotion
    assert str(registry(settings).get_registered_model("prices").aliases["champion"]) == "1"


async def test_a_version_that_cannot_be_loaded_is_not_promoted(settings: Settings) -> None:
    releases = Releases(settings)
    await until(releases, lambda table: "prices" in table.releases)
    await ready(releases, V1)
    promotion = asyncio.create_task(releases.promote(V2, None, False))
    await until(releases, lambda table: V2 in table.resident["default"])
    await releases.report("r1", "default", {V1: READY, V2: VersionState("failed", "it is broken")}, {})
    with pytest.raises(ModelUnavailable, match="it is broken"):
        await promotion
    assert str(registry(settings).get_registered_model("prices").aliases["champion"]) == "1"
    table = await until(releases, lambda table: V2 not in table.resident["default"])
    assert table.releases["prices"].default == "1"


async def test_a_rollback_calls_off_a_blocked_rollout(settings: Settings) -> None:
    registry(settings).create_model_version("prices", f"{settings.home}/artifacts")
    releases = Releases(settings)
    await until(releases, lambda table: "prices" in table.releases)
    await ready(releases, V1, V3)
    await asyncio.wait_for(releases.promote(V3, None, False), 20)
    registry(settings).set_registered_model_alias("prices", "champion", "2")
    await until(releases, lambda table: V2 in table.resident["default"])
    await releases.report("r1", "default", {V1: READY, V3: READY, V2: VersionState("failed", "it is broken")}, {})
    assert releases._loop.state.table.releases["prices"].blocked == {"champion": "it is broken"}
    assert await releases.rollback("prices", None) == Switch(V3, "champion", "2", changed=True)
    assert not releases._loop.state.table.releases["prices"].blocked
    assert await releases.rollback("prices", None) == Switch(V3, "champion", "1", changed=False), "not a step further"
    assert str(registry(settings).get_registered_model("prices").aliases["champion"]) == "3"


async def test_promote_and_rollback_refuse_what_does_not_exist(settings: Settings) -> None:
    releases = Releases(settings)
    await until(releases, lambda table: "prices" in table.releases)
    with pytest.raises(ModelNotFound, match="no version 9"):
        await releases.promote(ModelVersion("prices", "9"), None, False)
    with pytest.raises(ModelNotFound, match="no registered model"):
        await releases.promote(ModelVersion("nothing", "1"), None, False)
    with pytest.raises(Conflict, match="nothing is known"):
        await releases.rollback("prices", None)
    with pytest.raises(ModelNotFound, match="no alias 'nobody'"):
        await releases.rollback("prices", "nobody")
    with pytest.raises(ModelNotFound, match="no alias 'challenger'; it has: champion"):
        await releases.set_traffic("prices", make_plan({"champion": 90, "challenger": 10}))


async def test_a_read_only_registry_is_not_written_to(settings: Settings) -> None:
    releases = Releases(settings.model_copy(update={"registry_read_only": True}))
    await until(releases, lambda table: "prices" in table.releases)
    await ready(releases, V1)
    for order in (
        releases.promote(V2, None, False),
        releases.rollback("prices", None),
        releases.set_traffic("prices", make_plan({"champion": 100})),
    ):
        with pytest.raises(RegistryReadOnly):
            await order
    assert await releases.load(ModelRef("prices", None, "1")) == V1
    assert await releases.unload(ModelRef("prices", None, "1")) == V1
    assert releases._loop.state.table.unloads == {V1: 1}
    await ready(releases, V1)
    await asyncio.sleep(0.5)
    assert LIVE_TAG not in registry(settings).get_registered_model("prices").tags
    registry(settings).set_registered_model_alias("prices", "champion", "2")
    await ready(releases, V1, V2)
    await until(releases, lambda table: table.releases["prices"].default == "2")


async def test_traffic_is_written_and_in_force_at_once(settings: Settings) -> None:
    registry(settings).set_registered_model_alias("prices", "challenger", "2")
    releases = Releases(settings)
    await until(releases, lambda table: "prices" in table.releases)
    await ready(releases, V1, V2)
    status = await releases.set_traffic("prices", make_plan({"champion": 90, "challenger": 10}, "challenger"))
    assert (status.traffic, status.shadow) == ({"champion": 90, "challenger": 10}, "challenger")
    model = registry(settings).get_registered_model("prices")
    assert json.loads(model.tags["serving.traffic"]) == {"champion": 90, "challenger": 10}
    traffic = releases._loop.state.table.releases["prices"].traffic
    assert [(v.alias, v.version, v.weight) for v in traffic.variants] == [
        ("champion", "1", 90),
        ("challenger", "2", 10),
    ]
    assert traffic.shadow.version == "2"
    await releases.set_traffic("prices", make_plan({}))
    assert releases._loop.state.table.releases["prices"].traffic is None
    assert not {"serving.traffic", "serving.shadow"} & registry(settings).get_registered_model("prices").tags.keys()


async def test_the_live_tag_is_written_and_the_snapshot_counts(settings: Settings) -> None:
    def written() -> dict[str, Any]:
        tag = registry(settings).get_registered_model("prices").tags.get(LIVE_TAG, "{}")
        return dict(json.loads(tag).get("champion", {}))

    releases = Releases(settings)
    await until(releases, lambda table: "prices" in table.releases)
    await promoted(releases)
    async with asyncio.timeout(20):
        while written().get("version") != "2":  # noqa: ASYNC110 - the registry notifies nobody
            await asyncio.sleep(0.1)
    assert (written()["previous"], written()["why"]) == ("1", "it was promoted")
    registry(settings).create_model_version("prices", "nowhere")
    registry(settings).set_registered_model_alias("prices", "champion", "3")
    again = Releases(settings)
    assert again._loop.state.table.releases["prices"].default == "2", "the snapshot knows what answered"
    await until(again, lambda table: V3 in table.resident["default"])
    await ready(again, V1, V2)
    assert again._loop.state.aliases["prices"]["champion"].previous == "1"
    assert (await again.rollback("prices", None)).version == V2, "the rollout of version 3 is called off"
    registry(settings).set_registered_model_alias("prices", "champion", "3")
    (settings.cache_folder / "releases.json").unlink()
    empty = Releases(settings)
    await until(empty, lambda table: "prices" in table.releases)
    assert empty._loop.state.table.releases["prices"].default == "3", "without it the alias counts, not the tag"


async def test_a_load_into_an_unconfigured_pool_says_so(settings: Settings) -> None:
    registry(settings).set_registered_model_tag("prices", "serving.pool", "gpu")
    releases = Releases(settings)
    await newer(releases, ReleaseTable())
    with pytest.raises(ModelUnavailable, match=r"serving\.pool"):
        await releases.load(ModelRef("prices"))


async def test_members_report_after_a_restart_before_they_get_a_table(
    settings: Settings,
) -> None:
    releases = Releases(settings)
    table = await until(releases, lambda table: "prices" in table.releases)
    again = Releases(settings)
    survivors = [asyncio.create_task(again.watch(table.term, table.epoch, member)) for member in ("r1", "r2")]
    fresh = await asyncio.wait_for(again.watch(0, 0, "r3"), 20)
    assert not any(survivor.done() for survivor in survivors)
    assert fresh.members == {"default": ()}
    for member in ("r1", "r2"):
        await again.report(member, "default", {V1: READY}, {V1: INPUTS})
    tables = await asyncio.gather(*survivors)
    assert [one.members for one in tables] == [{"default": ("r1", "r2")}] * 2


async def test_a_replica_that_dies_in_its_long_poll_delays_nothing(settings: Settings) -> None:
    """Serve cancels a call whose caller's connection has ended."""
    releases = Releases(settings)
    await until(releases, lambda table: "prices" in table.releases)
    await ready(releases, V1)
    await releases.report("r2", "default", {V1: READY})
    table = releases._loop.state.table
    assert table.members == {"default": ("r1", "r2")}
    dying = [
        asyncio.create_task(releases.watch(table.term, table.epoch, "r2")),
        asyncio.create_task(releases.watch(table.term, table.epoch, gateway_id="g1")),
    ]
    await asyncio.sleep(0)
    assert not releases._loop.gateways_have(table.epoch + 1)
    for task in dying:
        task.cancel()
    await asyncio.wait(dying)
    assert releases._loop.state.table.members == {"default": ("r1",)}
    assert releases._loop.gateways_have(table.epoch + 1)


async def test_a_restart_without_a_registry_uses_the_snapshot(settings: Settings) -> None:
    releases = Releases(settings)
    await newer(releases, ReleaseTable())
    await ready(releases, V1)
    snapshot = settings.cache_folder / "releases.json"
    live = json.loads(snapshot.read_text())["live"]["prices"]
    assert {alias: one["version"] for alias, one in live.items()} == {"champion": "1", "": "1"}
    gone = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"})
    again = Releases(gone)
    table = await newer(again, ReleaseTable())
    assert table.releases["prices"].default == "1"
    await ready(again, V1)
    assert (await newer(again, table)).ready
    health = await again.health()
    assert health["registry"]["status"] == "unavailable"
    assert health["registry"]["stale_since"]
    with pytest.raises(RegistryUnavailable):
        await again.resolve(ModelRef("other"))
    assert await again.resolve(ModelRef("prices", None, "1")) == V1
