"""The public API of `ml_serve_client` is complete, documented and typed."""

import dataclasses
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import httpx
import numpy as np
import pandas as pd
import pytest

import ml_serve_client
from app.api.v1.predict import V1Dialect
from app.api.v1.releases import ReleaseEndpoints
from ml_serve_client import (
    Client,
    Prediction,
    TensorPrediction,
    _client,
    _comparison,
    _errors,
    _predictions,
    _results,
    _retry,
)
from tests.fakes import make_fakes
from tests.platform import ROOT

PAGE = (ROOT / "docs" / "clients" / "python.md").read_text()
VALUES = [
    getattr(ml_serve_client, name)
    for name in ml_serve_client.__all__
    if inspect.isclass(getattr(ml_serve_client, name))
]
METHODS = sorted(name for name in vars(Client) if not name.startswith("_"))


def test_the_package_exports_its_public_names_and_no_others() -> None:
    public = {name for name, value in vars(ml_serve_client).items() if name[0] != "_" and not inspect.ismodule(value)}
    assert public | {"__version__"} == {*ml_serve_client.__all__}
    assert len(ml_serve_client.__all__) == len({*ml_serve_client.__all__})
    modules = [module.name for module in pkgutil.iter_modules(ml_serve_client.__path__)]
    assert [name for name in modules if not name.startswith("_")] == []
    assert "_client" in modules


def test_every_public_class_is_exported() -> None:
    for module in (_results, _comparison, _predictions, _errors, _retry, _client):
        for name, member in vars(module).items():
            if inspect.isclass(member) and member.__module__ == module.__name__ and not name.startswith("_"):
                assert name in ml_serve_client.__all__ or name == "Attempts", name


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
def test_every_class_is_documented_and_every_result_frozen(kind: type) -> None:
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")  # the text that dataclass writes by default
    assert not dataclasses.is_dataclass(kind) or kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_documented_with_all_its_arguments(method: str) -> None:
    function: Callable[..., Any] = getattr(Client, method)
    text = inspect.getdoc(function) or ""
    assert text
    if "The others are those of" not in text:
        arguments = set(inspect.signature(function).parameters) - {"self", "name"}
        assert all(re.search(rf"\b{argument}\b", text) for argument in arguments)
    assert f"`{method}" in PAGE or f".{method}(" in PAGE, f"docs/clients/python.md says nothing of {method}"


@pytest.mark.parametrize("name", ml_serve_client.__all__)
def test_the_page_has_every_name(name: str) -> None:
    assert name in PAGE


def test_every_endpoint_of_v1_has_a_method() -> None:
    fakes = make_fakes({})
    source = "".join(path.read_text() for path in Path(ml_serve_client.__file__).parent.glob("*_operations.py"))
    for route in [*V1Dialect(fakes.service, fakes.manager).routes(), *ReleaseEndpoints(fakes.manager).routes()]:
        before, _, after = route.path.partition("{")
        suffix = after.partition("}")[2]
        assert (suffix or before.rstrip("/")) in source or route.path == "/v1/models/{ref:path}", route.path


def test_type_checkers_see_the_result_types() -> None:
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
