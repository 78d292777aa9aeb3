"""`Checker`: asks beside a load, a few times a second, whether answers are right and its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import httpx

from benchmarks.endpoint import Asker, Endpoint, WrongAnswer

_EVERY_S = 0.3
NO_ANSWER = (httpx.HTTPError, grpc.RpcError)


@dataclass
class Checks:
    """What was found. `first` is the first thing that was not right."""

    asked: int = 0
    failed: int = 0
    wrong: int = 0
    first: str | None = None


class Checker:
    """A thread that asks with rows that the load does not send. A context manager; read `checks` after it.

    Args:
        indexes: the requests that it asks, in turn.
    """

    def __init__(self, endpoint: Endpoint, indexes: Sequence[int]) -> None:
        self._endpoint = endpoint
        self._indexes = indexes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checker")
        self.checks = Checks()

    def __enter__(self) -> Checker:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with Asker(self._endpoint) as asker:
            while not self._over.wait(_EVERY_S):
                check(asker, self._indexes[self.checks.asked % len(self._indexes)], self.checks)


def check(asker: Asker, index: int, checks: Checks) -> None:
    """Ask once and note what came."""
    checks.asked += 1
    try:
        asker.ask(index)
    except WrongAnswer as error:
        checks.wrong += 1
        checks.first = checks.first or str(error)
    except NO_ANSWER as error:
        checks.failed += 1
        checks.first = checks.first or repr(error)[:300]
