"""Entry point of Ray Serve: ``serve run`` and a RayService's ``serveConfigV2`` import ``app.main:build``."""

from __future__ import annotations

from typing import Any

from app.deployments.application import compose
from app.settings import Settings, load


def build(args: dict[str, Any] | Settings | None = None) -> Any:
    """Build the application for ``serve.run``.

    Args:
        args: settings by name, which override the environment, with groups as objects; or a `Settings`.

    Raises:
        StartupError: a setting is unknown or invalid.
    """
    return compose(args if isinstance(args, Settings) else load(**(args or {})))
