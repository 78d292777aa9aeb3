"""The metrics of several replicas in one answer."""

from __future__ import annotations

import pickle

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.parser import text_string_to_metric_families

from app.metrics.fleet import ReplicaMetrics, exposition, own_families

USAGES = [
    {"replica": "a", "deployment": "Gateway", "rss_bytes": 100},
    {"replica": "p", "deployment": "ModelPool:default", "rss_bytes": 300, "models": 2, "workers": 1, "evictions": 4},
]


def replica(name: str, requests: int) -> ReplicaMetrics:
    """Return the metrics of a replica as they arrive from another process."""
    registry = CollectorRegistry()
    Counter("ml_serve_requests", "Requests.", ("model",), registry=registry).labels("m").inc(requests)
    Histogram("ml_serve_seconds", "Time.", registry=registry).observe(requests)
    found: ReplicaMetrics = pickle.loads(pickle.dumps(ReplicaMetrics(name, own_families(registry))))
    return found


def samples(text: bytes) -> dict[tuple[str, str], float]:
    """Return the value by name and replica, of every sample but buckets and times."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                found[sample.name, sample.labels.get("replica", "")] = sample.value
    return found


def test_each_replica_keeps_its_own_counts() -> None:
    found = samples(exposition([replica("a", 3), replica("b", 5)], USAGES))
    assert found["ml_serve_requests_total", "a"] == 3
    assert found["ml_serve_requests_total", "b"] == 5
    assert (found["ml_serve_seconds_count", "a"], found["ml_serve_seconds_sum", "b"]) == (1, 5)
    assert found["ml_serve_replicas_scraped", ""] == 2


def test_a_family_is_described_once() -> None:
    text = exposition([replica("a", 3), replica("b", 5)], USAGES).decode()
    assert text.count("# TYPE ml_serve_requests_total counter") == 1
    assert text.count("# TYPE ml_serve_seconds histogram") == 1


def test_replicas_of_every_deployment_show_their_memory() -> None:
    found = samples(exposition([], USAGES))
    assert found["ml_serve_replica_memory_bytes", "a"] == 100
    assert found["ml_serve_replica_memory_bytes", "p"] == 300
    assert found["ml_serve_replica_workers", "p"] == 1
    assert found["ml_serve_replica_evictions_total", "p"] == 4
    assert ("ml_serve_replica_models", "a") not in found
