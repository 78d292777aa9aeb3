"""`Releases` on a real registry, without Ray: its methods are coroutines of one event loop."""

from __future__ import annotations

import asyncio
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own use of pydantic
    from app.deployments.releases import Releases as Deployment

from app.adapters.mlflow_registry import configure
from app.errors import ModelNotFound, ModelUnavailable, RegistryUnavailable
from app.serving.model_ref import ModelRef, ModelVersion
from app.serving.release_table import ReleaseTable, VersionState
from app.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore")

Releases: Any = Deployment.func_or_class  # type: ignore[attr-defined]  # what Ray made of the class
READY = VersionState("ready", None, 100, 5.0)
V1, V2 = ModelVersion("prices", "1"), ModelVersion("prices", "2")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path, registry_poll_s=0.2, load_timeout_s=30)
    configure(settings)
    client = registry(settings)
    client.create_registered_model("prices")
    for _ in range(2):
        client.create_model_version("prices", f"{tmp_path}/artifacts")
    client.set_registered_model_alias("prices", "champion", "1")
    return settings


def registry(settings: Settings) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(settings.tracking_uri, settings.registry_uri)


async def newer(releases: Any, table: ReleaseTable) -> ReleaseTable:
    found: ReleaseTable = await asyncio.wait_for(releases.watch(table.term, table.epoch, "r1"), 20)
    return found


async def ready(releases: Any, *versions: ModelVersion) -> None:
    await releases.report("r1", "default", dict.fromkeys(versions, READY))


async def test_a_watcher_is_told_as_soon_as_there_is_something_new(settings: Settings) -> None:
    releases = Releases(settings)
    table = await newer(releases, ReleaseTable())
    assert table.resident == {"default": (V1,)}
    waiting = asyncio.create_task(newer(releases, table))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await ready(releases, V1)
    assert (await waiting).ready


async def test_an_alias_that_moves_is_followed_once_the_version_is_warm(settings: Settings) -> None:
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


async def test_what_does_not_exist_is_returned_and_not_asked_for_again(settings: Settings) -> None:
    releases = Releases(settings.model_copy(update={"registry_poll_s": 60}))
    await newer(releases, ReleaseTable())
    reads = 0
    read = releases._registry.model

    def counted(name: str) -> Any:
        nonlocal reads
        reads += 1
        return read(name)

    releases._registry.model = counted
    answers = [await releases.resolve(ModelRef("price")) for _ in range(5)]
    assert {type(answer) for answer in answers} == {ModelNotFound}
    assert "did you mean 'prices'" in answers[0].message
    assert reads == 1
    assert isinstance(await releases.resolve(ModelRef("prices", "nobody")), ModelNotFound)
    assert isinstance(await releases.resolve(ModelRef("prices", None, "9")), ModelNotFound)
    assert await releases.resolve(ModelRef("prices", None, "2")) == V2


async def test_a_load_returns_when_the_version_is_warm_everywhere(settings: Settings) -> None:
    releases = Releases(settings)
    table = await newer(releases, ReleaseTable())
    await ready(releases, V1)
    loads = [asyncio.create_task(releases.load(ModelRef("prices", None, "2"), False)) for _ in range(2)]
    while V2 not in table.resident["default"]:
        table = await newer(releases, table)
    assert not loads[0].done()
    await ready(releases, V1, V2)
    assert await asyncio.gather(*loads) == [V2, V2]


async def test_a_load_that_fails_tells_why_and_harms_nothing(settings: Settings) -> None:
    releases = Releases(settings)
    table = await newer(releases, ReleaseTable())
    await ready(releases, V1)
    load = asyncio.create_task(releases.load(ModelRef("prices", None, "2"), False))
    while V2 not in table.resident["default"]:
        table = await newer(releases, table)
    await releases.report("r1", "default", {V1: READY, V2: VersionState("failed", "it is broken")})
    with pytest.raises(ModelUnavailable, match="it is broken"):
        await load
    assert releases._book.table.resident == {"default": (V1,)}
    assert releases._book.table.unloads == {}


async def test_a_promotion_moves_the_alias_even_when_its_caller_has_gone(settings: Settings) -> None:
    releases = Releases(settings)
    table = await newer(releases, ReleaseTable())
    await ready(releases, V1)
    load = asyncio.create_task(releases.load(ModelRef("prices", None, "2"), True))
    while V2 not in table.resident["default"]:
        table = await newer(releases, table)
    load.cancel()
    await ready(releases, V1, V2)
    while table.releases["prices"].default != "2":
        table = await newer(releases, table)
    assert str(registry(settings).get_registered_model("prices").aliases["champion"]) == "2"
    assert table.resident == {"default": (V2,)}


async def test_a_model_that_is_unknown_to_the_pools_settings_is_told(settings: Settings) -> None:
    registry(settings).set_registered_model_tag("prices", "serving.pool", "gpu")
    releases = Releases(settings)
    await newer(releases, ReleaseTable())
    with pytest.raises(ModelUnavailable, match=r"serving\.pool"):
        await releases.load(ModelRef("prices"), False)


async def test_a_restart_without_a_registry_goes_on_with_the_snapshot(settings: Settings) -> None:
    releases = Releases(settings)
    await newer(releases, ReleaseTable())
    await ready(releases, V1)
    snapshot = settings.cache_folder / "releases.json"
    assert json.loads(snapshot.read_text())["live"] == {"prices": {"champion": "1", "": "1"}}
    gone = settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:1"})
    again = Releases(gone)
    table = await newer(again, ReleaseTable())
    assert table.releases["prices"].default == "1"
    await ready(again, V1)
    assert (await newer(again, table)).ready
    health = await again.health()
    assert health["registry"]["status"] == "unavailable"
    with pytest.raises(RegistryUnavailable):
        await again.resolve(ModelRef("other"))
    assert await again.resolve(ModelRef("prices", None, "1")) == V1
