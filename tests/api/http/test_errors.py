"""Errors have bounded texts, however long the names and values of the caller are that they quote."""

from __future__ import annotations

from typing import Any

import pytest

from app.api.http.errors import known
from app.errors import InvalidInput, ModelFailed
from app.oip import inference_pb2 as pb
from tests.api.oip.test_grpc import refused, serving
from tests.connect import Connect
from tests.fakes import FakeFeatureStore, FakeModel, make_fakes, tensor, total

LONG = "\U0001f600" * 100_000
MOST_BYTES = 16 * 1024
MAP: list[dict[str, Any]] = [{"name": "x", "type": "map", "values": {"type": "long"}, "required": True}]
WRONG: list[tuple[str, Any]] = [
    ("/serve", {"model_name": "oil", "data": {LONG: 1.0}}),
    ("/serve", {"model_name": "oil", "data": [{"oil": 1.0, **{f"{LONG}{n}": 1 for n in range(20)}}]}),
    ("/serve", {"model_name": "oil", LONG: 1}),
    ("/v1/models/any:predict", {"inputs": {LONG: [[1], [1, 2]]}}),
    ("/v1/models/map:predict", {"instances": [{"x": {LONG: "a"}}]}),
    ("/v1/models/oil:predict", {"entities": [{"id": LONG}], "feature_view": "daily"}),
    ("/v1/models/oil:predict", {"entities": [{"id": 1}], "feature_view": LONG}),
    (
        "/v1/models/oil:predict",
        {"entities": [{"id": 1}], "feature_view": "daily", "overrides": {LONG: [1, 2]}},
    ),
    ("/v1/models/oil:predict", {"instances": [{"oil": 1.0}], "parameters": {LONG: 1}}),
    ("/invocations/any", {"dataframe_split": {"columns": [LONG, LONG], "data": [[1, 2]]}}),
    ("/invocations/oil", {"dataframe_records": [{LONG: 1}], "params": LONG}),
    (
        "/v2/models/oil/infer",
        {"inputs": [{"name": LONG, "shape": [1], "datatype": "FP64", "data": [1.0]}]},
    ),
    (
        "/v2/models/any/infer",
        {"inputs": [{"name": LONG, "shape": [1], "datatype": "FP64", "data": ["a"]}]},
    ),
]


@pytest.mark.parametrize(("path", "body"), WRONG)
async def test_an_error_does_not_repeat_long_names(path: str, body: Any, connect: Connect) -> None:
    store = FakeFeatureStore({"daily": {1: {"oil": 1.0}}})
    models = {"oil": total("oil"), "map": FakeModel(lambda batch: tensor(batch.arrays[0]), MAP)}
    fakes = make_fakes({**models, "any": FakeModel(lambda batch: tensor(batch.arrays[0]))}, features=store)
    answer = await connect(fakes).post(path, json=body)
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert len(answer.content) < MOST_BYTES


async def test_a_long_error_fits_the_metadata_of_grpc() -> None:
    request = pb.ModelInferRequest(model_name="m")
    for index in range(20):
        request.inputs.add(name=f"{LONG[:50]}{index}", datatype="FP64", shape=[1]).contents.fp64_contents.append(1.0)
    async with serving(make_fakes({"m": total("x")})) as stub:
        error = await refused(stub.ModelInfer(request))
    assert dict(error.trailing_metadata() or ())["x-error-code"] == "invalid_input"
    assert str(error.details()).startswith("the input lacks 'x'; the input has '\U0001f600")


def test_short_errors_stay_as_they_are() -> None:
    error = InvalidInput("a" * 2000, {"column": "b" * 200, "expected": ["c"] * 256, "row": 1, "shape": [None, 1.5]})
    assert known(error, "1") is error


def test_long_errors_are_cut() -> None:
    error = known(InvalidInput("a" * 2001, {"b" * 201: ("c" * 201, {"d": "e" * 201}), "f": [1] * 257}), "1")
    assert (error.message, type(error)) == ("a" * 2000 + "...", InvalidInput)
    assert error.details == {"b" * 200 + "...": ["c" * 200 + "...", {"d": "e" * 200 + "..."}], "f": [1] * 256}


def test_an_error_about_half_a_character_can_be_sent() -> None:
    error = known(ModelFailed("output '\ud800'", {"outputs": ["\ud800"]}), "1")
    assert (error.message, error.details) == ("output '?'", {"outputs": ["?"]})
