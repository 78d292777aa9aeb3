"""The command line ``ml-serve``; `main` is its console script.

`app.cli.remote`, `app.cli.releases` and `app.cli.comparison` have the commands that call a gateway, `app.cli.local`
those that run on this machine, `app.cli.keys` those of
API keys. Each command imports its libraries itself, so that help and small commands start fast.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from app import __version__
from app.cli import comparison, keys, local, releases, remote
from app.cli.errors import EPILOG, report

_COMMANDS = (
    local.up,
    remote.models,
    remote.predict,
    remote.load,
    remote.unload,
    releases.promote,
    releases.rollback,
    releases.traffic,
    comparison.compare,
    remote.status,
    local.demo,
    local.doctor,
)


class _Group(TyperGroup):
    """Command group that turns exceptions into lines on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise  # typer ends the process for these
        except Exception as error:
            if ctx.params["debug"]:
                raise
            raise typer.Exit(report(error)) from None


cli = typer.Typer(
    cls=_Group,
    name="ml-serve",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help, without importing rich
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ml-serve {__version__}")
        raise typer.Exit


@cli.callback()
def _global_options(
    ctx: typer.Context,
    url: remote.GlobalUrl = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Serve models from the MLflow registry with features from Feast."""
    # The commands that call a gateway have the option --url too; this is its default.
    ctx.default_map = {command.__name__: {"url": url} for command in _COMMANDS}


for command in _COMMANDS:
    cli.command()(command)
cli.add_typer(keys.keys, name="keys")


def main() -> None:
    """Run the command line."""
    cli()
