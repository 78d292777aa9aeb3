"""Feast's online store, read in blocking calls: the Features deployment makes them in worker threads.

Every query is resolved once (`app.adapters.feast.plan`); after that a read is one call of Feast and takes no lock.

Feast fetches an expired registry cache again inside some caller's read, which a registry that is down then fails. Here
the cache never expires by itself: a thread of its own renews it when its time is over, and until that has worked reads
go on with the definitions that are known.

Feast refuses to read a view that is being materialised, and so do we, unless ``serve_features_while_materializing`` is
set under ``registry`` in ``feature_store.yaml``.
"""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from feast import FeatureStore
from feast.errors import FeastError, FeastObjectNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.repo_config import FeastConfigError, RegistryConfig

from app.adapters.feast.entities import SAMPLES, entity_columns
from app.adapters.feast.plan import FeaturePlan, definitions_stamp, resolve
from app.errors import FeatureSourceNotFound, FeatureStoreUnavailable, StartupError
from app.serving.features import FeatureQuery, FeatureRows, FeatureSource

log = logging.getLogger(__name__)

_NAMES_SHOWN = 10
_RETRY_S = 30.0  # after a renewal that did not work
_RECHECK_S = 5.0  # after definitions that forbid a read; what forbids it mostly passes


class FeatureNames(NamedTuple):
    """What can be asked for: feature views of every kind, and feature services; each sorted."""

    views: tuple[str, ...]
    services: tuple[str, ...]


class FeastStore:
    """One Feast repository, read. Every method blocks and may be called from many threads.

    Args:
        folder: holds ``feature_store.yaml``. Nothing is connected to before the first call.

    Raises:
        StartupError: the repository is not there, or its configuration cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._store, registry = _open(folder)
        self._ttl_s = 0.0
        if (registry.registry_type, registry.cache_mode) != ("sql", "thread"):  # these renew themselves, in a thread
            self._ttl_s = float(registry.cache_ttl_seconds)
            registry.cache_ttl_seconds = 0
        self._renew_at = time.monotonic() + self._ttl_s
        self._renewing = threading.Lock()
        self._plans: dict[FeatureQuery, FeaturePlan] = {}

    def source(self, query: FeatureQuery) -> FeatureSource:
        """What a view or service needs and gives.

        The join keys come first, then the values that its on-demand feature views take from the request. Two features
        of one name in a service are called ``view__feature``, as Feast does it; all others by their bare name.

        Raises:
            FeatureSourceNotFound: no such view or service.
            FeatureStoreUnavailable: the definitions cannot be read.
        """
        return self._plan(query).source

    def read(self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]]) -> FeatureRows:
        """Features of each entity, in one call of Feast. An entity that the store does not know is no error.

        Raises:
            FeatureSourceNotFound: no such view or service.
            InvalidInput: an entity lacks a key, has an unknown one, or a value that does not fit the key's type.
            FeatureStoreUnavailable: the store does not answer, or cannot serve the view now.
        """
        plan = self._plan(query)
        values = entity_columns(entities, plan.keys, plan.nullable)
        if not entities:
            return FeatureRows({name: [] for name in plan.columns}, [])
        if not values:  # a view without entity; Feast counts the rows by its stand-in
            values = {DUMMY_ENTITY_ID: [DUMMY_ENTITY_VAL] * len(entities)}
        try:
            response = self._store.get_online_features(plan.request, values, full_feature_names=plan.full_names)
            return plan.rows(response, len(entities))
        except Exception as error:
            if _is_not_servable(error):
                self._renew_at = min(self._renew_at, time.monotonic() + _RECHECK_S)
            raise FeatureStoreUnavailable(_why_not_read(query, error), _details(query)) from error

    def names(self) -> FeatureNames:
        """Every feature view and service. Raises `FeatureStoreUnavailable`."""
        try:
            registry, project = self._store.registry, self._store.project
            views = registry.list_all_feature_views(project, allow_cache=True)
            services = registry.list_feature_services(project, allow_cache=True)
        except Exception as error:
            raise FeatureStoreUnavailable("the definitions in the feature store's registry cannot be read") from error
        return FeatureNames(
            tuple(sorted(view.name for view in views)), tuple(sorted(service.name for service in services))
        )

    def refresh(self) -> None:
        """Read the definitions anew. Raises `FeatureStoreUnavailable`, and those known stay in force."""
        try:
            self._store.refresh_registry()
        except Exception as error:
            raise FeatureStoreUnavailable("the definitions in the feature store's registry cannot be read") from error
        self._plans = {}

    def check(self) -> None:
        """Reach the registry and the online store: read the definitions, and some row of one view.

        Raises:
            StartupError: the online store cannot be used here, for instance because its library is not installed.
            FeatureStoreUnavailable: the registry or the online store does not answer.
        """
        try:
            _ = self._store.provider
        except Exception as error:
            raise StartupError(f"the feature store cannot be opened: {_first_line(error)}") from error
        for name in self.names().views:
            query = FeatureQuery(view=name, service=None)
            row = {key: SAMPLES.get(kind) for key, kind in self._plan(query).keys.items()}
            if None in row.values():
                continue
            try:
                self.read(query, [row])
            except FeatureStoreUnavailable as error:
                if not _is_not_servable(error.__cause__):
                    raise
            else:
                return

    def _plan(self, query: FeatureQuery) -> FeaturePlan:
        if self._ttl_s and time.monotonic() >= self._renew_at and self._renewing.acquire(blocking=False):
            threading.Thread(target=self._renew, name="feast-registry", daemon=True).start()
        plan = self._plans.get(query)
        if plan is None or plan.stamp != definitions_stamp(self._store):
            plan = self._plans[query] = self._resolve(query)
        return plan

    def _renew(self) -> None:
        pause = min(self._ttl_s, _RETRY_S)
        try:
            self.refresh()
            pause = self._ttl_s
        except FeatureStoreUnavailable as error:
            log.warning("%s; those known stay in force", error.message, exc_info=True)
        finally:
            self._renew_at = time.monotonic() + pause
            self._renewing.release()

    def _resolve(self, query: FeatureQuery) -> FeaturePlan:
        try:
            return resolve(self._store, query)
        except FeastObjectNotFoundException as error:
            raise self._not_found(query) from error
        except Exception as error:
            raise FeatureStoreUnavailable(f"the definition of {query} cannot be read", _details(query)) from error

    def _not_found(self, query: FeatureQuery) -> FeatureSourceNotFound | FeatureStoreUnavailable:
        names = self.names()
        wanted = str(query.view or query.service)
        known, others = (names.views, names.services) if query.view else (names.services, names.views)
        if wanted in known:
            return FeatureStoreUnavailable(f"{query} is made from one that is not defined any more", _details(query))
        close = difflib.get_close_matches(wanted, known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        if wanted in others:
            hint = f"; there is a {'feature service' if query.view else 'feature view'} of that name"
        shown = ", ".join(known[:_NAMES_SHOWN]) or "none"
        more = f" and {len(known) - _NAMES_SHOWN} more" if len(known) > _NAMES_SHOWN else ""
        return FeatureSourceNotFound(f"there is no {query}{hint} (there are: {shown}{more})", _details(query))


def _open(folder: Path) -> tuple[FeatureStore, RegistryConfig]:
    file = folder / "feature_store.yaml"
    try:
        # The file is named: Feast would otherwise prefer the one that its own environment variable names.
        store = FeatureStore(repo_path=str(folder), fs_yaml_file=file)
        registry = store.config.registry
    except OSError as error:
        raise StartupError(f"cannot read the Feast configuration {file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise StartupError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    except (FeastConfigError, FeastError, TypeError, ValueError) as error:
        raise StartupError(f"{file} is not a Feast configuration: {_first_line(error)}") from error
    return store, registry


def _details(query: FeatureQuery) -> dict[str, str]:
    return {"feature_view": query.view} if query.view else {"feature_service": str(query.service)}


def _why_not_read(query: FeatureQuery, error: Exception) -> str:
    if _is_not_servable(error):
        return f"{query} cannot be served now: a view in it is disabled, or is being materialised"
    return f"{query} cannot be read from the feature store now"


def _is_not_servable(error: BaseException | None) -> bool:
    return isinstance(error, ValueError) and "cannot serve features" in str(error)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
