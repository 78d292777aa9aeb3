"""What tells a model version from another one of the same name and number, remembered for a while.

`ModelLoader` asks through it, so that a version which comes back soon, or while the registry does not answer, does not
wait for the registry: asking it is half of what a small model's load takes, and a dead one takes half a minute to fail.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from cachetools import LRUCache, TTLCache

from app.adapters.mlflow.circuit_breaker import Circuit
from app.errors import RegistryUnavailable, ServingError
from app.serving.references import ModelVersion

_FRESH_S = 60.0  # a version that comes back within it is the same one, unless `forget` says otherwise
_KEPT = 4096
_REST_S = 20.0  # so long a registry that gave no answer is left alone by loads that can do without


class Identities:
    """Identities of versions, asked of the registry; may be used from many threads.

    Args:
        ask: blocks; raises `ModelNotFound` or `RegistryUnavailable`.
    """

    def __init__(self, ask: Callable[[ModelVersion], str]) -> None:
        self._ask = ask
        self._circuit = Circuit(_REST_S)
        self._fresh: TTLCache[ModelVersion, str] = TTLCache(_KEPT, ttl=_FRESH_S)
        self._last: LRUCache[ModelVersion, str] = LRUCache(_KEPT)
        self._renewed: set[str] = set()
        self._forgotten = 0
        self._lock = threading.Lock()

    def ask(self, version: ModelVersion) -> str:
        """The version's identity. Raises `ModelNotFound` or `RegistryUnavailable`."""
        with self._lock:
            known: str | None = self._fresh.get(version)
            forgotten = self._forgotten
        if known is not None:
            return known
        try:
            known = self._ask(version)
        except RegistryUnavailable:
            self._circuit.failed()
            raise
        except ServingError:
            self._circuit.answered()
            raise
        self._circuit.answered()
        with self._lock:
            if forgotten == self._forgotten:  # else it may be that of the model before
                self._fresh[version] = self._last[version] = known
        return known

    def may_ask(self, version: ModelVersion) -> bool:
        """Whether asking is worth the wait: it is known, or the registry has not just failed to answer."""
        with self._lock:
            if version in self._fresh:
                return True
        return self._circuit.may_ask()

    def last(self, version: ModelVersion) -> str | None:
        """What the registry said last, however long ago; None if it was never asked."""
        with self._lock:
            return self._last.get(version)

    def is_doubtful(self, version: ModelVersion) -> bool:
        """Whether its name means another model than before and the registry was not asked about the version since."""
        with self._lock:
            return version.name in self._renewed and version not in self._last

    def forget(self, name: str) -> None:
        """The name means another model now, or none."""
        with self._lock:
            self._forgotten += 1
            self._renewed.add(name)
            for known in (self._fresh, self._last):
                for version in [version for version in known if version.name == name]:
                    known.pop(version, None)
