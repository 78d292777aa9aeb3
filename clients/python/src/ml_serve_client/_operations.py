"""Builders of calls that describe or change what is served: one function per method, shared by both clients.

Both clients take signature and docstring of each method from here. `_prediction_operations` has those that predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ml_serve_client._call import LOAD_TIMEOUT_S, V2, Call, json_call, json_of, model_path, reader, reader_of
from ml_serve_client._comparison import Comparison
from ml_serve_client._json import from_json
from ml_serve_client._results import (
    AliasChange,
    FeatureSource,
    Health,
    Model,
    ModelMetadata,
    ReplicaUsage,
    Schema,
    Statistics,
    Traffic,
    VersionState,
    read_health,
    read_statistics,
)


def models() -> Call[list[Model]]:
    """List the registered models."""
    return Call("GET", "/v1/models", reader(lambda body: [from_json(Model, item) for item in body["models"]]))


def model(name: str) -> Call[Model]:
    """Get one registered model."""
    return Call("GET", model_path(name), reader(lambda body: from_json(Model, body["model"])))


def metadata(ref: str) -> Call[ModelMetadata]:
    """Get the input and output tensors of a version; the gateway loads it if necessary.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", model_path(ref, root=V2), reader_of(ModelMetadata), timeout_s=LOAD_TIMEOUT_S)


def schema(ref: str) -> Call[Schema]:
    """Get the JSON Schema of the request and response bodies of a version; the gateway loads it if necessary.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", model_path(ref, suffix="/schema"), reader_of(Schema), timeout_s=LOAD_TIMEOUT_S)


def features(name: str) -> Call[FeatureSource]:
    """Get the join keys and columns of a feature service, or else of a feature view of that name."""
    return Call("GET", model_path(name, root="/v1/features/"), reader_of(FeatureSource))


def statistics(ref: str) -> Call[Statistics]:
    """Get the gateway's counts of a version.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", model_path(ref, root=V2, suffix="/stats"), reader(read_statistics))


def compare(name: str, base: str | int, other: str | int) -> Call[Comparison]:
    """Compare two versions of a model by the gateway's counts.

    Args:
        name: a registered model's name.
        base: alias or number of the version to compare with.
        other: alias or number of the version to compare.
    """
    query = urlencode({"base": base, "other": other})
    return Call("GET", f"{model_path(name, suffix='/compare')}?{query}", reader_of(Comparison))


def load(ref: str, *, timeout: float | None = None) -> Call[VersionState]:
    """Load a version; returns once it is warm on every replica of its pool.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
        timeout: seconds until the gateway gives up, retries included.
    """
    path = model_path(ref, suffix=":load")
    return Call("POST", path, reader_of(VersionState), deadline_s=timeout, timeout_s=LOAD_TIMEOUT_S)


def unload(ref: str) -> Call[VersionState]:
    """Unload a version from memory; the gateway loads it again for the next call.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("POST", model_path(ref, suffix=":unload"), reader_of(VersionState))


def promote(
    name: str,
    version: str | int | None = None,
    *,
    from_alias: str | None = None,
    alias: str | None = None,
    force: bool = False,
    timeout: float | None = None,
) -> Call[AliasChange]:
    """Warm a version and move an alias to it in the registry; returns once every gateway replica serves it.

    Args:
        name: a registered model's name.
        version, from_alias: one of them: the version, or another alias of the version.
        alias: the alias to move; by default the one that the bare name stands for.
        force: promote a version that takes other inputs than the live one, or fails its own input example.
        timeout: seconds until the gateway gives up, retries included.
    """
    body = {
        "version": None if version is None else str(version),
        "from": from_alias,
        "alias": alias,
        "force": force or None,
    }
    return _alias_call(name, ":promote", body, timeout)


def rollback(name: str, *, alias: str | None = None, timeout: float | None = None) -> Call[AliasChange]:
    """Move an alias back to its previous version; a second rollback changes nothing.

    Args:
        name: a registered model's name.
        alias: the alias to move back; by default the one that the bare name stands for.
        timeout: seconds until the gateway gives up, retries included.
    """
    return _alias_call(name, ":rollback", {"alias": alias}, timeout)


def traffic(name: str) -> Call[Traffic]:
    """Get the traffic split and the shadow of a model's bare name."""
    return Call("GET", model_path(name, suffix="/traffic"), reader_of(Traffic))


def set_traffic(name: str, weights: Mapping[str, float], *, shadow: str | None = None) -> Call[Traffic]:
    """Replace the traffic split and the shadow of a model's bare name.

    Args:
        name: a registered model's name.
        weights: percent per alias, 100 together; empty for no split.
        shadow: the alias that receives a copy of each call; None for no shadow.

    Raises:
        ValueError: an alias is called ``shadow``, which the request reserves.
    """
    if "shadow" in weights:
        raise ValueError("an alias that is called 'shadow' cannot have a weight")
    body = {**weights, "shadow": shadow}
    return json_call(model_path(name, suffix="/traffic"), reader_of(Traffic), body, method="PUT")


def health() -> Call[Health]:
    """Get the health of every part, also while the platform cannot answer requests."""
    return Call("GET", "/health", lambda response: read_health(json_of(response, 503)))


def ready() -> Call[bool]:
    """Check whether the models that should be served are loaded; False also while no replica is up."""
    return Call("GET", "/readyz", lambda response: not response.is_server_error and bool(json_of(response)["status"]))


def status() -> Call[list[ReplicaUsage]]:
    """Get the memory that each replica uses."""
    return Call("GET", "/v1/status", reader(lambda body: [from_json(ReplicaUsage, item) for item in body["replicas"]]))


def _alias_call(name: str, verb: str, body: Mapping[str, Any], timeout: float | None) -> Call[AliasChange]:
    path = model_path(name, suffix=verb)
    return json_call(path, reader_of(AliasChange), body, deadline_s=timeout, timeout_s=LOAD_TIMEOUT_S)
