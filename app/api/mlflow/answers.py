"""The JSON that MLflow's scoring server writes for a model's output, and ``/invocations`` with it.

Source: ``_get_jsonable_obj`` and ``NumpyEncoder`` in ``mlflow.utils.proto_json_utils``. Values that MLflow cannot write
have the form of `app.serving.json_output`.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from app.serving.json_output import UNSENDABLE, arranged, array_values, plain, unsendable
from app.serving.rows import Array, Output

_UNNAMED = "0"
"""Key of a Series without a name: pandas' name of its column."""


def mlflow_predictions(output: Output) -> Any:
    """Convert an output to JSON: as `predictions`, but a Series becomes one dict per row.

    Bytes are base64 in lines. An array of datetimes in nanoseconds becomes whole numbers, in a DataFrame ISO 8601 text.

    Raises:
        ModelFailed: the output has a value without a JSON form.
    """
    try:
        if output.kind == "tensor":  # the usual case
            return _items(output.arrays[0])
        if output.kind == "series":
            name = output.names[0] if output.names else _UNNAMED
            return [{name: value} for value in _cells(output.arrays[0])]
        values = _cells if output.kind == "columns" else _items
        return arranged(output, [values(array) for array in output.arrays])
    except UNSENDABLE as error:
        raise unsendable() from error


def _cells(array: Array) -> Any:
    return array_values(array) if array.dtype.kind in "Mm" else _items(array)


def _items(array: Array) -> Any:
    if array.dtype.kind in "OSMm":
        return [_value(item) for item in array.tolist()]
    return array_values(array)


def _value(item: Any) -> Any:
    if isinstance(item, int):
        return item
    if isinstance(item, bytes | bytearray):
        return base64.encodebytes(item).decode("ascii")
    if isinstance(item, dict):
        return {key: _value(value) for key, value in item.items()}
    if isinstance(item, list):
        return [_value(value) for value in item]
    if isinstance(item, np.ndarray):
        return _items(item) if item.ndim else _value(item[()])
    return _value(item.item()) if isinstance(item, np.datetime64 | np.timedelta64) else plain(item)
