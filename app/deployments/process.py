"""What every replica does with its own process: logging and measuring."""

from __future__ import annotations

import logging

import psutil

from app.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Send the product's log lines to the replica's log, which Ray keeps per process."""
    logger = logging.getLogger("app")
    logger.setLevel(settings.log_level.upper())
    serve = logging.getLogger("ray.serve")
    for handler in serve.handlers:
        if handler not in logger.handlers:
            logger.addHandler(handler)
    logger.propagate = False


def memory_bytes() -> int:
    """Resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)
