"""The only wiring: `build` composes the deployments into one Ray Serve application.

Importable as ``app.main:build`` by ``serve run`` and by a RayService's ``serveConfigV2``.
"""

from __future__ import annotations

from typing import Any

from app.deployments.application import compose
from app.settings import Settings, load


def build(args: dict[str, Any] | Settings | None = None) -> Any:
    """The application, ready for ``serve.run``.

    Args:
        args: settings by name, stronger than the environment; nested ones as objects. Or settings already built.

    Raises:
        StartupError: a setting is unknown or bad.
    """
    return compose(args if isinstance(args, Settings) else load(**(args or {})))
