"""Answers of a model that are hard or impossible to send: in every dialect the caller gets them, or the model's error.

Each answer comes through `LoadedModel` and is pickled on its way to the gateway, as from a pool.
"""

from __future__ import annotations

import json
import math
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import MagicMock

import httpx
import numpy as np
import pandas as pd
import pytest
from grpc import StatusCode
from prometheus_client import CollectorRegistry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc

from app.adapters.mlflow.loaded_model import LoadedModel
from app.api.oip.grpc import InferenceServicer
from app.api.oip.service import InferenceService
from app.oip import inference_pb2 as pb
from app.serving.model_spec import ModelSpec
from app.serving.rows import Batch, Output
from tests.fakes import FakeModel, Fakes, make_fakes
from tests.grpc_stub import CallContext

pytestmark = pytest.mark.filterwarnings("ignore")  # those of numpy and pandas about how models answer


class Float(float):
    """A float of the model's own class, which the gateway does not have."""

    def __repr__(self) -> NoReturn:
        raise ValueError

    def __reduce__(self) -> NoReturn:
        raise ValueError

    __float__ = __str__ = __repr__


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return self

    def __reduce__(self) -> NoReturn:
        raise ValueError


class Whole(int):
    def __reduce__(self) -> NoReturn:
        raise ValueError


class Octets(bytes):
    def __bytes__(self) -> NoReturn:
        raise ValueError

    def __reduce__(self) -> NoReturn:
        raise ValueError


class Object:
    """Raises whatever is done with it."""

    def __repr__(self) -> NoReturn:
        raise SystemExit

    __str__ = __reduce__ = __eq__ = __hash__ = __len__ = __float__ = __int__ = __repr__  # type: ignore[assignment]


class Named:
    """Has every attribute."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self


class Array:
    def __array__(self, *_: Any) -> NoReturn:
        raise KeyboardInterrupt


class Entries(Mapping[str, Any]):
    def __getitem__(self, key: str) -> NoReturn:
        raise MemoryError

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


def recursive() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def deep(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


def one_cell(item: Any) -> Any:
    array = np.empty(1, dtype=object)
    array[0] = item
    return array


ITEMS: dict[str, Callable[[], Any]] = {
    "half a character": lambda: "\ud800",
    "half a character as a key": lambda: {"\ud800": 1},
    "a huge whole number": lambda: 10**5000,
    "a huge whole number as a key": lambda: {10**5000: 1},
    "a float of its own": lambda: Float(1.5),
    "a text of its own": lambda: Text("a"),
    "a text of its own as a key": lambda: {Text("a"): 1},
    "a whole number of its own": lambda: Whole(7),
    "bytes of its own": lambda: Octets(b"a"),
    "NaN": lambda: math.nan,
    "infinity": lambda: -math.inf,
    "bytes": lambda: b"\xff\x00",
    "a set": lambda: {"a", "b"},
    "a set of mixed values": lambda: {1, "a", None, (2,)},
    "an object": Object,
    "an object with every attribute": Named,
    "a mock": MagicMock,
    "an array that fails": Array,
    "a mapping that fails": Entries,
    "a generator": lambda: (n for n in range(3)),
    "a class": lambda: Object,
    "a module": lambda: sys,
    "a complex number": lambda: 1j,
    "a list in itself": recursive,
    "300 levels": lambda: deep(300),
    **{f"{levels} levels": partial(deep, levels) for levels in range(420, 500, 8)},
    "100 MB of text": lambda: "x" * 100_000_000,
}
SHAPES: dict[str, Callable[[Any], Any]] = {
    "alone": lambda item: item,
    "in a list": lambda item: [item, 1],
    "in a dict": lambda item: {"y": item, "z": [1]},
    "in rows": lambda item: [{"y": item}, {"y": None}],
    "in an array": one_cell,
    "in a frame": lambda item: pd.DataFrame({"y": one_cell(item)}),
}
SENT = {"half a character", "half a character as a key", "NaN", "infinity", "bytes", "a float of its own", "a set"}
"""Answers that every dialect of JSON rows can hold."""


class Answering(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
    """A model that answers what the input names."""

    # Without type hints: MLflow would read them as a signature.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        asked = model_input["name"] if "name" in model_input else model_input["prompt"]
        name, shape = str(next(iter(asked))).split(": ")
        return SHAPES[shape](ITEMS[name]())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder: Path = tmp_path_factory.mktemp("model") / "model"
    mlflow.pyfunc.save_model(folder, python_model=Answering(), pip_requirements=[])
    return LoadedModel(ModelSpec("m", "1", "python_function"), mlflow.pyfunc.load_model(str(folder)))


@pytest.fixture
def fakes(model: LoadedModel) -> Fakes:
    def predict(batch: Batch) -> Output:
        output: Output = pickle.loads(pickle.dumps(model.predict(batch), 5))
        return output

    return make_fakes({"m": FakeModel(predict, row_wise=False, invoke=model.invoke)})


def requests(asked: str) -> dict[str, tuple[str, Any]]:
    tensors = {"inputs": [{"name": "name", "datatype": "BYTES", "shape": [1], "data": [asked]}]}
    return {
        "serve": ("/serve", {"model_name": "m", "data": {"name": asked}}),
        "v1": ("/v1/models/m:predict", {"instances": [{"name": asked}]}),
        "mlflow": ("/invocations/m", {"dataframe_records": [{"name": asked}]}),
        "call": ("/invocations/m", {"prompt": asked}),
        "v2": ("/v2/models/m/infer", tensors),
        "v2-binary": ("/v2/models/m/infer", {**tensors, "parameters": {"binary_data_output": True}}),
    }


def shapes(name: str) -> Iterator[str]:
    yield from SHAPES if "MB" not in name else ("alone",)


@pytest.mark.parametrize("name", ITEMS)
async def test_an_answer_is_sent_or_is_the_models_fault(name: str, fakes: Fakes) -> None:
    transport, plain = httpx.ASGITransport(fakes.app), {"accept-encoding": "identity"}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=plain) as client:
        for shape in shapes(name):
            for dialect, (path, body) in requests(f"{name}: {shape}").items():
                if "MB" in name and dialect not in ("mlflow", "v2"):
                    continue  # each takes a second
                answer = await client.post(path, json=body)
                where = (name, shape, dialect, answer.text[:500])
                if answer.status_code == 200:
                    if dialect != "v2-binary" and "MB" not in name:
                        json.loads(answer.content, parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
                    continue
                fault = answer.json()
                fault = fault["error"] if dialect == "serve" else fault
                assert answer.status_code == 500, where
                assert fault.get("code", fault.get("error_code")) in ("model_failed", "INTERNAL_ERROR"), where
                assert fault.get("message", fault.get("error")).startswith(("the model ", "output '")), where
                assert not (name in SENT and dialect in ("serve", "v1", "mlflow")), where


@pytest.mark.parametrize("name", ITEMS)
async def test_an_answer_over_grpc_is_sent_or_a_fault(name: str, fakes: Fakes) -> None:
    servicer: Any = InferenceServicer(InferenceService(fakes.service, fakes.manager), 10.0, CollectorRegistry())
    for shape in shapes(name):
        request = pb.ModelInferRequest(model_name="m")
        given = request.inputs.add(name="name", datatype="BYTES", shape=[1])
        given.contents.bytes_contents.append(f"{name}: {shape}".encode())
        context = CallContext()
        answer = await servicer.model_infer(request, context)
        answer.SerializeToString()
        if context.code is not StatusCode.OK:
            assert dict(context.trailing)["x-error-code"] == "model_failed", (name, shape, context.details)
