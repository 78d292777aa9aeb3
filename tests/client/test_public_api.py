"""What `app.client` offers is whole, documented, typed, and in the package that is built."""

import dataclasses
import inspect
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import httpx
import numpy as np
import pandas as pd
import pytest

import app.client
from app.api.v1.predict import V1Dialect
from app.api.v1.releases import ReleaseEndpoints
from app.client import (
    AsyncClient,
    Client,
    Prediction,
    TensorPrediction,
    answers,
    clients,
    comparisons,
    errors,
    predictions,
    retry,
)
from tests.fakes import make_fakes
from tests.platform import ROOT

PAGE = (ROOT / "docs" / "client.md").read_text()
VALUES = [getattr(app.client, name) for name in app.client.__all__ if inspect.isclass(getattr(app.client, name))]
METHODS = sorted(name for name in vars(Client) if not name.startswith("_"))


def test_every_class_that_methods_return_raise_or_take_is_exported() -> None:
    for module in (answers, comparisons, predictions, errors, retry, clients):
        for name, member in vars(module).items():
            if inspect.isclass(member) and member.__module__ == module.__name__ and not name.startswith("_"):
                assert name in app.client.__all__ or name == "Budget", name
    assert sorted(app.client.__all__) == sorted({*app.client.__all__})
    assert all(hasattr(app.client, name) for name in app.client.__all__)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_every_class_is_documented_and_its_values_are_frozen(kind: type) -> None:
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")  # what dataclass writes where nobody does
    assert not dataclasses.is_dataclass(kind) or kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_documented_with_all_its_arguments(method: str) -> None:
    function: Callable[..., Any] = getattr(Client, method)
    text = inspect.getdoc(function) or ""
    assert text
    if "The others are those of" not in text:
        arguments = set(inspect.signature(function).parameters) - {"self", "name"}
        assert all(re.search(rf"\b{argument}\b", text) for argument in arguments)
    assert f"`{method}" in PAGE or f".{method}(" in PAGE, f"docs/client.md says nothing of {method}"


@pytest.mark.parametrize("name", app.client.__all__)
def test_the_page_has_every_name(name: str) -> None:
    assert name in PAGE


def test_every_endpoint_of_v1_has_a_method() -> None:
    fakes = make_fakes({})
    source = "".join((ROOT / "app" / "client" / name).read_text() for name in ("calls.py", "prediction_calls.py"))
    for route in [*V1Dialect(fakes.service, fakes.manager).routes(), *ReleaseEndpoints(fakes.manager).routes()]:
        before, _, after = route.path.partition("{")
        suffix = after.partition("}")[2]
        assert (suffix or before.rstrip("/")) in source or route.path == "/v1/models/{ref:path}", route.path


def test_callers_get_types() -> None:
    """mypy reads this, as part of `make check`; an ignore that is not needed is an error there."""
    body = {"predictions": [], "model_name": "m", "model_version": "1", "outputs": []}
    client = Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, json=body)))
    assert_type(client.predict("m", {"a": 1}), Prediction)
    assert_type(client.predict("m", [{"a": 1}, [1, 2]]), Prediction)
    assert_type(client.predict("m", pd.DataFrame({"a": [1]})), TensorPrediction)
    assert_type(client.predict("m", np.zeros(1)), TensorPrediction)
    assert_type(client.infer("m", {"a": np.zeros(1), "b": [1]}), TensorPrediction)
    with pytest.raises(TypeError):
        client.infer("m", object())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        client.predict("m", None)  # type: ignore[call-overload]


def test_the_built_package_has_the_types_and_the_plugin(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "app/py.typed" in names
        assert "app/client/clients.py" in names
        assert "[mlflow.deployments]\nml-serve = app.mlflow_plugin" in archive.read(entry_points).decode()


def test_both_clients_offer_the_same() -> None:
    assert sorted(name for name in vars(AsyncClient) if not name.startswith("_")) == METHODS
