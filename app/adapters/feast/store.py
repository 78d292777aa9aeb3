"""Read Feast's online store in blocking calls. The Features deployment makes them in worker threads.

Every query is resolved once (`app.adapters.feast.plan`). After that, a read is one call of Feast and takes no lock.

Feast reloads an expired registry cache inside the next read, which then fails if the registry is down. Here the cache
never expires: a background thread reloads it after its TTL, and until that succeeds reads use the last definitions.

Feast refuses to read a view while it is materialized, unless ``serve_features_while_materializing`` is set under
``registry`` in ``feature_store.yaml``. So does this module.
"""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
_RETRY_S = 30.0  # after a failed reload
_RECHECK_S = 5.0  # after a read of a view that cannot be served now


class FeastStore:
    """Reader of one Feast repository. Every method blocks. Thread-safe.

    Args:
        folder: contains ``feature_store.yaml``. Nothing is connected to before the first call.

    Raises:
        StartupError: the repository does not exist, or its configuration is invalid.
    """

    def __init__(self, folder: Path) -> None:
        self._store, registry = _open(folder)
        self._ttl_s = 0.0
        if (registry.registry_type, registry.cache_mode) != ("sql", "thread"):  # these reload themselves in a thread
            self._ttl_s = float(registry.cache_ttl_seconds)
            registry.cache_ttl_seconds = 0
        self._reload_at = time.monotonic() + self._ttl_s
        self._reloading = threading.Lock()
        self._plans: dict[FeatureQuery, FeaturePlan] = {}

    def source(self, query: FeatureQuery) -> FeatureSource:
        """Return the keys and features of a view or service.

        The join keys come first, then the request inputs of on-demand feature views. Features with the same name in a
        service are called ``view__feature``, as in Feast; all others have their bare name.

        Raises:
            FeatureSourceNotFound: no such view or service.
            FeatureStoreUnavailable: the definitions cannot be read.
        """
        return self._plan(query).source

    def read(self, query: FeatureQuery, entities: Sequence[Mapping[str, Any]]) -> FeatureRows:
        """Read the features of each entity in one call of Feast. An unknown entity is no error.

        Raises:
            FeatureSourceNotFound: no such view or service.
            InvalidInput: an entity has missing or unknown keys, or a value of the wrong type.
            FeatureStoreUnavailable: the store does not respond, or cannot serve the view now.
        """
        plan = self._plan(query)
        values = entity_columns(entities, plan.keys, plan.nullable)
        if not entities:
            return FeatureRows({name: [] for name in plan.columns}, [])
        if not values:  # a view without entity: Feast counts the rows by its stand-in
            values = {DUMMY_ENTITY_ID: [DUMMY_ENTITY_VAL] * len(entities)}
        try:
            response = self._store.get_online_features(plan.request, values, full_feature_names=plan.full_names)
            return plan.rows(response, len(entities))
        except Exception as error:
            message = f"{query} cannot be read from the feature store now"
            if _is_not_servable(error):
                self._reload_at = min(self._reload_at, time.monotonic() + _RECHECK_S)
                message = f"{query} cannot be served now: a view in it is disabled, or is being materialized"
            raise FeatureStoreUnavailable(message, _details(query)) from error

    def names(self) -> tuple[list[str], list[str]]:
        """Return the names of all feature views and of all feature services, sorted.

        Raises:
            FeatureStoreUnavailable: the definitions cannot be read.
        """
        try:
            registry, project = self._store.registry, self._store.project
            views = registry.list_all_feature_views(project, allow_cache=True)
            services = registry.list_feature_services(project, allow_cache=True)
        except Exception as error:
            raise FeatureStoreUnavailable("the definitions in the feature store's registry cannot be read") from error
        return sorted(view.name for view in views), sorted(service.name for service in services)

    def refresh(self) -> None:
        """Reload the definitions. Raises `FeatureStoreUnavailable`, and then keeps the last ones."""
        try:
            self._store.refresh_registry()
        except Exception as error:
            raise FeatureStoreUnavailable("the definitions in the feature store's registry cannot be read") from error
        self._plans = {}

    def check(self) -> None:
        """Connect to the registry and the online store: read the definitions, and any row of one view.

        Raises:
            StartupError: the online store cannot be used here, for instance because its library is not installed.
            FeatureStoreUnavailable: the registry or the online store does not respond.
        """
        try:
            _ = self._store.provider
        except Exception as error:
            raise StartupError(f"the feature store cannot be opened: {_first_line(error)}") from error
        for name in self.names()[0]:
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
        if self._ttl_s and time.monotonic() >= self._reload_at and self._reloading.acquire(blocking=False):
            threading.Thread(target=self._reload, name="feast-registry", daemon=True).start()
        plan = self._plans.get(query)
        if plan is None or plan.stamp != definitions_stamp(self._store):
            plan = self._plans[query] = self._resolve(query)
        return plan

    def _reload(self) -> None:
        pause = min(self._ttl_s, _RETRY_S)
        try:
            self.refresh()
            pause = self._ttl_s
        except FeatureStoreUnavailable:
            log.warning(
                "reload of the feature definitions failed, keeping the last ones: retry_s=%g", pause, exc_info=True
            )
        finally:
            self._reload_at = time.monotonic() + pause
            self._reloading.release()

    def _resolve(self, query: FeatureQuery) -> FeaturePlan:
        try:
            return resolve(self._store, query)
        except FeastObjectNotFoundException as error:
            raise self._not_found(query) from error
        except Exception as error:
            raise FeatureStoreUnavailable(f"the definition of {query} cannot be read", _details(query)) from error

    def _not_found(self, query: FeatureQuery) -> FeatureSourceNotFound | FeatureStoreUnavailable:
        views, services = self.names()
        wanted = str(query.view or query.service)
        known, others = (views, services) if query.view else (services, views)
        if wanted in known:
            return FeatureStoreUnavailable(f"{query} refers to a view that is no longer defined", _details(query))
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
        # The file is named, because Feast prefers the one that its own environment variable names.
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


def _is_not_servable(error: BaseException | None) -> bool:
    return isinstance(error, ValueError) and "cannot serve features" in str(error)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
