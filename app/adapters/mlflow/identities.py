"""Identities of model versions, which distinguish a version from a later one with the same name and number.

`ModelLoader` gets them from here rather than from the registry, because the request takes half of the load time of a
small model, and half a minute while the registry does not respond.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cachetools import LRUCache

from app.adapters.mlflow.circuit_breaker import CircuitBreaker
from app.errors import RegistryUnavailable, ServingError
from app.serving.references import ModelVersion

_FRESH_S = 60.0
_MAX_VERSIONS = 4096
_COOLDOWN_S = 20.0


class Identities:
    """Identities, read from the registry and remembered. Thread-safe.

    Args:
        fetch: reads an identity from the registry. Blocks; raises `ModelNotFound` or `RegistryUnavailable`.
    """

    def __init__(self, fetch: Callable[[ModelVersion], str]) -> None:
        self._fetch = fetch
        self._breaker = CircuitBreaker(_COOLDOWN_S)
        self._known: LRUCache[ModelVersion, tuple[str, float]] = LRUCache(_MAX_VERSIONS)
        """Identity, and the monotonic time until which it is fresh."""
        self._reregistered: set[str] = set()
        self._generation = 0
        self._lock = threading.Lock()

    def get(self, version: ModelVersion) -> str:
        """Return an identity that is at most a minute old. Raises `ModelNotFound` or `RegistryUnavailable`."""
        generation = self._generation
        if self._is_fresh(version) and (known := self.last(version)) is not None:
            return known
        try:
            identity = self._fetch(version)
        except RegistryUnavailable:
            self._breaker.failed()
            raise
        except ServingError:
            self._breaker.succeeded()
            raise
        self._breaker.succeeded()
        with self._lock:
            if generation == self._generation:  # else the answer may be about the deleted model
                self._known[version] = identity, time.monotonic() + _FRESH_S
        return identity

    def is_worth_asking(self, version: ModelVersion) -> bool:
        """Return False if `get` would have to ask a registry that failed to respond a moment ago."""
        return self._is_fresh(version) or self._breaker.allows()

    def last(self, version: ModelVersion) -> str | None:
        """Return the last known identity, however old, or None."""
        with self._lock:
            return self._known[version][0] if version in self._known else None

    def is_doubtful(self, version: ModelVersion) -> bool:
        """Return whether the model was deleted or registered again, and the version not confirmed since."""
        with self._lock:
            return version.name in self._reregistered and version not in self._known

    def forget(self, name: str) -> None:
        """Drop all identities of a model that was deleted or registered again."""
        with self._lock:
            self._generation += 1
            self._reregistered.add(name)
            for version in [version for version in self._known if version.name == name]:
                del self._known[version]

    def forget_version(self, version: ModelVersion) -> None:
        """Ask the registry about a version the next time."""
        with self._lock:
            self._generation += 1
            self._known.pop(version, None)

    def _is_fresh(self, version: ModelVersion) -> bool:
        with self._lock:
            return version in self._known and time.monotonic() < self._known[version][1]
