"""A member of a pool with real models, without Ray: what it predicts in one call."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
from mlflow.types import ColSpec, DataType, TensorSpec

from app.adapters.mlflow.registry import configure
from app.errors import ModelFailed
from app.serving.batching.limits import BatchOverrides
from app.serving.placement.load import CallNote
from app.serving.references import ModelVersion
from app.serving.releases.table import Release, ReleaseTable
from app.serving.rows import Batch, Layout, Output
from app.settings import Settings
from tests.conftest import environment_of_nobody
from tests.contract import test_model_parity as parity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray warns about its own settings while it is imported
    from app.deployments.pool_member import PoolMember

pytestmark = pytest.mark.filterwarnings("ignore")

COLUMNS = Layout("columns", ("x",), ("float64",), ((),))
TENSOR = Layout("tensor", (), ("float64",), ((1,),))
THREADS = 2
NOTE = CallNote()


def count(data: Any, params: Any) -> Any:
    """Answers each row with the number of rows beside it, itself included; fails on 13."""
    values = np.asarray(data)
    time.sleep(0.1)  # so that what is sent meanwhile has to wait
    if (values == 13).any():
        raise ValueError("thirteen")
    return np.full(len(values), float(len(values)))


ONE_DOUBLE = [ColSpec(DataType.double, "x")]
MODELS = {
    "typed": parity.log_python(count, ONE_DOUBLE),
    "untyped": parity.log_python(count, None),
    "fixed": parity.log_python(count, [TensorSpec(np.dtype("float64"), (1, 1))]),
    "whole": parity.log_python(count, ONE_DOUBLE),
}


class Releases:
    """The handle of `Releases`: one table, for good."""

    class _Method:
        def __init__(self, table: ReleaseTable) -> None:
            self._table = table
            self._told = False

        async def remote(self, *args: Any) -> Any:
            if len(args) == 3 and isinstance(args[0], int):  # `watch`
                if self._told:
                    await asyncio.Event().wait()
                self._told = True
                return self._table
            return None

    def __init__(self, table: ReleaseTable) -> None:
        self.watch = self._Method(table)
        self.report = self.worked = self.left = self._Method(table)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    import mlflow

    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["x"]))
    settings = Settings(home=tmp_path_factory.mktemp("home"), pools={"default": {"predict_threads": THREADS}})
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with environment_of_nobody(), warnings.catch_warnings(record=True):
        configure(settings)
        experiment = mlflow.create_experiment("member", artifact_location=settings.artifact_root.as_uri())
        for name, log in MODELS.items():
            with mlflow.start_run(experiment_id=experiment):
                info = log()
            mlflow.register_model(info.model_uri, name)
    yield settings
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def batch(layout: Layout, value: float) -> Batch:
    return Batch(layout, (np.full((1, *layout.shapes[0]), value),), 1)


async def answers(
    settings: Settings, name: str, *values: float, layout: Layout = COLUMNS, note: CallNote | None = NOTE
) -> list[Output | BaseException]:
    """What a member answers to one batch for each value, all sent at once."""
    whole = Release("whole", "1", {}, "default", batch=BatchOverrides(max_rows=1))
    member = PoolMember("default", settings, Releases(ReleaseTable(1, 1, {"whole": whole})), "member")
    await member.start()
    try:
        version = ModelVersion(name, "1")
        await member.describe(version)
        calls = [member.predict(version, batch(layout, value), note) for value in values]
        return await asyncio.gather(*calls, return_exceptions=True)
    finally:
        await member.stop()


def rows_beside(found: list[Output | BaseException]) -> list[float]:
    return [float(output.arrays[0].ravel()[0]) for output in found if isinstance(output, Output)]


async def test_batches_that_wait_for_a_thread_are_predicted_in_one_call(settings: Settings) -> None:
    assert rows_beside(await answers(settings, "typed", *range(6))) == [1, 1, 4, 4, 4, 4]


async def test_a_batch_at_fault_fails_alone(settings: Settings) -> None:
    found = await answers(settings, "typed", 1, 2, 3, 13, 5)
    assert [type(one) for one in found] == [Output, Output, Output, ModelFailed, Output]


@pytest.mark.parametrize(("name", "layout"), [("untyped", COLUMNS), ("fixed", TENSOR), ("whole", COLUMNS)])
async def test_models_that_may_look_at_their_rows_together_get_each_batch_as_it_is(
    settings: Settings, name: str, layout: Layout
) -> None:
    assert rows_beside(await answers(settings, name, *range(6), layout=layout)) == [1] * 6


async def test_batches_of_the_own_process_are_predicted_as_they_are(settings: Settings) -> None:
    assert rows_beside(await answers(settings, "typed", *range(6), note=None)) == [1] * 6
