"""Commands that call a gateway for models, predictions and status."""
# ruff: noqa: PLC0415 - help needs no httpx

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from app.cli import inputs, output
from app.cli.errors import FAILED

if TYPE_CHECKING:
    from ml_serve_client import Client, VersionState

T = TypeVar("T")

_URL_HELP = "URL of the gateway."
GlobalUrl = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", envvar="ML_SERVE_URL", help=_URL_HELP, show_default="http://127.0.0.1:8000"),
]
Url = Annotated[str | None, typer.Option("--url", metavar="URL", help=_URL_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="A model: name, name@alias or name/versions/N.")]
Timeout = Annotated[
    float | None, typer.Option(min=0.001, metavar="SECONDS", help="Seconds until the gateway gives up.")
]


def models(url: Url = None, as_json: Json = False) -> None:
    """List the registered models and their versions."""
    with connect(url) as client:
        found = client.models()
    output.show(found, as_json, lambda found: [output.models_table(found) if found else "no registered models"])


def load(ref: Ref, url: Url = None, timeout: Timeout = None, as_json: Json = False) -> None:
    """Load a model version on every replica of its pool."""
    with connect(url) as client:
        output.show(client.load(ref, timeout=timeout), as_json, _state_lines)


def unload(ref: Ref, url: Url = None, as_json: Json = False) -> None:
    """Unload a model version from memory."""
    with connect(url) as client:
        output.show(client.unload(ref), as_json, _state_lines)


def predict(
    ref: Ref,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON",
            help="A row as an object, or a list of rows; '-' or nothing reads standard input. With --entity: columns "
            "that replace those of the feature store.",
        ),
    ] = None,
    *,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Read the JSON from this file.")] = None,
    entity: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Join keys of an entity: KEY=VALUE[,KEY=VALUE] or a JSON object. Repeatable."
        ),
    ] = None,
    feature_service: Annotated[
        str | None, typer.Option(metavar="NAME", help="Feature service that has the columns of the entities.")
    ] = None,
    feature_view: Annotated[
        str | None, typer.Option(metavar="NAME", help="Feature view that has the columns of the entities.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Inference parameter; the value is JSON. Repeatable.")
    ] = None,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Predict rows, or entities from the feature store."""
    if bool(entity) != bool(feature_service or feature_view):
        raise typer.BadParameter("--entity needs --feature-service or --feature-view, and both of them need --entity")
    params = dict(map(inputs.read_pair, param)) if param else None
    with connect(url) as client:
        if entity:
            prediction = client.predict_entities(
                ref,
                [inputs.read_entity(text) for text in entity],
                feature_service=feature_service,
                feature_view=feature_view,
                overrides=inputs.read_object(data, file) if data is not None or file is not None else None,
                params=params,
                timeout=timeout,
            )
        else:
            prediction = client.predict(ref, inputs.read_rows(data, file), params=params, timeout=timeout)
    output.show(prediction, as_json, output.prediction_lines)


def status(url: Url = None, as_json: Json = False) -> None:
    """Show the health of the platform and its memory use."""
    with connect(url) as client:
        health = client.health()
        replicas, no_replicas = _try(client.status)
        found, no_models = _try(client.models)

    def lines(_: object) -> output.Lines:
        yield f"{client.url} is {health.status}{'' if health.ready else ', not ready'}\n"
        yield output.parts_table(health)
        yield ""
        yield f"replicas: {no_replicas}" if replicas is None else output.replicas_table(replicas)
        yield ""
        yield f"models: {no_models}" if found is None else output.models_summary(found)

    output.show({"health": health, "replicas": replicas, "models": found}, as_json, lines)
    if health.status == "unavailable":
        raise typer.Exit(FAILED)


def connect(url: str | None) -> Client:
    """Make a client of the gateway at `url`, by default the one on this machine. It sends the key of the environment.

    A key as an option would be in the list of processes, which others on this machine can read.
    """
    from app.settings.loading import KEY_VARIABLE
    from ml_serve_client import DEFAULT_URL, Client

    try:
        return Client(url or DEFAULT_URL, api_key=os.environ.get(KEY_VARIABLE) or None)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=f"--url or {KEY_VARIABLE}") from None


def _try(call: Callable[[], T]) -> tuple[T | None, str]:
    """Call the gateway and return the result, or None and the error: the other parts are shown nevertheless."""
    from ml_serve_client import ApiError

    try:
        return call(), ""
    except ApiError as error:
        return None, str(error)


def _state_lines(changed: VersionState) -> output.Lines:
    yield f"{changed.model} v{changed.version} is {changed.state}"
