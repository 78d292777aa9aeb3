"""The load on a hundred models that share a pool with room for about thirty of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from benchmarks.load import Sample, summarize

_EVERY_S = 0.5
_EXPONENT = 1.1
"""Exponent of Zipf's law: the thirty most popular models get about four fifths of the requests."""


def choices(models: int, count: int) -> list[int]:
    """Draw numbers of models by Zipf's law; the same each time."""
    weights = 1 / np.arange(1, models + 1) ** _EXPONENT
    drawn = np.random.default_rng(0).choice(models, count, p=weights / weights.sum())
    return [int(one) for one in drawn]


@dataclass
class Residency:
    """Poll the pool's resident models twice a second during the load. A context manager.

    Args:
        url: URL of the gateway.
    """

    url: str
    always: set[str] | None = None
    """Models that were ready at every poll."""
    ready: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    evictions: list[int] = field(default_factory=list)
    rss: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="residency")

    def __enter__(self) -> Residency:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=30, trust_env=False) as client:
            while not self._over.wait(_EVERY_S):
                try:
                    self._poll(client)
                except (httpx.HTTPError, ValueError, KeyError):
                    continue  # the load counts requests without an answer

    def _poll(self, client: httpx.Client) -> None:
        models: list[dict[str, Any]] = client.get("/v1/models").raise_for_status().json()["models"]
        ready = {one["name"] for one in models if any(v["state"] == "ready" for v in one["versions"].values())}
        self.always = ready if self.always is None else self.always & ready
        self.ready.append(len(ready))
        for replica in client.get("/v1/status").raise_for_status().json()["replicas"]:
            if "model_bytes" in replica:
                self.bytes.append(replica["model_bytes"])
                self.evictions.append(replica["evictions"])
                self.rss.append(replica["rss_bytes"])


def facts(samples: Sequence[Sample], names: Sequence[str], residency: Residency, budget: int) -> dict[str, Any]:
    """Return the further facts of the record.

    A hit is a request for a model that was ready at every poll.

    Args:
        names: model name of each request of the load.
        budget: model bytes that a replica may hold.
    """
    always = residency.always or set()
    hits = [sample for sample in samples if names[sample.index] in always]
    found: dict[str, Any] = {
        "budget_bytes": budget,
        "most_bytes": max(residency.bytes, default=0),
        "most_rss_bytes": max(residency.rss, default=0),
        "ready": [min(residency.ready, default=0), max(residency.ready, default=0)],
        "always_ready": len(always),
        "evictions": max(residency.evictions, default=0) - min(residency.evictions, default=0),
        "looks": len(residency.ready),
        "hit_share": len(hits) / len(samples),
    }
    if hits:
        figures = summarize(hits)
        found |= {"hit_p50_ms": figures.p50_ms, "hit_p90_ms": figures.p90_ms, "hit_p99_ms": figures.p99_ms}
    return found
