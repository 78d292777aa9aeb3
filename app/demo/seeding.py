"""Create the demo unless it exists."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from app.adapters.artifacts.locks import lock
from app.demo.data import MODEL
from app.demo.features import build_features, has_features
from app.demo.model import has_model, register
from app.settings import Settings


def is_seeded(settings: Settings) -> bool:
    """Return whether nothing is left for `seed` to do or to say. Return False if in doubt."""
    return _has_own_features(settings) and has_model(settings.registry_uri) and has_features(settings.demo_feast_repo)


def seed(settings: Settings, progress: Callable[[str], None]) -> bool:
    """Register the demo model and build its feature store, unless they exist. Return False if both existed.

    A model or Feast repository of the user's is left alone, and so are aliases once they are set.

    Args:
        progress: receives one line for each slow step.

    Raises:
        RegistryUnavailable: the registry does not respond.
        StartupError: a file or a model of the user's is in the way; the message says which.
    """
    own_features = _has_own_features(settings)
    changed = False
    if not has_model(settings.registry_uri):
        progress(f"preparing the demo model {MODEL} (synthetic data)")
        with lock(settings.home / "demo.lock"), _quiet():
            changed = register(settings, own_features)
    if not own_features:
        progress(f"the feature store in {settings.feast_folder} is used as it is: no demo features")
    elif not has_features(settings.demo_feast_repo):
        progress(f"building the demo's feature store in {settings.demo_feast_repo}")
        with lock(settings.home / "demo.lock"), _quiet():
            build_features(settings.demo_feast_repo)
        changed = True
    return changed


def _has_own_features(settings: Settings) -> bool:
    return settings.feast_repo is None or settings.feast_folder == settings.demo_feast_repo


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the output, logs and warnings of MLflow, Alembic and Feast off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
