"""Metrics of all replicas in one answer: each sample gets the label ``replica``, so that no counter goes backwards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample


class ReplicaMetrics(NamedTuple):
    """What one gateway replica counts. It is sent between processes."""

    replica: str
    families: Sequence[Metric]


class _Figure(NamedTuple):
    """One metric of every replica; `key` is the entry in its usage."""

    key: str
    name: str
    type: str
    help: str


_FIGURES = (
    _Figure("rss_bytes", "ml_serve_replica_memory_bytes", "gauge", "Resident memory of the replica's process."),
    _Figure("models", "ml_serve_replica_models", "gauge", "Model versions that the replica knows, loaded or not."),
    _Figure("model_bytes", "ml_serve_replica_model_bytes", "gauge", "Memory of the loaded model versions."),
    _Figure("workers", "ml_serve_replica_workers", "gauge", "Worker processes of the replica."),
    _Figure("evictions", "ml_serve_replica_evictions", "counter", "Model versions that made room for others."),
)


def own_families(registry: CollectorRegistry = REGISTRY) -> list[Metric]:
    """Return the metrics of this process."""
    return list(registry.collect())


def exposition(gateways: Iterable[ReplicaMetrics], usages: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the metrics of all replicas in Prometheus' text format.

    Args:
        gateways: what each gateway replica counts.
        usages: the memory and models of each replica of each deployment, as ``ModelManager.usage`` has them.
    """
    return generate_latest(FleetMetrics([*gateways], [*usages]))


class FleetMetrics(Collector):
    """The families of all replicas, each once."""

    def __init__(self, gateways: Sequence[ReplicaMetrics], usages: Sequence[Mapping[str, Any]]) -> None:
        self._gateways = gateways
        self._usages = usages

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for replica, found in self._gateways:
            for one in found:
                family = families.setdefault(one.name, Metric(one.name, one.documentation, one.type))
                family.samples += [_labelled(sample, replica) for sample in one.samples]
        yield from families.values()
        for figure in _FIGURES:
            family = Metric(figure.name, figure.help, figure.type)
            suffix = "_total" if figure.type == "counter" else ""
            for usage in self._usages:
                if figure.key in usage:
                    labels = {"deployment": usage["deployment"], "replica": usage["replica"]}
                    family.samples.append(Sample(figure.name + suffix, labels, usage[figure.key]))
            yield family
        scraped = Metric("ml_serve_replicas_scraped", "Gateway replicas whose metrics this answer has.", "gauge")
        scraped.samples.append(Sample(scraped.name, {}, len(self._gateways)))
        yield scraped


def _labelled(sample: Sample, replica: str) -> Sample:
    return sample._replace(labels={**sample.labels, "replica": replica})
