"""Commands that run on this machine: start the platform, seed the demo, check the prerequisites."""
# ruff: noqa: PLC0415 - each command imports what it needs: Ray, MLflow or Feast

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli import output
from app.cli.errors import FAILED
from app.cli.remote import Json

Config = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, metavar="FILE", help="YAML file of settings.", show_default=False),
]


def up(
    config: Config = None,
    demo: Annotated[
        bool | None,
        typer.Option(
            "--demo/--no-demo",
            help="Seed the demo model and its features. Default: only with the embedded registry.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the HTTP endpoints.")
    ] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Start the Ray dashboard.")] = False,
) -> None:
    """Run the platform on this machine until Ctrl-C."""
    from app.settings import load

    settings = load(config, http_port=port, dashboard=dashboard or None)
    from app.up import run

    seeded = settings.is_embedded_registry if demo is None else demo
    raise typer.Exit(run(settings, demo=seeded, console=output.console()))


def demo(config: Config = None) -> None:
    """Register the demo model and build its features."""
    from app.settings import load

    settings = load(config)
    from app.demo import COMMODITIES, MODEL, SERVICE, seed

    typer.echo(f"{MODEL} is {'registered' if seed(settings, typer.echo) else 'already registered'}")
    if settings.feast_folder == settings.demo_feast_repo:
        typer.echo(f"feature service {SERVICE} has {len(COMMODITIES)} entities")


def doctor(config: Config = None, as_json: Json = False) -> None:
    """Check whether the platform can start on this machine."""
    from app.settings import load

    settings = load(config)
    from app.doctor import examine

    checks = examine(settings)
    output.show(checks, as_json, lambda checks: [output.checks_table(checks)])
    if not all(check.ok for check in checks):
        raise typer.Exit(FAILED)
