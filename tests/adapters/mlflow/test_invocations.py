"""JSON calls of models that are not chat models, and what MLflow's servers leave open."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from app.adapters.mlflow.enforcement import skip_enforcement
from app.adapters.mlflow.invocations import Invocations
from app.errors import InvalidInput, ModelFailed

PROMPT = ModelSignature(Schema([ColSpec(DataType.string, "prompt")]))


class Event(BaseModel):
    text: str
    more: int | None = None


@dataclasses.dataclass
class Data:
    text: str


def load(
    folder: Path,
    predict: Callable[[Any], Any],
    stream: Callable[[Any], Any] | None = None,
    signature: ModelSignature | None = None,
) -> Invocations:
    """A Python model, loaded as `ModelLoader` loads it."""

    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")

        class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
            def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
                return predict(model_input)

        class Streaming(Model):
            def predict_stream(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
                return stream(model_input)  # type: ignore[misc]

        model = Streaming() if stream else Model()
        mlflow.pyfunc.save_model(folder / "m", python_model=model, signature=signature, pip_requirements=[])
        loaded = mlflow.pyfunc.load_model(str(folder / "m"))
    invocations = Invocations(loaded)
    skip_enforcement(loaded)
    return invocations


def body(**given: Any) -> bytes:
    return json.dumps(given).encode()


def test_any_model_gets_the_object(tmp_path: Path) -> None:
    model = load(tmp_path, lambda given: {"kind": type(given).__name__, "given": given})
    assert (model.takes_json, model.streams) == (False, False)
    found = json.loads(model.invoke(body(messages=[1], top=2)))
    assert found == {"kind": "dict", "given": {"messages": [1], "top": 2}}


def test_mlflow_enforces_the_signature(tmp_path: Path) -> None:
    model = load(tmp_path, lambda frame: {"kind": type(frame).__name__}, signature=PROMPT)
    assert model.invoke(body(prompt="a")) == b'{"kind": "DataFrame"}'
    with pytest.raises(InvalidInput, match="'prompt'") as caught:
        model.invoke(body(prompt=1))
    assert caught.value.details == {"field": "prompt"}


def test_arrays_become_lists_and_nan_null(tmp_path: Path) -> None:
    model = load(tmp_path, lambda given: {"a": np.array([1.0, np.nan, np.inf]), "text": "NaN"})
    assert json.loads(model.invoke(body(prompt=""))) == {"a": [1.0, None, None], "text": "NaN"}


def test_events_are_dicts_text_or_objects(tmp_path: Path) -> None:
    given = [{"a": np.float32(0.5)}, "text", Event(text="x"), Data("y"), 1, float("nan")]
    model = load(tmp_path, lambda _: None, lambda _: iter(given))
    assert model.streams
    expected = ['{"a": 0.5}', '"text"', '{"text": "x"}', '{"text": "y"}', "1", "null"]
    assert list(model.stream(body(prompt=""))) == expected


@pytest.mark.parametrize("answer", [object(), {1, 2}])
def test_an_answer_that_is_no_json_is_the_models_fault(tmp_path: Path, answer: Any) -> None:
    model = load(tmp_path, lambda _: answer, lambda _: iter(["a", answer]))
    with pytest.raises(ModelFailed, match="TypeError"):
        model.invoke(body(prompt=""))
    events = model.stream(body(prompt=""))
    assert next(events) == '"a"'
    with pytest.raises(ModelFailed, match="TypeError"):
        next(events)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, asyncio.CancelledError])
def test_whatever_a_model_raises_is_its_failure(tmp_path: Path, kind: type[BaseException]) -> None:
    def fail(given: Any) -> Any:
        raise kind

    def stream(given: Any) -> Any:
        yield "a"
        raise kind

    model = load(tmp_path, fail, stream)
    with pytest.raises(ModelFailed, match=f"the model raised {kind.__name__} while predicting"):
        model.invoke(body(prompt=""))
    events = model.stream(body(prompt=""))
    assert next(events) == '"a"'
    with pytest.raises(ModelFailed, match=f"the model raised {kind.__name__} while predicting"):
        next(events)


def test_a_stream_that_is_closed_early_closes_the_models(tmp_path: Path) -> None:
    closed = tmp_path / "closed"  # the model is a copy

    def stream(given: Any) -> Any:
        try:
            yield "a"
            yield "b"
        finally:
            closed.touch()

    events = load(tmp_path, lambda _: None, stream).stream(body(prompt=""))
    assert next(events) == '"a"'
    events.close()
    assert closed.exists()


def test_errors_of_the_model_do_not_show_their_text(tmp_path: Path) -> None:
    def fail(given: Any) -> Any:
        raise ValueError("/secret/path")

    with pytest.raises(ModelFailed, match="the model raised ValueError while predicting") as caught:
        load(tmp_path, fail).invoke(body(prompt=""))
    assert "/secret" not in caught.value.message
    assert caught.value.details.keys() == {"failure"}
