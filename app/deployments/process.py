"""What every replica does with its own process: logging and measuring."""

from __future__ import annotations

import gc
import logging
import sys
import warnings

import psutil
import yaml

from app.settings import Settings

_GC_THRESHOLDS = (50_000, 20, 20)
"""Instead of (700, 10, 10): a round for every thousand requests, not for every ten."""
_HIDDEN = (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning)


def configure_logging(settings: Settings) -> None:
    """Send the product's log lines to the replica's log, which Ray keeps per process."""
    logger = logging.getLogger("app")
    logger.setLevel(settings.log_level.upper())
    serve = logging.getLogger("ray.serve")
    for handler in serve.handlers:
        if handler not in logger.handlers:
            logger.addHandler(handler)
    logger.propagate = False


def prepare_for_models() -> None:
    """Make loads cheap for the predictions beside them; after the imports of libraries and before the first model.

    MLflow reads a model's description three times with PyYAML's Python parser, 17 of the 19 ms that a small model takes
    to load, and no prediction runs meanwhile. The same parser in C answers the same. And what was imported is taken out
    of the garbage collector's rounds, which stop all threads: 84 ms a round before, 0 after.

    Of the filters for warnings only Python's own stay, unless the operator has set some. Libraries add theirs when they
    are imported, 14 by now, and scikit-learn sets up all of them anew for each tree of a forest, on each call.
    """
    if not sys.warnoptions:
        warnings.resetwarnings()
        for category in _HIDDEN:
            warnings.simplefilter("ignore", category)
    if hasattr(yaml, "CSafeLoader"):
        yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment,misc]
    gc.collect()
    gc.freeze()


def memory_bytes() -> int:
    """Resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def prepare_for_requests() -> None:
    """Make garbage collection rare: objects of requests form no cycles, but each of them counts towards a round."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
