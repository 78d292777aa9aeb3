"""Makes the demo where it is not there yet."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass

from filelock import FileLock

from app.demo.data import COMMODITIES, MODEL, SERVICE
from app.demo.features import build_features, has_features
from app.demo.model import has_model, register
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class DemoSummary:
    """What there is to call. `entities` are ids for `feature_service`; None where a foreign feature store is in use."""

    model: str
    feature_service: str | None
    entities: tuple[str, ...]
    changed: bool


def seed(settings: Settings, progress: Callable[[str], None]) -> DemoSummary:
    """See to it that the demo model is registered and its features can be read; does nothing where they are there.

    A model or a Feast repository that is not the demo's own is left alone, and so are aliases once they are set.

    Args:
        progress: is told what takes time, one line each.

    Raises:
        RegistryUnavailable: the registry does not answer.
        StartupError: something is in the way; the message says what.
    """
    own_features = settings.feast_repo is None or settings.feast_folder == settings.demo_feast_repo
    changed = False
    if not has_model(settings.registry_uri):
        progress(f"preparing the demo model {MODEL} (synthetic data)")
        with _alone(settings), _quiet():
            changed = register(settings, own_features)
    if not own_features:
        progress(f"the feature store in {settings.feast_folder} is used as it is: no demo features")
    elif not has_features(settings.demo_feast_repo):
        progress(f"building the demo's feature store in {settings.demo_feast_repo}")
        with _alone(settings), _quiet():
            build_features(settings.demo_feast_repo)
        changed = True
    return DemoSummary(
        model=MODEL,
        feature_service=SERVICE if own_features else None,
        entities=tuple(COMMODITIES) if own_features else (),
        changed=changed,
    )


def _alone(settings: Settings) -> FileLock:
    """Held while the demo is made, so that two starts do not make it twice."""
    settings.home.mkdir(parents=True, exist_ok=True)
    return FileLock(settings.home / "demo.lock")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MLflow, Alembic and Feast print, log and warn about off the console."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
