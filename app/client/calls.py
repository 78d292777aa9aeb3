"""What each method of a client sends and how its answer is read: one function per method, shared by both clients.

The signatures and docstrings here are those of the methods.
"""
# ruff: noqa: PLC0415 - numpy is imported where arrays are sent: rows and everything else need none

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload
from urllib.parse import urlencode

import httpx

from app.client import answers
from app.client.answers import (
    FeatureSource,
    Health,
    Loaded,
    Model,
    ModelMetadata,
    ReplicaUsage,
    Schema,
    Statistics,
    Switched,
    Traffic,
)
from app.client.call import LOAD_WAIT_S, Call, json_call, json_of, path, reads
from app.client.comparisons import Comparison, comparison
from app.client.predictions import Prediction, TensorPrediction, prediction

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
    timeout: float | None = None,
) -> Call[Prediction]: ...


def predict(
    model: str,
    data: Mapping[str, Any] | Iterable[Row] | pd.DataFrame | Array,
    *,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> Call[Prediction] | Call[TensorPrediction]:
    """Predict rows.

    Args:
        model: a registered model's name, or a reference: ``name@alias``, ``name/versions/N``.
        data: one row as an object of columns, or several rows. Values may also be numpy's, dates and bytes. A DataFrame
            or an array is given to `infer`, and answered as there.
        version, alias: one of them, instead of writing a reference.
        params: inference parameters, where the model has them.
        timeout: seconds until the gateway gives up, retries included.

    Raises:
        ValueError, TypeError: a value cannot be sent, NaN in a row among them.
    """
    if hasattr(data, "__array__"):
        arrays = cast("Array", data)
        return infer(model, arrays, version=version, alias=alias, params=params, timeout=timeout)
    instances = [data] if isinstance(data, Mapping) else list(data)
    body = {"instances": instances, "parameters": params}
    return json_call(path(model, version, alias, ":predict"), _prediction, body, timeout)


def predict_inputs(
    model: str,
    inputs: Any,
    *,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> Call[Prediction]:
    """Predict columns or tensors written as JSON, as ``inputs`` are in TensorFlow Serving and MLflow.

    `infer` does the same in binary, which is faster; here null is a value.

    Args:
        inputs: an object with a list of values, nested for a tensor, for each column or tensor; or the only tensor.

    The others are those of `predict`.
    """
    body = {"inputs": inputs, "parameters": params}
    return json_call(path(model, version, alias, ":predict"), _prediction, body, timeout)


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
    return json_call(path(model, version, alias, ":predict"), _prediction, body, timeout)


def infer(
    model: str,
    data: pd.DataFrame | Array | Mapping[str, ArrayLike],
    *,
    outputs: Sequence[str] | None = None,
    version: str | int | None = None,
    alias: str | None = None,
    params: Mapping[str, Any] | None = None,
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
    """
    from app.client import tensors

    content, headers = tensors.request(data, outputs, params, binary)
    return Call("POST", path(model, version, alias, "/infer", root=_V2), tensors.prediction, content, headers, timeout)


def models() -> Call[list[Model]]:
    """Every registered model."""
    return Call("GET", "/v1/models", reads(answers.models))


def model(name: str) -> Call[Model]:
    """One registered model."""
    return Call("GET", path(name), reads(answers.one_model))


def metadata(ref: str) -> Call[ModelMetadata]:
    """The tensors that a version takes and gives; it is loaded where it is not.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", path(ref, root=_V2), reads(answers.metadata), wait=LOAD_WAIT_S)


def schema(ref: str) -> Call[Schema]:
    """JSON Schema of the bodies that a version takes and answers; it is loaded where it is not.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", path(ref, verb="/schema"), reads(answers.schema), wait=LOAD_WAIT_S)


def features(name: str) -> Call[FeatureSource]:
    """What a feature service, or else a feature view of that name, needs and gives."""
    return Call("GET", path(name, root="/v1/features/"), reads(answers.features))


def statistics(ref: str) -> Call[Statistics]:
    """What the gateway has counted for a version.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", path(ref, verb="/stats", root=_V2), reads(answers.statistics))


def compare(name: str, base: str | int, other: str | int) -> Call[Comparison]:
    """Two versions of a model, compared by what the gateway has counted for them.

    Args:
        name: a registered model's name.
        base: alias or number of the version to compare with.
        other: alias or number of the version that is compared.
    """
    query = urlencode({"base": base, "other": other})
    return Call("GET", f"{path(name, verb='/compare')}?{query}", reads(comparison))


def load(ref: str, *, timeout: float | None = None) -> Call[Loaded]:
    """Make a version resident; returns once it is warm on every replica of its pool.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
        timeout: seconds until the gateway gives up, retries included.
    """
    return Call("POST", path(ref, verb=":load"), reads(answers.loaded), deadline=timeout, wait=LOAD_WAIT_S)


def promote(
    name: str,
    version: str | int | None = None,
    *,
    from_alias: str | None = None,
    alias: str | None = None,
    force: bool = False,
    timeout: float | None = None,
) -> Call[Switched]:
    """Warm a version, then move an alias to it in the registry; returns once every gateway replica answers with it.

    Args:
        name: a registered model's name.
        version, from_alias: one of them: the version, or another alias whose version it shall be.
        alias: the alias that is moved; the default one, which is what the bare name means, where it is left out.
        force: move it although the version takes other inputs than the one before, or fails its own example.
        timeout: seconds until the gateway gives up, retries included.
    """
    body = {
        "version": None if version is None else str(version),
        "from": from_alias,
        "alias": alias,
        "force": force or None,
    }
    return json_call(path(name, verb=":promote"), reads(answers.switched), body, timeout, wait=LOAD_WAIT_S)


def rollback(name: str, *, alias: str | None = None, timeout: float | None = None) -> Call[Switched]:
    """Move an alias back to the version that it answered before; a second time changes nothing.

    Args:
        name: a registered model's name.
        alias: the alias that is moved back; the default one where it is left out.
        timeout: seconds until the gateway gives up, retries included.
    """
    return json_call(path(name, verb=":rollback"), reads(answers.switched), {"alias": alias}, timeout, wait=LOAD_WAIT_S)


def traffic(name: str) -> Call[Traffic]:
    """How the calls to a model's bare name are divided among its aliases, and copied to one."""
    return Call("GET", path(name, verb="/traffic"), reads(answers.traffic))


def set_traffic(name: str, weights: Mapping[str, float], *, shadow: str | None = None) -> Call[Traffic]:
    """Divide the calls to a model's bare name; it replaces what was there.

    Args:
        name: a registered model's name.
        weights: percent per alias, 100 together; empty to send all calls to what the bare name means.
        shadow: the alias that gets a copy of each call; none where it is left out.

    Raises:
        ValueError: an alias is called ``shadow``: its weight cannot be told from the alias of the copies.
    """
    if "shadow" in weights:
        raise ValueError("an alias that is called 'shadow' cannot have a weight")
    body = {**weights, "shadow": shadow}
    return json_call(path(name, verb="/traffic"), reads(answers.traffic), body, None, method="PUT")


def unload(ref: str) -> Call[Loaded]:
    """Let a version go from memory; it comes back when it is called or loaded.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("POST", path(ref, verb=":unload"), reads(answers.loaded))


def health() -> Call[Health]:
    """Every part and its state, also when the platform cannot answer requests."""
    return Call("GET", "/health", lambda response: answers.health(json_of(response, 503)))


def ready() -> Call[bool]:
    """Whether the models that should be served are loaded; False too while no replica is up."""
    return Call("GET", "/readyz", lambda response: not response.is_server_error and bool(json_of(response)["status"]))


def status() -> Call[list[ReplicaUsage]]:
    """What every replica takes."""
    return Call("GET", "/v1/status", reads(answers.replicas))


def _prediction(response: httpx.Response) -> Prediction:
    return prediction(json_of(response), response.headers.get("x-request-id"))
