"""A pool member with a real model, without Ray."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from mlflow.types import ColSpec, DataType

from app.adapters.mlflow.registry import configure
from app.errors import ModelFailed, ModelUnavailable, StartupError
from app.serving.placement.load import CallNote
from app.serving.references import ModelVersion
from app.serving.releases.table import ReleaseTable
from app.serving.rows import Batch, Layout, Output
from app.settings import Settings, SignatureSettings
from tests.conftest import environment_of_nobody
from tests.contract import test_model_parity as parity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray warns about its own settings while it is imported
    from app.deployments.pool_member import PoolMember
    from tests.signing import make_key

pytestmark = pytest.mark.filterwarnings("ignore")

LAYOUT = Layout("columns", ("x",), ("float64",), ((),))
VERSION = ModelVersion("counts", "1")
THREADS = 2
NOTE = CallNote()


def count(data: Any, params: Any) -> Any:
    """Answers each row with the number of rows beside it, itself included; fails on 13."""
    values = np.asarray(data)
    time.sleep(0.05)  # so that later batches queue for a thread
    if (values == 13).any():
        raise ValueError("thirteen")
    return np.full(len(values), float(len(values)))


class Releases:
    """The handle of `Releases`: the first table, the others once `publish` is called, then none."""

    def __init__(self, *tables: ReleaseTable) -> None:
        self._tables = list(tables)
        self._published = asyncio.Event()
        self._published.set()
        self.reports: asyncio.Queue[tuple[int, dict[ModelVersion, int]]] = asyncio.Queue()
        self.watch, self.report = _Method(self._watch), _Method(self._report)
        self.worked = self.left = _Method(_done)

    def publish(self) -> None:
        self._published.set()

    async def _watch(self, *_: Any) -> ReleaseTable:
        await self._published.wait()
        self._published.clear()
        return self._tables.pop(0)

    async def _report(self, *_: Any, term: int, orders: dict[ModelVersion, int]) -> None:
        self.reports.put_nowait((term, orders))


class _Method:
    def __init__(self, method: Callable[..., Awaitable[Any]]) -> None:
        self.remote = method


async def _done(*_: Any) -> None:
    """Take a message."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    import mlflow

    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))
    settings = Settings(home=tmp_path_factory.mktemp("home"), pools={"default": {"predict_threads": THREADS}})
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with environment_of_nobody(), warnings.catch_warnings(record=True):
        configure(settings)
        experiment = mlflow.create_experiment("member", artifact_location=settings.artifact_root.as_uri())
        with mlflow.start_run(experiment_id=experiment):
            info = parity.log_python(count, [ColSpec(DataType.double, "x")])()
        mlflow.register_model(info.model_uri, VERSION.name)
    yield settings
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


async def answers(settings: Settings, *values: float, note: CallNote | None = NOTE) -> list[Output | BaseException]:
    """What a member answers to one batch for each value, all sent at once."""
    member = PoolMember("default", settings, Releases(ReleaseTable(1, 1)), "member")
    await member.start()
    try:
        await member.describe(VERSION)
        batches = [Batch(LAYOUT, (np.array([value]),), 1) for value in values]
        calls = [member.predict(VERSION, batch, note) for batch in batches]
        return await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await member.stop()


@pytest.mark.parametrize("note", [NOTE, None], ids=["sent", "own process"])
async def test_each_batch_is_a_call_of_its_own(settings: Settings, note: CallNote | None) -> None:
    found = await answers(settings, *range(6), note=note)
    assert [output.arrays[0].tolist() for output in found if isinstance(output, Output)] == [[1.0]] * 6


async def test_a_batch_at_fault_fails_alone(settings: Settings) -> None:
    found = await answers(settings, 1, 2, 3, 13, 5)
    assert [type(one) for one in found] == [Output, Output, Output, ModelFailed, Output]


async def test_it_loads_no_unsigned_version_if_told_so(settings: Settings, tmp_path: Path) -> None:
    nobody = SignatureSettings(require=True, public_keys=(make_key(tmp_path).public,))
    strict = settings.model_copy(update={"signatures": nobody})
    member = PoolMember("default", strict, Releases(ReleaseTable(1, 1)), "member")
    await member.start()
    try:
        with pytest.raises(ModelUnavailable, match="it is not signed"):
            await member.describe(VERSION)
    finally:
        await member.stop()
    lost = settings.model_copy(update={"signatures": SignatureSettings(require=True)})
    with pytest.raises(StartupError, match=r"signatures\.require needs the setting signatures\.public_keys"):
        PoolMember("default", lost, Releases(), "member")


async def test_it_says_which_orders_it_has_carried_out(settings: Settings) -> None:
    """Else what it held before would count as what it holds after an unload."""
    releases = Releases(ReleaseTable(1, 1), ReleaseTable(2, 1, unloads={VERSION: 1}, retries={VERSION: 2}))
    member = PoolMember("default", settings, releases, "member")
    await member.start()
    try:
        await member.describe(VERSION)
        assert member.held() == [VERSION]
        releases.publish()
        async with asyncio.timeout(10):
            while await releases.reports.get() != (2, {VERSION: 3}):
                pass
        assert member.held() == [], "a new term may have begun with an unload"
    finally:
        await member.stop()
