"""Methods that tell of models or change what is served, against the real application over fakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import httpx
import jsonschema
import numpy as np
import pytest

from app.serving.comparison.statistics import ShadowCounts, VariantCounts
from app.serving.comparison.statistics import Statistics as Counted
from app.serving.confidence import Moments
from app.serving.references import ModelVersion
from ml_serve_client import (
    AliasChange,
    ApiError,
    AsyncClient,
    Client,
    FeatureSource,
    ModelMetadata,
    Statistics,
    TensorMetadata,
    Traffic,
)
from tests.fakes import FakeFeatureStore, FakeModel, Fakes, columns, make_fakes, tensor, total
from tests.server import Server

VIEW = {"oil": {"a": 1.0, "b": 2.0}}


@pytest.fixture
def fakes() -> Fakes:
    outputs = [{"name": "total", "type": "double", "required": True}]
    summed = FakeModel(lambda batch: tensor(np.sum(batch.arrays, axis=0)), columns("a", "b"), outputs)
    return make_fakes(
        {
            "a sum": summed,
            "a sum/versions/2": total("a", "b", offset=100),
            "a sum/versions/3": total("a", "b", "c"),
            "plain": FakeModel(lambda batch: tensor(batch.arrays[0].sum(axis=1))),
        },
        aliases={"a sum": {"champion": "1", "challenger": "2"}},
        features=FakeFeatureStore({"daily": VIEW, "a view": VIEW}, services={"daily_service": "daily"}),
    )


@pytest.fixture
def client(fakes: Fakes) -> AsyncClient:
    return AsyncClient("http://gateway", transport=httpx.ASGITransport(fakes.app))


async def test_metadata_names_the_tensors(client: AsyncClient) -> None:
    a, b = (TensorMetadata(name, "FP64", (-1,)) for name in "ab")
    expected = ModelMetadata("a sum", ("1", "2", "3"), "fake_mlflow", (a, b), (TensorMetadata("total", "FP64", (-1,)),))
    assert await client.metadata("a sum") == expected
    assert (await client.metadata("a sum@challenger")).versions == ("2",)
    assert (await client.metadata("plain")).inputs == ()
    with pytest.raises(ApiError) as caught:
        await client.metadata("nope")
    assert caught.value.status == 404


async def test_schema_is_one_that_bodies_meet(client: AsyncClient) -> None:
    schema = await client.schema("a sum@champion")
    assert (schema.model, schema.version) == ("a sum", "1")
    jsonschema.validate({"instances": [{"a": 1, "b": 2.5}]}, schema.request)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"instances": [{"a": "x", "b": 2.5}]}, schema.request)
    assert schema.response["type"] == "object"


async def test_statistics_are_what_was_counted(client: AsyncClient, fakes: Fakes) -> None:
    fakes.manager.counted = Counted(
        requests=5, request_seconds=2.5, rows=7, batches=3, batch_seconds=1.5, failures=2
    )  # fmt: skip
    assert await client.statistics("a sum/versions/2") == Statistics(
        model="a sum",
        version="2",
        rows=7,
        batches=3,
        requests=5,
        failures=2,
        batch_seconds=1.5,
        request_seconds=2.5,
    )


async def test_two_versions_are_compared(client: AsyncClient, fakes: Fakes) -> None:
    counted = {
        "1": Counted(variant=VariantCounts(0, 60, 1, Moments(100, 0.02, 0.01))),
        "2": Counted(
            variant=VariantCounts(0, 60, 30, Moments(100, 0.02, 0.01)),
            shadows={"1": ShadowCounts(0, 60, {"compared": 40, "model_failed": 2}, {"rows": 1}, 80, 4)},
        ),
    }
    fakes.manager.counted_of = {ModelVersion("a sum", version): one for version, one in counted.items()}
    found = await client.compare("a sum", "champion", 2)
    assert (found.model, found.level, found.counted) == ("a sum", 0.95, "divided")
    assert (found.base.reference, found.base.version, found.other.reference) == ("champion", "1", "2")
    assert found.error_rate is not None
    assert found.error_rate.verdict == "more errors"
    assert found.prediction is None
    assert found.shadow is not None
    assert (found.shadow.requests, found.shadow.errors, found.shadow.dropped) == (40, {"model_failed": 2}, {"rows": 1})
    assert found.shadow.mismatch_rate is not None
    assert found.shadow.mismatch_rate.value == 0.05
    fakes.manager.counted_of = {}
    assert (await client.compare("a sum", 1, "challenger")).shadow is None
    with pytest.raises(ApiError) as caught:
        await client.compare("a sum", "champion", 1)
    assert caught.value.status == 409


async def test_a_feature_service_and_a_feature_view_tell_their_keys(client: AsyncClient) -> None:
    expected = FeatureSource("daily_service", "feature_service", ("id",), ("a", "b"))
    assert await client.features("daily_service") == expected
    assert (await client.features("a view")).kind == "feature_view"
    with pytest.raises(ApiError) as caught:
        await client.features("nope")
    assert caught.value.code == "feature_source_not_found"


async def test_a_promotion_moves_what_the_bare_name_means_and_a_rollback_moves_it_back(client: AsyncClient) -> None:
    assert (await client.predict("a sum", {"a": 1, "b": 2})).version == "1"
    promoted = AliasChange("a sum", "2", "ready", alias="champion", previous="1", changed=True, default="2")
    assert await client.promote("a sum", 2, timeout=5) == promoted
    assert await client.promote("a sum", "2") == dataclasses.replace(promoted, changed=False)
    assert (await client.predict("a sum", {"a": 1, "b": 2})).version == "2"
    model = await client.model("a sum")
    assert (model.default, model.live["champion"].previous) == ("2", "1")
    back = await client.rollback("a sum", timeout=5)
    assert back == dataclasses.replace(promoted, version="1", previous="2", default="1")
    assert not (await client.rollback("a sum")).changed


async def test_another_alias_is_moved_and_may_be_where_the_version_comes_from(client: AsyncClient) -> None:
    moved = await client.promote("a sum", 1, alias="challenger")
    assert (moved.alias, moved.version, moved.default) == ("challenger", "1", "1")
    assert (await client.rollback("a sum", alias="challenger")).version == "2"
    assert (await client.promote("a sum", from_alias="challenger")).default == "2"


@pytest.mark.parametrize(
    ("name", "version", "status"), [("a sum", "9", 404), ("a sum@champion", "1", 400), ("a sum", "3", 409)]
)
async def test_a_promotion_that_cannot_be_changes_nothing(
    client: AsyncClient, name: str, version: str, status: int
) -> None:
    with pytest.raises(ApiError) as caught:
        await client.promote(name, version)
    assert caught.value.status == status
    assert (await client.model("a sum")).default == "1"


async def test_what_takes_other_inputs_is_promoted_by_force(client: AsyncClient) -> None:
    with pytest.raises(ApiError) as caught:
        await client.promote("a sum", 3)
    assert caught.value.details["differences"] == ["column 'c' (double) is new and required"]
    assert (await client.promote("a sum", 3, force=True)).version == "3"


async def test_calls_are_divided_and_copied(client: AsyncClient) -> None:
    weights = {"champion": 90.0, "challenger": 10.0}
    divided = Traffic("a sum", weights, "challenger", {"champion": "1", "challenger": "2"}, ())
    assert await client.set_traffic("a sum", weights, shadow="challenger") == divided
    assert await client.traffic("a sum") == divided
    model = await client.model("a sum")
    assert (model.traffic, model.shadow) == (weights, "challenger")
    assert await client.set_traffic("a sum", {}) == Traffic("a sum", {}, None, {}, ())
    with pytest.raises(ApiError, match="sum up to 110"):
        await client.set_traffic("a sum", {"champion": 90, "challenger": 20})
    with pytest.raises(ValueError, match="'shadow' cannot have a weight"):
        await client.set_traffic("a sum", {"shadow": 100})


async def test_a_model_tells_what_is_held_up(client: AsyncClient, fakes: Fakes) -> None:
    fakes.manager.desired["a sum"] = {"champion": "3", "challenger": "2"}
    fakes.manager.blocked["a sum"] = {"champion": "it takes other inputs"}
    model = await client.model("a sum")
    assert (model.desired["champion"], model.aliases["champion"]) == ("3", "1")
    assert model.blocked == {"champion": "it takes other inputs"}


async def test_inputs_are_columns_or_a_tensor(client: AsyncClient) -> None:
    answer = await client.predict_inputs("a sum", {"a": [1, None], "b": np.array([2.5, 4])}, alias="champion")
    assert answer.predictions == [3.5, None]
    assert (await client.predict_inputs("plain", [[1, 2], [3, 4]])).predictions == [3, 7]


# Over the network, for the client that blocks


@pytest.fixture
def server(fakes: Fakes) -> Iterator[Server]:
    with Server(fakes.app) as server:
        yield server


def test_the_client_that_blocks_does_the_same(server: Server) -> None:
    with Client(server.url) as client:
        assert client.metadata("a sum").platform == "fake_mlflow"
        assert client.schema("a sum").version == "1"
        assert client.statistics("a sum").rows == 0
        assert client.compare("a sum", "champion", "challenger").counted == "all"
        assert client.features("a view").features == ("a", "b")
        assert client.promote("a sum", "2").default == "2"
        assert client.rollback("a sum").default == "1"
        assert client.set_traffic("a sum", {"champion": 100}) == client.traffic("a sum")
        assert client.predict_inputs("plain", [[1, 2]]).predictions == [3]
        answer = client.infer("a sum", {"a": np.arange(1000.0), "b": np.ones(1000)}, version=1)
        assert np.array_equal(answer.outputs["total"], np.arange(1.0, 1001))
