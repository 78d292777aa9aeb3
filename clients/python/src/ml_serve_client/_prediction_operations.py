"""Builders of calls that predict: one function per method, shared by both clients.

Both clients take signature and docstring of each method from here.
"""
# ruff: noqa: PLC0415 - numpy is imported where arrays are sent: rows and everything else need none

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import httpx

from ml_serve_client._call import Call, json_call, json_of, path, session_headers
from ml_serve_client._errors import missing_extra
from ml_serve_client._predictions import Prediction, TensorPrediction, prediction

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Row: TypeAlias = Mapping[str, Any] | Sequence[Any]
"""An object of columns, or a list of values for a model that takes an array or has no signature."""
_V2 = "/v2/models/"


@overload
def predict(
    model: str,
    data: pd.DataFrame | Array,
    *,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    session: str | None = None,
    timeout: float | None = None,
) -> Call[TensorPrediction]: ...


@overload
def predict(
    model: str,
    data: Mapping[str, Any] | Iterable[Row],
    *,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    session: str | None = None,
    timeout: float | None = None,
) -> Call[Prediction]: ...


def predict(
    model: str,
    data: Mapping[str, Any] | Iterable[Row] | pd.DataFrame | Array,
    *,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    session: str | None = None,
    timeout: float | None = None,
) -> Call[Prediction] | Call[TensorPrediction]:
    """Predict rows.

    Args:
        model: a registered model's name, or a reference: ``name@alias``, ``name/versions/N``.
        data: one row as an object of columns, or several rows. Values may also be numpy's, dates and bytes. A DataFrame
            or an array is given to `infer`, and answered as there.
        version, alias: one of them, instead of writing a reference.
        params: inference parameters, where the model has them.
        session: whatever names the caller, in printable ASCII: where the calls to the model's name are divided among
            versions, it stays with one of them.
        timeout: seconds until the gateway gives up, retries included.

    Raises:
        ValueError, TypeError: a value or the session cannot be sent, NaN in a row among them.
    """
    if hasattr(data, "__array__"):
        arrays = cast("Array", data)
        return infer(model, arrays, version=version, alias=alias, params=params, session=session, timeout=timeout)
    instances = [data] if isinstance(data, Mapping) else list(data)
    body = {"instances": instances, "parameters": params}
    return json_call(path(model, version, alias, ":predict"), _prediction, body, timeout, session=session)


def predict_inputs(
    model: str,
    inputs: Any,
    *,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    session: str | None = None,
    timeout: float | None = None,
) -> Call[Prediction]:
    """Predict columns or tensors written as JSON, as ``inputs`` are in TensorFlow Serving and MLflow.

    `infer` does the same in binary, which is faster; here null is a value.

    Args:
        inputs: an object with a list of values, nested for a tensor, for each column or tensor; or the only tensor.

    The others are those of `predict`.
    """
    body = {"inputs": inputs, "parameters": params}
    return json_call(path(model, version, alias, ":predict"), _prediction, body, timeout, session=session)


def predict_entities(
    model: str,
    entities: Sequence[Mapping[str, Any]],
    *,
    feature_service: str | None = None,
    feature_view: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    session: str | None = None,
    timeout: float | None = None,
) -> Call[Prediction]:
    """Predict entities, whose columns the gateway reads from the feature store.

    Args:
        entities: one object of join keys per row.
        feature_service, feature_view: one of them: where the columns are read.
        overrides: columns that replace or add to the store's: one value for all entities, or a list with one each.

    The others are those of `predict`.
    """
    body = {
        "entities": list(entities),
        "feature_service": feature_service,
        "feature_view": feature_view,
        "overrides": overrides,
        "parameters": params,
    }
    return json_call(path(model, version, alias, ":predict"), _prediction, body, timeout, session=session)


def infer(
    model: str,
    data: pd.DataFrame | Array | Mapping[str, ArrayLike],
    *,
    outputs: Sequence[str] | None = None,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    session: str | None = None,
    timeout: float | None = None,
    binary: bool = True,
) -> Call[TensorPrediction]:
    """Predict arrays, over the Open Inference Protocol.

    Args:
        data: a DataFrame, whose index is ignored; or an array per column or tensor, by name; or one array, which is the
            model's only tensor where that has no name, or has the model's columns in their order. The first dimension
            is the rows. Numbers and truth values keep their type, text and bytes are BYTES, times are sent as ISO 8601,
            lists and objects as JSON.
        outputs: names of the outputs that are wanted, in this order; all of them where it is left out.
        binary: send and receive numbers as they are in memory; else as JSON.

    The others are those of `predict`.

    Raises:
        ValueError: a column is of a type that no tensor holds, or its text or times have missing values.
        TypeError: `data` is none of these.
        ImportError: numpy is not installed.
    """
    try:
        from ml_serve_client import _tensors
    except ModuleNotFoundError as error:
        raise missing_extra("numpy") from error

    content, headers = _tensors.request(data, outputs, params, binary)
    headers |= session_headers(session)
    return Call("POST", path(model, version, alias, "/infer", root=_V2), _tensors.prediction, content, headers, timeout)


def _prediction(response: httpx.Response) -> Prediction:
    return prediction(json_of(response), response.headers.get("x-request-id"))
