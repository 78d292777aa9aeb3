"""Builders of calls that describe or change what is served: one function per method, shared by both clients.

Both clients take signature and docstring of each method from here. `_prediction_operations` has those that predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlencode

from ml_serve_client import _results
from ml_serve_client._call import LOAD_WAIT_S, Call, json_call, json_of, path, reads
from ml_serve_client._comparison import Comparison, comparison
from ml_serve_client._results import (
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

_V2 = "/v2/models/"


def models() -> Call[list[Model]]:
    """Every registered model."""
    return Call("GET", "/v1/models", reads(_results.models))


def model(name: str) -> Call[Model]:
    """One registered model."""
    return Call("GET", path(name), reads(_results.one_model))


def metadata(ref: str) -> Call[ModelMetadata]:
    """The tensors that a version takes and gives; it is loaded where it is not.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", path(ref, root=_V2), reads(_results.metadata), wait=LOAD_WAIT_S)


def schema(ref: str) -> Call[Schema]:
    """JSON Schema of the bodies that a version takes and answers; it is loaded where it is not.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", path(ref, verb="/schema"), reads(_results.schema), wait=LOAD_WAIT_S)


def features(name: str) -> Call[FeatureSource]:
    """What a feature service, or else a feature view of that name, needs and gives."""
    return Call("GET", path(name, root="/v1/features/"), reads(_results.features))


def statistics(ref: str) -> Call[Statistics]:
    """What the gateway has counted for a version.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("GET", path(ref, verb="/stats", root=_V2), reads(_results.statistics))


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
    return Call("POST", path(ref, verb=":load"), reads(_results.loaded), deadline=timeout, wait=LOAD_WAIT_S)


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
    return json_call(path(name, verb=":promote"), reads(_results.switched), body, timeout, wait=LOAD_WAIT_S)


def rollback(name: str, *, alias: str | None = None, timeout: float | None = None) -> Call[Switched]:
    """Move an alias back to the version that it answered before; a second time changes nothing.

    Args:
        name: a registered model's name.
        alias: the alias that is moved back; the default one where it is left out.
        timeout: seconds until the gateway gives up, retries included.
    """
    return json_call(
        path(name, verb=":rollback"), reads(_results.switched), {"alias": alias}, timeout, wait=LOAD_WAIT_S
    )


def traffic(name: str) -> Call[Traffic]:
    """How the calls to a model's bare name are divided among its aliases, and copied to one."""
    return Call("GET", path(name, verb="/traffic"), reads(_results.traffic))


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
    return json_call(path(name, verb="/traffic"), reads(_results.traffic), body, None, method="PUT")


def unload(ref: str) -> Call[Loaded]:
    """Let a version go from memory; it comes back when it is called or loaded.

    Args:
        ref: a model's name, ``name@alias`` or ``name/versions/N``.
    """
    return Call("POST", path(ref, verb=":unload"), reads(_results.loaded))


def health() -> Call[Health]:
    """Every part and its state, also when the platform cannot answer requests."""
    return Call("GET", "/health", lambda response: _results.health(json_of(response, 503)))


def ready() -> Call[bool]:
    """Whether the models that should be served are loaded; False too while no replica is up."""
    return Call("GET", "/readyz", lambda response: not response.is_server_error and bool(json_of(response)["status"]))


def status() -> Call[list[ReplicaUsage]]:
    """What every replica takes."""
    return Call("GET", "/v1/status", reads(_results.replicas))
