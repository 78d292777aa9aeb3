"""Prove on the input example that a loaded model is row-wise: see `app.serving.batching_contract`.

The example's rows are predicted alone, together, and repeated in another order. One example row says little, so two
rows are made of it: one with other values, and one with missing numbers, which a model may fill from other rows.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc import PyFuncModel

from app.adapters.mlflow.model_io import model_output
from app.serving.batching.short_calls import COMPUTING
from app.serving.batching_contract import BatchingContract
from app.serving.rows import Array, Output, as_array, join

MAX_ROWS = 4
"""Example rows that are predicted."""

SLOW_S = 2.0
"""Seconds of one prediction above which nothing is proven: a proof takes about eight predictions."""

_TOLERANCES = {8: 1e-7}
_TOLERANCE = 1e-4
"""Difference of two floats, as a share of the largest one, that is due to the order in which a library adds: for 64
bits, and for fewer. Everything else must be equal."""

_ADVICE = "; if each row's answer depends on that row alone, declare it with the tag serving.batch.row_wise=true"

Predict = Callable[[Any], Output]


class _Contradiction(Exception):
    """The reason why a model is not row-wise, as a sentence without its subject."""


def examine(model: PyFuncModel, flavor: str, folder: Path) -> BatchingContract:
    """Return what the model's input example, else its flavor, says about it. Predicts several times.

    Args:
        flavor: MLflow's flavor of the model.
        folder: its artifacts.
    """
    inputs = model.metadata.get_input_schema()
    if inputs is not None and inputs.is_tensor_spec() and any(one.shape[0] != -1 for one in inputs.inputs):
        return BatchingContract(reason="its signature fixes the number of rows in a call")
    try:
        example, params = model.input_example, model.metadata.load_input_example_params(str(folder))
        found = _proof(lambda rows: _answer(model, rows, params), example) if example is not None else "it has none"
    except _Contradiction as contradiction:
        return BatchingContract(basis="disproved", reason=str(contradiction))
    except BaseException as error:
        found = f"it raised {type(error).__name__}"
    if found is None:
        return BatchingContract(row_wise=True, basis="proven")
    if flavor in COMPUTING:
        return BatchingContract(row_wise=True, basis="flavor")
    return BatchingContract(reason=f"no input example proves that it predicts row by row: {found}{_ADVICE}")


def _answer(model: PyFuncModel, rows: Any, params: Mapping[str, Any] | None) -> Output:
    count = _count(rows)
    output = model_output(model.predict(rows, params=dict(params) if params else None))
    if count is None or not output.has_rows(count):
        raise _Contradiction(f"it answered {output.amount} for {count} rows")
    return output


def _proof(predict: Predict, example: Any) -> str | None:
    """Return None if the model is row-wise, or why the example proves nothing. Raises `_Contradiction`."""
    count = _count(example)
    if count is None:
        return f"it is a {type(example).__name__}"
    rows = [_take(example, [index]) for index in range(min(count, MAX_ROWS))]
    alone = []
    for row in rows:
        started = time.monotonic()
        alone.append(predict(_concatenate([row])))
        if time.monotonic() - started > SLOW_S:
            return f"one prediction takes more than {SLOW_S:g} s"
    for row in (_changed(rows[0], _other), _changed(rows[0], _emptied)):
        try:
            alone.append(predict(_concatenate([row])))
            rows.append(row)
        except _Contradiction:
            raise
        except BaseException:
            _must_fail(predict, [rows[0], row])
    if all(_is_equal(row, rows[0]) for row in rows):
        return "its rows are equal, and the model does not take other values"
    expected = join(alone)
    for order in ([*range(len(rows))], [*reversed(range(len(rows))), *range(len(rows))]):
        _compare(predict(_concatenate([rows[index] for index in order])), expected, order)
    return None


def _must_fail(predict: Predict, rows: Sequence[Any]) -> None:
    """Check that a row that fails alone fails beside another one too."""
    try:
        predict(_concatenate(rows))
    except _Contradiction:
        raise
    except BaseException:
        return
    raise _Contradiction("it predicts a row beside another one that it does not predict alone")


def _compare(together: Output, alone: Output, order: Sequence[int]) -> None:
    same = (together.kind, together.names) == (alone.kind, alone.names) and all(
        _same(one, other[list(order)]) for one, other in zip(together.arrays, alone.arrays, strict=True)
    )
    if not same:
        raise _Contradiction("it answers rows of its input example differently alone and together")


def _same(first: Array, second: Array) -> bool:
    if first.shape != second.shape:
        return False
    if first.dtype.hasobject or second.dtype.hasobject:
        return all(map(_same_value, first.ravel().tolist(), second.ravel().tolist()))
    if "f" in (first.dtype.kind, second.dtype.kind) and {first.dtype.kind, second.dtype.kind} <= set("fiub"):
        finite = np.abs(second[np.isfinite(second)])
        tolerance = _TOLERANCES.get(min(first.dtype.itemsize, second.dtype.itemsize), _TOLERANCE)
        largest = float(finite.max()) if finite.size else 0.0
        return bool(np.allclose(first, second, rtol=tolerance, atol=tolerance * largest, equal_nan=True))
    return bool(np.array_equal(first, second))


def _same_value(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same_value(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same_value, first, second))
    if (isinstance(first, float) and isinstance(second, float | int)) or isinstance(first, np.ndarray):
        return _same(np.asarray(first), np.asarray(second))
    return bool(first == second)


def _count(rows: Any) -> int | None:
    """Return the number of rows; None for an input that has none to take."""
    if isinstance(rows, pd.DataFrame | list) or (isinstance(rows, np.ndarray) and rows.ndim):
        return len(rows)
    if isinstance(rows, Mapping) and rows and all(isinstance(one, np.ndarray) and one.ndim for one in rows.values()):
        lengths = {len(one) for one in rows.values()}
        return lengths.pop() if len(lengths) == 1 else None
    return None


def _take(rows: Any, indices: Sequence[int]) -> Any:
    if isinstance(rows, pd.DataFrame):
        return rows.iloc[list(indices)].reset_index(drop=True)
    if isinstance(rows, Mapping):
        return {name: one[list(indices)] for name, one in rows.items()}
    return rows[list(indices)] if isinstance(rows, np.ndarray) else [rows[index] for index in indices]


def _concatenate(rows: Sequence[Any]) -> Any:
    """Put rows together in a copy of their own: the model may write into it."""
    if isinstance(rows[0], pd.DataFrame):
        return pd.concat(copy.deepcopy(list(rows)), ignore_index=True)
    if isinstance(rows[0], Mapping):
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return (
        np.concatenate(rows) if isinstance(rows[0], np.ndarray) else [copy.deepcopy(one) for row in rows for one in row]
    )


def _is_equal(first: Any, second: Any) -> bool:
    if isinstance(first, pd.DataFrame):
        return bool(first.equals(second))
    if isinstance(first, Mapping):
        return all(np.array_equal(first[name], second[name]) for name in first)
    return bool(np.array_equal(first, second)) if isinstance(first, np.ndarray) else bool(first == second)


def _changed(row: Any, change: Callable[[Array], Array]) -> Any:
    """Return a row whose values have changed, but not their types."""
    if isinstance(row, pd.DataFrame):
        changed = {name: pd.Series(change(row[name].to_numpy()), dtype=row[name].dtype) for name in row.columns}
        return pd.DataFrame(changed)
    if isinstance(row, Mapping):
        return {name: change(one) for name, one in row.items()}
    return change(row) if isinstance(row, np.ndarray) else [_changed_inside(one, change) for one in row]


def _changed_inside(value: Any, change: Callable[[Array], Array]) -> Any:
    if isinstance(value, Mapping):
        return {key: _changed_inside(one, change) for key, one in value.items()}
    if isinstance(value, list):
        return [_changed_inside(one, change) for one in value]
    return change(np.array([value], dtype=None if isinstance(value, bool | int | float) else object)).tolist()[0]


def _other(values: Array) -> Array:
    """Return other values."""
    kind = values.dtype.kind
    if kind == "f":
        return np.where(np.isnan(values), 1, values * 1.5 + 1).astype(values.dtype)
    if kind in "iu":
        return np.where(values > 0, values - 1, values + 1).astype(values.dtype)
    if kind == "b":
        return ~values
    if kind == "M":
        return values + np.timedelta64(1, "D")
    if kind == "O":
        return as_array([_other_object(value) for value in values.ravel().tolist()], values.dtype).reshape(values.shape)
    return values


def _other_object(value: Any) -> Any:
    if isinstance(value, str):
        return f"{value} {value}" if value else "a"
    return _other(np.array([value]))[0].item() if isinstance(value, bool | int | float) else value


def _emptied(values: Array) -> Array:
    """Return values whose floats are missing."""
    return np.full_like(values, np.nan) if values.dtype.kind == "f" else values
