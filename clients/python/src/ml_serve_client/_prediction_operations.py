"""Builders of calls that predict: one function per method, shared by both clients.

Both clients take signature and docstring of each method from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

import httpx

from ml_serve_client._call import V2, Call, json_call, json_of, model_path, session_headers
from ml_serve_client._errors import missing_extra
from ml_serve_client._predictions import Prediction, TensorPrediction

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

Row: TypeAlias = Mapping[str, Any] | Sequence[Any]
"""An object of columns, or a list of values for a model that takes an array or has no signature."""


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
        data: one row as an object of columns, or several rows. Values may also be numpy values, dates and bytes. A
            DataFrame or an array is passed to `infer`, and the result is that of `infer`.
        version, alias: one of them, instead of a reference.
        params: inference parameters, where the model declares them.
        session: id of the caller in printable ASCII. Under a traffic split, all calls of a session get the same
            version.
        timeout: seconds until the gateway gives up, retries included.

    Raises:
        ValueError, TypeError: a value has no JSON form, such as NaN; or the session is not a header value.
    """
    if hasattr(data, "__array__"):
        arrays = cast("Array", data)
        return infer(model, arrays, version=version, alias=alias, params=params, session=session, timeout=timeout)
    body = {"instances": [data] if isinstance(data, Mapping) else list(data)}
    path = model_path(model, version, alias, suffix=":predict")
    return _predict_call(path, body, params, session, timeout)


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
    """Predict columns or tensors written as JSON, like ``inputs`` in TensorFlow Serving and MLflow.

    `infer` does the same in binary, which is faster; JSON also has null.

    Args:
        inputs: an object with a list of values, nested for a tensor, for each column or tensor; or the only tensor.

    The others are those of `predict`.
    """
    path = model_path(model, version, alias, suffix=":predict")
    return _predict_call(path, {"inputs": inputs}, params, session, timeout)


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
        feature_service, feature_view: one of them: the source of the columns.
        overrides: columns that replace or extend those of the store: one value for all entities, or a list with one
            value each.

    The others are those of `predict`.
    """
    body = {
        "entities": list(entities),
        "feature_service": feature_service,
        "feature_view": feature_view,
        "overrides": overrides,
    }
    path = model_path(model, version, alias, suffix=":predict")
    return _predict_call(path, body, params, session, timeout)


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
    """Predict arrays, over the Open Inference Protocol. Needs the extra ``numpy``.

    Args:
        data: a DataFrame, whose index is ignored; or an array per column or tensor, by name; or one array, which is the
            model's only tensor, or has the model's columns in their order. The first dimension is the rows. Numbers
            and truth values keep their dtype, text and bytes are sent as BYTES, times as ISO 8601, lists and objects
            as JSON.
        outputs: names of the outputs to return, in this order; by default all of them.
        binary: send and receive numbers in binary; otherwise as JSON.

    The others are those of `predict`.

    Raises:
        ValueError: a column is of a type that no tensor holds, or text or times are missing.
        TypeError: `data` is none of these.
        ImportError: numpy is not installed.
    """
    try:
        from ml_serve_client import _tensors  # noqa: PLC0415 - numpy is an extra
    except ModuleNotFoundError as error:
        raise missing_extra("numpy") from error

    content, headers = _tensors.write_request(data, outputs, params, binary)
    headers |= session_headers(session)
    path = model_path(model, version, alias, root=V2, suffix="/infer")
    return Call("POST", path, _tensors.read_response, content, headers, timeout)


def _predict_call(
    path: str,
    body: Mapping[str, Any],
    params: Mapping[str, Any] | None,
    session: str | None,
    timeout: float | None,
) -> Call[Prediction]:
    return json_call(path, _read_prediction, {**body, "parameters": params}, session=session, deadline_s=timeout)


def _read_prediction(response: httpx.Response) -> Prediction:
    body = json_of(response)
    request_id = response.headers.get("x-request-id")
    return Prediction(body["predictions"], body["model_name"], body["model_version"], body.get("features"), request_id)
