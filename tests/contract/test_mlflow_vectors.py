"""The same requests to MLflow's own scoring server and to our gateway, over the same models: the same answers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server
from sqlalchemy.exc import SADeprecationWarning

from app.adapters.mlflow.loaded_model import LoadedModel
from app.adapters.mlflow.type_hints import input_hint
from app.serving.model_spec import ModelSpec
from app.serving.references import parse_ref
from tests.contract.mlflow_input_vectors import INPUT_VECTORS
from tests.contract.mlflow_models import JSON, MODELS, Vector
from tests.contract.mlflow_vectors import VECTORS
from tests.fakes import FakeModel, make_fakes
from tests.mlflow_server import EmptyRegistry


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, empty_registry: EmptyRegistry) -> Iterator[dict[str, Any]]:
    """Every model, logged to a real MLflow and loaded."""
    folder: Path = empty_registry(tmp_path_factory.mktemp("mlflow"))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SADeprecationWarning)
        experiment = mlflow.create_experiment("vectors", artifact_location=(folder / "artifacts").as_uri())
    loaded = {}
    for name, log in MODELS.items():
        with warnings.catch_warnings(record=True), mlflow.start_run(experiment_id=experiment):
            warnings.simplefilter("ignore")  # MLflow hints at how to log better; some hints pass filters
            loaded[name] = mlflow.pyfunc.load_model(log().model_uri)
    yield loaded
    mlflow.set_tracking_uri(before)


def ours(model: Any) -> Any:
    """Our ASGI application over the model."""
    parts = model.metadata.signature.to_dict() if model.metadata.signature else {}
    parsed = {part: json.loads(text) for part, text in parts.items() if text}
    inputs, outputs, params = parsed.get("inputs"), parsed.get("outputs"), parsed.get("params")
    hinted = input_hint(model) is not None
    spec = ModelSpec("model", "1", "python_function", inputs, outputs, params, hinted=hinted)
    loaded = LoadedModel(spec, model)
    behind = FakeModel(loaded.predict, inputs, outputs, params, hinted=hinted, invoke=loaded.invoke)
    fakes = make_fakes({"model": behind})
    fakes.default_model = parse_ref("model")
    return fakes.app


async def answered(app: Any, vector: Vector) -> Any:
    """The predictions, an error's status and code, or the status of an answer that is not JSON."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"content-type": vector.content_type} if vector.content_type is not None else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.post("/invocations", content=vector.body, headers=headers)
    if answer.headers.get("content-type") != JSON:
        return answer.status_code
    # MLflow writes NaN, which JSON has not.
    body = json.loads(answer.content, parse_constant=lambda word: None)
    if answer.status_code == 200:
        return body["predictions"]
    return answer.status_code, body["error_code"]


@pytest.mark.parametrize("vector", [*VECTORS, *INPUT_VECTORS], ids=str)
async def test_responses_equal_mlflows(vector: Vector, models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = models[vector.model]
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # as the server itself does, which leaves it so
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of pandas and scikit-learn
        theirs = await answered(scoring_server.init(model), vector)
    mine = await answered(ours(model), vector)
    if not vector.why:
        assert mine == theirs
        return
    for answer, expected in ((theirs, vector.mlflow), (mine, vector.ours)):
        assert answer == expected or (expected == 200 and isinstance(answer, list))
