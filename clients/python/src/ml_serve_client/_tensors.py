"""Arrays and DataFrames as bodies of the Open Inference Protocol, and its answers as arrays.

Text in a BYTES tensor is UTF-8; a time is ISO 8601, and a list or an object is JSON, as the gateway reads them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import numpy as np

from ml_serve_client._call import to_json
from ml_serve_client._codec import DTYPES, Array, datatype_of, decode, encode
from ml_serve_client._errors import api_error
from ml_serve_client._predictions import TensorPrediction

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

INPUT = "input"
"""What an array without a name is called. The gateway takes any name for an only tensor that has none."""
_MISSING = ("NoneType", "NAType", "NaTType")  # the last two are pandas', which need not be installed
_LENGTH = "inference-header-content-length"


class Tensor(NamedTuple):
    """One tensor to be sent: numbers, truth values, or an object array of text and bytes."""

    name: str
    datatype: str
    array: Array


def request(
    data: pd.DataFrame | Array | Mapping[str, ArrayLike],
    outputs: Sequence[str] | None,
    params: Mapping[str, Any] | None,
    binary: bool,
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of ``infer``.

    Raises:
        ValueError: values that a tensor does not hold; where `binary` is False, infinities too.
        TypeError: `data` is no array, DataFrame or mapping.
    """
    tensors = [_tensor(str(name), np.asarray(values)) for name, values in _named(data)]
    if not tensors:
        raise ValueError("there is no column to send")
    body: dict[str, Any] = {"inputs": [], "parameters": {**(params or {}), "binary_data_output": binary}}
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    tail = []
    for tensor in tensors:
        described: dict[str, Any] = {"name": tensor.name, "shape": tensor.array.shape, "datatype": tensor.datatype}
        if binary:
            tail.append(encode(tensor.array))
            described["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            described["data"] = _json_values(tensor.array)
        body["inputs"].append(described)
    header = to_json(body)
    if not binary:
        return header, {"content-type": "application/json"}
    return b"".join((header, *tail)), {
        "content-type": "application/octet-stream",
        _LENGTH: str(len(header)),
        # Compression takes longer than what it saves of numbers.
        "accept-encoding": "identity",
    }


def prediction(response: httpx.Response) -> TensorPrediction:
    """Read the answer of ``infer``.

    Raises:
        ApiError: it is an error.
        ValueError, KeyError, TypeError: it is not of the protocol.
    """
    if not response.is_success:
        raise api_error(response)
    content = response.content
    length = int(response.headers.get(_LENGTH, len(content)))
    body = json.loads(content[:length])
    outputs = {}
    at = length
    for output in body["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            array = np.array(output["data"], dtype=DTYPES[output["datatype"]]).reshape(output["shape"])
        else:
            array = decode(output["datatype"], output["shape"], memoryview(content)[at : at + size])
            at += size
        outputs[output["name"]] = array
    return TensorPrediction(outputs, body["model_name"], body["model_version"], response.headers.get("x-request-id"))


def _named(data: Any) -> Iterable[tuple[Any, Any]]:
    """Columns or tensors by name."""
    if isinstance(data, Mapping):
        return data.items()
    if hasattr(data, "columns") and hasattr(data, "infer_objects"):
        return _columns(data)
    if hasattr(data, "__array__"):
        return [(INPUT, data)]
    raise TypeError(f"data is a {type(data).__name__}; give a DataFrame, an array, or a mapping of arrays by name")


def _columns(frame: pd.DataFrame) -> Iterator[tuple[Any, Any]]:
    if not frame.columns.is_unique:
        raise ValueError(f"the DataFrame has two columns called {frame.columns[frame.columns.duplicated()][0]!r}")
    for name, column in frame.items():
        # Objects that are numbers, as those of columns that Python code built, are sent as numbers.
        yield name, column.infer_objects() if column.dtype == np.dtype(object) else column


def _tensor(name: str, array: Array) -> Tensor:
    if not array.ndim:
        raise ValueError(f"{name!r} is a single value, not an array of rows")
    datatype = datatype_of(array.dtype)
    if datatype != "BYTES":
        return Tensor(name, datatype, array)
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        if missing.any():
            raise _missing(name, int(np.argwhere(missing)[0][0]), "NaT")
        return Tensor(name, datatype, np.datetime_as_string(array).astype(object))
    if array.dtype.kind not in "OSTU":
        raise ValueError(f"{name!r} is of type {array.dtype}, which no tensor holds")
    return Tensor(name, datatype, _elements(name, array))


def _elements(name: str, array: Array) -> Array:
    values = array.ravel().tolist()
    width = array.size // max(len(array), 1)
    for index, value in enumerate(values):
        if type(value).__name__ in _MISSING or (isinstance(value, float) and math.isnan(value)):
            raise _missing(name, index // width, value)
    elements = np.empty(array.size, dtype=object)
    for index, value in enumerate(values):
        elements[index] = _element(name, index // width, value)
    return elements.reshape(array.shape)


def _element(name: str, row: int, value: Any) -> str | bytes:
    if isinstance(value, str | bytes):
        return value
    if isinstance(value, Mapping | list | tuple | np.ndarray):
        return to_json(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise ValueError(f"row {row} of {name!r} is a {type(value).__name__}, which no tensor of texts holds: {value!r}")


def _missing(name: str, row: int, value: Any) -> ValueError:
    return ValueError(
        f"row {row} of {name!r} is missing ({value}), and a tensor has no missing texts or times: "
        "fill it, or send rows as dicts, where it is None"
    )


def _json_values(array: Array) -> list[Any]:
    values: list[Any] = array.ravel().tolist()
    return [None if math.isnan(value) else value for value in values] if array.dtype.kind == "f" else values
