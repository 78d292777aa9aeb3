"""The commands that call a gateway."""
# ruff: noqa: PLC0415 - httpx and rich are imported where they are used: help needs neither

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from app.cli import inputs
from app.cli.failures import FAILED

if TYPE_CHECKING:
    from ml_serve_client import Client

T = TypeVar("T")

_URL_HELP = "Where the gateway is."
GlobalUrl = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", envvar="ML_SERVE_URL", help=_URL_HELP, show_default="http://127.0.0.1:8000"),
]
Url = Annotated[str | None, typer.Option("--url", metavar="URL", help=_URL_HELP)]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON document.")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="A model: name, name@alias or name/versions/N.")]
Timeout = Annotated[
    float | None, typer.Option(min=0.001, metavar="SECONDS", help="Seconds until the gateway gives up.")
]


def models(url: Url = None, as_json: Json = False) -> None:
    """List the registered models and their versions."""
    with connect(url) as client:
        found = client.models()
    from app.cli import output

    if as_json:
        output.print_json([asdict(model) for model in found])
    elif found:
        output.console().print(output.models_table(found))
    else:
        output.console().print("no registered models")


def load(ref: Ref, url: Url = None, timeout: Timeout = None, as_json: Json = False) -> None:
    """Load a model version on every replica of its pool."""
    with connect(url) as client:
        _tell(client.load(ref, timeout=timeout), as_json)


def unload(ref: Ref, url: Url = None, as_json: Json = False) -> None:
    """Let a model version go from memory."""
    with connect(url) as client:
        _tell(client.unload(ref), as_json)


def predict(
    ref: Ref,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="JSON",
            help="A row as an object, or a list of rows; '-' or nothing reads standard input. With --entity: columns "
            "that replace the feature store's.",
        ),
    ] = None,
    *,
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="Read the JSON from this file.")] = None,
    entity: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An entity: KEY=VALUE[,KEY=VALUE] or a JSON object. Repeatable."),
    ] = None,
    feature_service: Annotated[
        str | None, typer.Option(metavar="NAME", help="Feature service to read the entities from.")
    ] = None,
    feature_view: Annotated[
        str | None, typer.Option(metavar="NAME", help="Feature view to read the entities from.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An inference parameter, as JSON. Repeatable.")
    ] = None,
    timeout: Timeout = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Predict rows, or entities of the feature store."""
    if bool(entity) != bool(feature_service or feature_view):
        raise typer.BadParameter("--entity goes with --feature-service or --feature-view, and they with it")
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
    from app.cli import output

    if as_json:
        output.print_json(asdict(prediction))
    else:
        output.print_prediction(prediction)


def status(url: Url = None, as_json: Json = False) -> None:
    """Show the state of the platform and what it takes."""
    with connect(url) as client:
        health = client.health()
        replicas, no_replicas = _try(client.status)
        found, no_models = _try(client.models)
    from app.cli import output

    if as_json:
        output.print_json(
            {
                "health": asdict(health),
                "replicas": None if replicas is None else [asdict(usage) for usage in replicas],
                "models": None if found is None else [asdict(model) for model in found],
            }
        )
    else:
        console = output.console()
        console.print(f"{client.url} is {health.status}{'' if health.ready else ', not ready'}\n")
        console.print(output.parts_table(health))
        console.print()
        console.print(f"replicas: {no_replicas}" if replicas is None else output.replicas_table(replicas))
        console.print()
        console.print(f"models: {no_models}" if found is None else output.models_summary(found))
    if health.status == "unavailable":
        raise typer.Exit(FAILED)


def connect(url: str | None) -> Client:
    """A client of the gateway at `url`, or where it is by default."""
    from ml_serve_client import Client

    try:
        return Client(url) if url else Client()
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def _try(call: Callable[[], T]) -> tuple[T | None, str]:
    """The answer, or why there is none: one part that fails shall not hide what the others say."""
    from ml_serve_client import ApiError

    try:
        return call(), ""
    except ApiError as error:
        return None, str(error)


def _tell(loaded: Any, as_json: bool) -> None:
    from app.cli import output

    if as_json:
        output.print_json(asdict(loaded))
    else:
        output.console().print(f"{loaded.model} v{loaded.version} is {loaded.state}")
