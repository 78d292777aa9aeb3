"""Arrays and DataFrames as requests of the Open Inference Protocol, and its responses as arrays. Needs numpy.

The elements of a BYTES tensor are UTF-8 text; the gateway also reads times as ISO 8601 and lists and objects as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from ml_serve_client._codec import DTYPES, Array, datatype_of, decode, encode
from ml_serve_client._errors import api_error
from ml_serve_client._json import to_json
from ml_serve_client._predictions import TensorPrediction

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

_UNNAMED = "input"
"""Name of an array without one. The gateway accepts any name for the only tensor of a model that gives it none."""
_MISSING = ("NoneType", "NAType", "NaTType")  # by name: the last two are of pandas, which need not be installed
_HEADER_LENGTH = "inference-header-content-length"


def write_request(
    data: pd.DataFrame | Array | Mapping[str, ArrayLike],
    outputs: Sequence[str] | None,
    params: Mapping[str, Any] | None,
    binary: bool,
) -> tuple[bytes, dict[str, str]]:
    """Write body and headers of an inference request.

    Raises:
        ValueError: no tensor holds a value; where `binary` is False, infinities too.
        TypeError: `data` is not an array, a DataFrame or a mapping.
    """
    body: dict[str, Any] = {"inputs": [], "parameters": {**(params or {}), "binary_data_output": binary}}
    if outputs is not None:
        body["outputs"] = [{"name": name} for name in outputs]
    chunks: list[bytes] = []
    for name, values in _named(data):
        datatype, array = _tensor(str(name), np.asarray(values))
        tensor: dict[str, Any] = {"name": str(name), "shape": array.shape, "datatype": datatype}
        if binary:
            chunks.append(encode(array))
            tensor["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            tensor["data"] = _json_values(array)
        body["inputs"].append(tensor)
    if not body["inputs"]:
        raise ValueError("there is no column to send")
    header = to_json(body)
    if not binary:
        return header, {"content-type": "application/json"}
    return b"".join((header, *chunks)), {
        "content-type": "application/octet-stream",
        _HEADER_LENGTH: str(len(header)),
        "accept-encoding": "identity",  # to compress numbers takes longer than to send them
    }


def read_response(response: httpx.Response) -> TensorPrediction:
    """Read an inference response.

    Raises:
        ApiError: it is an error.
        ValueError, KeyError, TypeError: it does not follow the protocol.
    """
    if not response.is_success:
        raise api_error(response)
    content = memoryview(response.content)
    position = int(response.headers.get(_HEADER_LENGTH, len(content)))
    body = json.loads(bytes(content[:position]))
    outputs = {}
    for output in body["outputs"]:
        datatype, shape = output["datatype"], output["shape"]
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            outputs[output["name"]] = np.array(output["data"], dtype=DTYPES[datatype]).reshape(shape)
        else:
            outputs[output["name"]] = decode(datatype, shape, content[position : position + size])
            position += size
    return TensorPrediction(outputs, body["model_name"], body["model_version"], response.headers.get("x-request-id"))


def _named(data: Any) -> Iterable[tuple[Any, Any]]:
    """Columns or tensors by name."""
    if isinstance(data, Mapping):
        return data.items()
    if hasattr(data, "columns") and hasattr(data, "infer_objects"):
        return _columns(data)
    if hasattr(data, "__array__"):
        return [(_UNNAMED, data)]
    raise TypeError(f"data is a {type(data).__name__}; give a DataFrame, an array, or a mapping of arrays by name")


def _columns(frame: pd.DataFrame) -> Iterator[tuple[Any, Any]]:
    if not frame.columns.is_unique:
        raise ValueError(f"the DataFrame has two columns called {frame.columns[frame.columns.duplicated()][0]!r}")
    for name, column in frame.items():
        # A column of dtype object may hold numbers only; they are sent as numbers.
        yield name, column.infer_objects() if column.dtype == np.dtype(object) else column


def _tensor(name: str, array: Array) -> tuple[str, Array]:
    """Datatype and values to send: numbers, truth values, or an object array of text and bytes."""
    if not array.ndim:
        raise ValueError(f"{name!r} is a single value, not an array of rows")
    datatype = datatype_of(array.dtype)
    if datatype != "BYTES":
        return datatype, array
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        if missing.any():
            raise _missing(name, int(np.argwhere(missing)[0][0]), "NaT")
        return datatype, np.datetime_as_string(array).astype(object)
    if array.dtype.kind not in "OSTU":
        raise ValueError(f"{name!r} is of type {array.dtype}, which no tensor holds")
    return datatype, _elements(name, array)


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
