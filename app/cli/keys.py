"""Commands that change the file of API keys on this machine."""
# ruff: noqa: PLC0415 - each command imports what it needs

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from app.cli import output
from app.cli.local import Config
from app.cli.remote import Json

if TYPE_CHECKING:
    from app.adapters.access.keys import ApiKey
    from app.settings import ScopeName

keys = typer.Typer(help="Create, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[
    Path | None,
    typer.Option("--file", dir_okay=False, metavar="FILE", help="Key file. Default: the setting auth.keys_file."),
]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who gets the key; it appears in logs.")],
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE", help="predict, manage or observe. Repeatable. Default: predict.", show_default=False
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Model names that the key may use; * stands for any text. Repeatable. Default: all.",
            show_default=False,
        ),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, metavar="DAYS", help="Days until the key expires.")] = None,
    file: File = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it once: the file has only its hash."""
    from app.adapters.access.keys import create_key

    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    path = _path(file, config)
    scopes = cast("list[ScopeName]", scope or ["predict"])  # `create_key` validates them
    entry, key = create_key(path, name, scopes, model or ("*",), expires)
    shown = {"key": key, **_row(entry)}
    output.show(shown, as_json, lambda _: [f"{key}\n\nKeep it now: it is shown only this once. Id: {entry.id}."])


@keys.command("list")
def list_keys(file: File = None, config: Config = None, as_json: Json = False) -> None:
    """List the keys without their secrets."""
    from app.adapters.access.keys import read_keys

    found = [_row(key) for key in read_keys(_path(file, config))]
    output.show(found, as_json, lambda found: [output.keys_table(found) if found else "no keys"])


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key: the part after mls_.")],
    file: File = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Revoke a key. Gateways refuse it within seconds."""
    from app.adapters.access.keys import revoke_key

    entry = revoke_key(_path(file, config), key_id)
    output.show(_row(entry), as_json, lambda _: [f"revoked {entry.id} of {entry.name}"])


def _path(file: Path | None, config: Path | None) -> Path:
    from app.settings import load

    return file or load(config).keys_path


def _row(key: ApiKey) -> dict[str, object]:
    return key.model_dump(mode="json", exclude={"sha256"})
