"""Models, bodies and readers of responses for the tests of the Open Inference Protocol over HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from app.oip.binary import decode, encode
from app.serving.rows import Array, Batch, Output
from tests.fakes import FakeModel, columns

HEADER = "inference-header-content-length"
PRICES = "/v2/models/prices"
ROW = [
    {"name": "oil", "shape": [1], "datatype": "FP64", "data": [75.5]},
    {"name": "gas", "shape": [1], "datatype": "FP64", "data": [3.2]},
]


def named(name: str, dtype: str, *shape: int) -> dict[str, Any]:
    return {"type": "tensor", "name": name, "tensor-spec": {"dtype": dtype, "shape": list(shape)}}


def unnamed(dtype: str, *shape: int) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}


def mirror(*inputs: dict[str, Any], **more: Any) -> FakeModel:
    """A model that answers its input: arrays by name, or the only one."""

    def predict(batch: Batch) -> Output:
        kind = batch.layout.kind
        assert kind != "list"
        return Output(kind, tuple(map(str, batch.layout.names)), batch.arrays, batch.count)

    return FakeModel(predict, inputs or None, **more)


def frame(**answers: Sequence[Any] | Array) -> FakeModel:
    """A model that answers the same columns, whatever it is asked."""
    arrays = tuple(np.asarray(values) for values in answers.values())
    return FakeModel(lambda batch: Output("columns", tuple(answers), arrays, batch.count), columns("x"))


def given(name: str, datatype: str, data: Any, shape: Sequence[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape or [len(data)]), "data": data}


def binary(inputs: Sequence[tuple[str, str, Array] | dict[str, Any]], **more: Any) -> tuple[bytes, dict[str, str]]:
    """A body whose tensors are behind its JSON, but for those that are given as JSON, and its header."""
    described, tail = [], b""
    for one in inputs:
        if isinstance(one, dict):
            described.append(one)
            continue
        name, datatype, array = one
        raw = encode(array)
        described.append(
            {
                "name": name,
                "datatype": datatype,
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
        )
        tail += raw
    text = json.dumps({"inputs": described, **more}).encode()
    return text + tail, {HEADER: str(len(text))}


def tensors(answer: httpx.Response) -> dict[str, Any]:
    """The outputs of an answer as nested lists, wherever their values are."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(HEADER, len(answer.content)))
    text, tail = answer.content[:length], answer.content[length:]
    found = {}
    for output in json.loads(text)["outputs"]:
        if "data" in output:
            data = np.empty(len(output["data"]), dtype=object)
            data[:] = output["data"]
            found[output["name"]] = data.reshape(output["shape"]).tolist()
            continue
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = decode(output["name"], output["datatype"], output["shape"], tail[:size]).tolist()
        tail = tail[size:]
    assert tail == b""
    return found


def described(answer: httpx.Response) -> dict[str, Any]:
    """The JSON of an answer."""
    body: dict[str, Any] = json.loads(answer.content[: int(answer.headers.get(HEADER, len(answer.content)))])
    return body
