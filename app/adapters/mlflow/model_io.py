"""Convert batches to the input of pyfunc models, and their answers to outputs, in the process that hosts the model."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, Literal
from uuid import UUID

import numpy as np
import pandas as pd
from pydantic import BaseModel

from app.errors import ModelFailed, ServingError
from app.serving.rows import Array, Batch, Output, as_array
from app.serving.signatures.scalars import infer_array
from app.serving.signatures.tensors import flatten
from app.serving.signatures.validation_errors import Misfit

ModelInput = pd.DataFrame | Array | dict[str, Array] | list[Any]

_CELLS = {str, bool, int, float, bytes, type(None)}
_DIMENSIONS = 32
"""Nested lists that become dimensions of an array; numpy allows 64. Deeper ones stay lists."""
_UNCHANGED = {Decimal, date, time, timedelta, UUID, bytearray}


def model_input(batch: Batch) -> ModelInput:
    """Return the input for ``pyfunc.predict``: a DataFrame, an array, a dict of arrays, or a list.

    The model may write into it: read-only arrays, as other processes send them, are copied.
    """
    if batch.layout.kind == "columns":
        frame = _frame(batch)
        if batch.layout.labels is not None:
            frame.index = pd.Index(list(batch.layout.labels.values))
            frame.index.names = list(batch.layout.labels.names)
        return frame
    if batch.layout.kind == "list":
        values: list[Any] = copy.deepcopy(batch.arrays[0].tolist())
        return values
    arrays = [array if array.flags.writeable else array.copy() for array in batch.arrays]
    return arrays[0] if batch.layout.kind == "tensor" else dict(zip(map(str, batch.layout.names), arrays, strict=True))


def model_params(batch: Batch) -> dict[str, Any] | None:
    """Return the parameters of the call, None if there are none."""
    return json.loads(batch.layout.params) if batch.layout.params else None


def model_output(prediction: Any) -> Output:
    """Normalize the answer of a pyfunc model to numpy's and Python's own types.

    `Output` says which answer becomes which kind. A list of pydantic models is one of dicts. Missing values become
    None, or NaN among floats. Datetimes with a time zone, or with nanoseconds among objects, become ISO 8601 text.

    Raises:
        ModelFailed: the answer, or a part of it, cannot be converted.
    """
    try:
        return _output(prediction)
    except ServingError:
        raise
    except Exception as error:
        raise ModelFailed(f"the model answered a {type(prediction).__name__} that cannot be converted") from error


def _frame(batch: Batch) -> pd.DataFrame:
    """Copy the arrays, into one block if all dtypes are equal, as pyfunc's own enforcement does.

    A writable block came from another process, belongs to this batch alone, and is used without a copy.
    """
    if batch.block is not None and batch.block.flags.writeable:
        return pd.DataFrame(batch.block.T, columns=_labels(batch.layout.names), copy=False)
    arrays = [_with_own_cells(array) for array in batch.arrays]
    if not arrays:
        return pd.DataFrame(index=pd.RangeIndex(batch.count))
    if len(set(batch.layout.dtypes)) == 1:
        return pd.DataFrame(np.stack(arrays).T, columns=_labels(batch.layout.names), copy=False)
    frame = pd.DataFrame(dict(enumerate(arrays)))
    frame.columns = _labels(batch.layout.names)
    return frame


def _with_own_cells(array: Array) -> Array:
    """Copy nested cells: pyfunc's enforcement writes into them, and the gateway may send the batch again."""
    if array.dtype.hasobject and not {dict, list, np.ndarray}.isdisjoint(map(type, array)):
        return copy.deepcopy(array)
    return array


@lru_cache(maxsize=1024)
def _labels(names: tuple[str | int, ...]) -> pd.Index[Any]:
    return pd.Index(names)


def _output(prediction: Any) -> Output:  # noqa: PLR0911  # one line for each kind of answer
    if isinstance(prediction, np.ndarray) and prediction.ndim:  # the usual case
        return _unnamed(_array(prediction))
    if isinstance(prediction, pd.DataFrame):
        if not len(prediction.columns):  # no cell, and so no row in JSON
            return _unnamed(np.empty(0))
        return _named("columns", [(_key(name), _series(series)) for name, series in prediction.items()])
    if isinstance(prediction, pd.Series):
        names = () if prediction.name is None else (_key(prediction.name),)
        array = _series(prediction)
        return Output("series", names, (array,), len(array))
    if isinstance(prediction, Mapping):
        if prediction and all(map(_is_array, prediction.values())):
            return _named("tensors", [(_key(name), _array(values)) for name, values in prediction.items()])
        return _value(prediction)
    if isinstance(prediction, tuple) and prediction and all(map(_is_array, prediction)):
        return _named("tuple", [(f"output_{index}", _array(part)) for index, part in enumerate(prediction)])
    if isinstance(prediction, list) and prediction and all(isinstance(row, Mapping) for row in prediction):
        keys = prediction[0].keys()
        if keys and all(row.keys() == keys for row in prediction):
            return _named("columns", [(_key(key), _flat([_builtin(row[key]) for row in prediction])) for key in keys])
    if hasattr(prediction, "to_pandas"):  # an Arrow table, a Polars frame
        table = prediction.to_pandas()
        if isinstance(table, pd.DataFrame | pd.Series):  # and not another such object, without end
            return _output(table)
    return _unnamed(_array(prediction)) if _is_array(prediction) else _value(prediction)


def _is_array(value: Any) -> bool:
    """Return whether a value has items: a list, a tuple, or anything with a first dimension but a DataFrame."""
    if isinstance(value, list | tuple):
        return True
    return (hasattr(value, "__array__") or hasattr(value, "toarray")) and np.ndim(value) > 0 and not _is_frame(value)


def _is_frame(value: Any) -> bool:
    return isinstance(value, pd.DataFrame)


def _unnamed(array: Array) -> Output:
    return Output("tensor", (), (array,), len(array))


def _value(value: Any) -> Output:
    value = value[()] if isinstance(value, np.ndarray) else value
    plain = value if isinstance(value, np.number | np.bool_) else _builtin(value)
    return Output("value", (), (_clean(np.array([plain])) if isinstance(plain, np.generic) else _flat([plain]),), 1)


def _key(key: Any) -> str:
    """Write a key as MLflow writes it in JSON."""
    if isinstance(key, bool | None):
        return {True: "true", False: "false", None: "null"}[key]
    text: str = _own(str, str(key))
    return text


def _own(kind: type[Any], value: Any) -> Any:
    """Convert an object of a model's own class to Python's type below it, without calling a method of that class."""
    if type(value) is kind:
        return value
    return kind.__getnewargs__(value)[0]


def _named(kind: Literal["columns", "tensors", "tuple"], pairs: Sequence[tuple[str, Array]]) -> Output:
    names = tuple(name for name, _ in pairs)
    if len(set(names)) < len(names):
        raise ModelFailed("the model answered several columns with the same name", {"columns": list(names)})
    return Output(kind, names, tuple(array for _, array in pairs), len(pairs[0][1]))


def _array(values: Any) -> Array:
    """Convert something that `_is_array`. Its first dimension is the rows."""
    if isinstance(values, list | tuple):
        return _list(values)
    if isinstance(values, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        return _series(pd.Series(values))
    if hasattr(values, "toarray"):  # a sparse matrix
        values = values.toarray()
    if isinstance(values, np.ma.MaskedArray):
        masked, values = np.ma.getmaskarray(values), np.ma.getdata(values).astype(object)
        values[masked] = None
    return _clean(np.asarray(values))


def _series(series: pd.Series[Any]) -> Array:
    if isinstance(series.dtype, np.dtype):
        return _clean(series.to_numpy())
    return _flat([_builtin(value) for value in series.tolist()])


def _list(values: Sequence[Any]) -> Array:
    """Convert a list to an array with as many dimensions as its nested lists are regular."""
    kinds = {*map(type, values)}
    if len(kinds) == 1 and issubclass(next(iter(kinds)), np.generic):
        return _clean(np.array(values))
    if kinds == {np.ndarray} and len({(value.dtype, value.shape) for value in values}) == 1:
        return _clean(np.stack(values))
    plain = [_builtin(value) for value in values]
    try:
        shape, flat = flatten(plain, deepest=_DIMENSIONS)
    except Misfit:
        return as_array(plain, np.dtype(object))
    return _flat(flat).reshape(shape)


def _flat(values: list[Any]) -> Array:
    kinds = {*map(type, values)}
    if (int in kinds and len(kinds) > 1) or kinds == {type(None)}:  # as floats, integers would lose digits
        return as_array(values, np.dtype(object))
    return infer_array(values)


def _clean(array: Array) -> Array:
    """Convert an array to the native byte order and to objects that unpickle without pandas."""
    if array.dtype.kind == "O":
        flat = array.ravel().tolist()
        if {*map(type, flat)} <= _CELLS:
            return array
        return as_array([_builtin(value) for value in flat], array.dtype).reshape(array.shape)
    if array.dtype.names:  # records: each is a tuple
        return _list(array.tolist())
    if array.dtype.kind in "cV":
        raise ModelFailed(f"the model answered {array.dtype}, expected numbers, text or datetimes")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _builtin(value: Any) -> Any:  # noqa: PLR0911, PLR0912  # one line for each kind of value
    """Convert a value, and everything in it, to Python's or numpy's own types."""
    if type(value) in _CELLS or type(value) in _UNCHANGED:
        return value
    if value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, pd.Timedelta):
        return value.to_timedelta64()
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            return value.isoformat()
        if isinstance(value, pd.Timestamp):  # unlike numpy's datetimes, ISO 8601 text in JSON
            return value.isoformat() if value.nanosecond else value.to_pydatetime()
        return value
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else value
    if isinstance(value, np.generic):
        return float(value) if isinstance(value, np.floating) else value.item()
    if isinstance(value, Enum):
        return _builtin(value.value)
    if isinstance(value, pd.Period | pd.Interval):
        return str(value)
    if isinstance(value, pd.DataFrame):
        return _builtin(value.to_dict("list"))
    if isinstance(value, Mapping):
        return {_key(key): _builtin(item) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return _builtin(value.model_dump())
    if isinstance(value, list | tuple | set | frozenset):
        return [_builtin(item) for item in value]
    for kind in (int, float, str, bytes):
        if isinstance(value, kind):
            return _own(kind, value)
    if hasattr(value, "__array__"):
        return _array(value) if np.ndim(value) else _builtin(np.asarray(value)[()])
    raise ModelFailed(f"the model answered a value of type {type(value).__name__}, expected numbers or text")
