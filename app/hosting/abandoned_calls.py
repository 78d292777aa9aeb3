"""Calls that go on after their callers have left, and the versions whose calls do not end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from app.serving.ports import Model
from app.serving.references import ModelVersion

_STUCK_S = 10.0
"""Seconds that a call may go on after its caller has left, at its deadline for instance."""


class AbandonedCalls:
    """Watches calls in threads whose callers have left. Use it on one event loop.

    Args:
        stuck: called with the version and the model of a call that goes on for ten seconds after its caller has left.
    """

    def __init__(self, stuck: Callable[[ModelVersion, Model], None]) -> None:
        self._stuck = stuck

    def add(self, version: ModelVersion, model: Model, work: Future[Any]) -> None:
        """Watch a call to a model whose caller leaves."""
        asyncio.get_running_loop().call_later(_STUCK_S, self._look, version, model, work)

    def _look(self, version: ModelVersion, model: Model, work: Future[Any]) -> None:
        if not work.done():
            self._stuck(version, model)
