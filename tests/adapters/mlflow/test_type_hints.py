"""Values that do not fit a model's type hint are the caller's error, which names the item."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pandas as pd
import pydantic
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc

from app.adapters.mlflow.enforcement import skip_enforcement
from app.adapters.mlflow.loaded_model import LoadedModel
from app.adapters.mlflow.type_hints import input_hint, refusal
from app.errors import InvalidInput, ModelFailed
from app.serving.model_spec import ModelSpec
from app.serving.rows import stack
from app.serving.signatures.signature import Signature
from tests.connect import Connect
from tests.fakes import FakeModel, make_fakes

SPEC = [{"type": "object", "properties": {"size": {"type": "long"}}, "required": True}]


class Item(pydantic.BaseModel):
    """An item with a default, and with fields of its own."""

    model_config = pydantic.ConfigDict(extra="allow")

    size: int
    note: str = "none"


class Box(pydantic.BaseModel):
    """An item with others inside."""

    items: list[Item]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that fails on the size 13."""
    folder = tmp_path_factory.mktemp("hinted") / "model"
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")  # MLflow hints at how to log better

        class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
            def predict(self, model_input: list[Item]) -> list[str]:
                assert all(item.size != 13 for item in model_input)
                return [repr(item) for item in model_input]

        mlflow.pyfunc.save_model(folder, python_model=Model(), pip_requirements=[])
    model = mlflow.pyfunc.load_model(str(folder))
    assert not skip_enforcement(model)
    return LoadedModel(ModelSpec("m", "1", "python_function", SPEC, hinted=input_hint(model) is not None), model)


def ask(loaded: LoadedModel, *values: Any) -> list[Any]:
    batch = stack([Signature.compile(SPEC, hinted=True).rows("inputs", [*values])])
    return list(loaded.predict(batch).arrays[0].tolist())


def test_defaults_are_filled_in_and_other_fields_kept(loaded: LoadedModel) -> None:
    assert ask(loaded, {"size": 1, "colour": "red"}) == ["Item(size=1, note='none', colour='red')"]


@pytest.mark.parametrize(
    ("value", "message", "details"),
    [
        ({"size": "2"}, "item 1 at .size is '2': Input should be a valid integer", {"item": 1, "path": ".size"}),
        ({}, "item 1 at .size: Field required; the model takes list[Item]", {"item": 1, "path": ".size"}),
        (3, "item 1 is 3, expected an object; the model takes list[Item]", {"item": 1}),
        ({"size": 1, "note": "x" * 10**5, "z": 1} | {"size": "x" * 10**5}, "item 1 at .size is 'xxx", {"item": 1}),
    ],
)
def test_an_item_that_does_not_fit_is_named(loaded: LoadedModel, value: Any, message: str, details: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(loaded, {"size": 1}, value)
    assert caught.value.message.startswith(message)
    assert len(caught.value.message) < 400
    assert details.items() <= caught.value.details.items()


def test_a_failure_of_the_model_itself_stays_one(loaded: LoadedModel) -> None:
    with pytest.raises(ModelFailed):
        ask(loaded, {"size": 13})


@pytest.mark.parametrize(
    ("hint", "data", "message"),
    [
        (list[str], ["a", 1], "item 1 is 1: Expected type str, but got int; the model takes list[str]"),
        (list[list[int]], [[1, "x"]], "item 0 is [1, 'x']"),
        (list[dict[str, int]], [{"a": "x"}], "item 0 is {'a': 'x'}"),
        (list[Box], [{"items": [{"size": 1}, {"size": 1.5}]}], "item 0 at .items[1].size is 1.5: "),
        (list[str], pd.DataFrame({"a": [1]}), "item 0 is 1: Expected type str"),
    ],
)
def test_every_kind_of_hint_has_a_message(hint: Any, data: Any, message: str) -> None:
    error = refusal(data, hint)
    assert error is not None
    assert error.message.startswith(message)


@pytest.mark.parametrize("hint", [list[str], list[Any]])
def test_values_that_fit_are_not_refused(hint: Any) -> None:
    assert refusal(["a"], hint) is None


async def test_one_wrong_item_fails_alone_in_a_batch(loaded: LoadedModel, connect: Connect) -> None:
    fakes = make_fakes({"m": FakeModel(loaded.predict, SPEC, hinted=True)})
    fakes.runner.delay_s = 0.01
    client = connect(fakes)
    bodies = [{"inputs": [{"size": size}, {"size": size}]} for size in (1, "wrong", 2, 13, 3, 4)]
    answers = await asyncio.gather(*(client.post("/invocations/m", json=body) for body in bodies))
    assert [answer.status_code for answer in answers] == [200, 400, 200, 500, 200, 200]
    assert answers[1].json()["message"].startswith("item 0 at .size is 'wrong': ")
    assert answers[1].json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert any(batch.count > 2 for _, batch in fakes.runner.batches)


async def test_a_large_request_names_its_own_item(loaded: LoadedModel, connect: Connect) -> None:
    fakes = make_fakes({"m": FakeModel(loaded.predict, SPEC, hinted=True)})
    items: list[dict[str, Any]] = [{"size": 1}] * 900
    items[899] = {"size": None}
    answer = await connect(fakes).post("/v1/models/m:predict", json={"instances": items})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("item 899 at .size is null")
    assert len(fakes.runner.batches) > 1
