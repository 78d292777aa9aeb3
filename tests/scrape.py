"""What `/metrics` of the platform says."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.platform import URL


def scrape() -> dict[str, dict[str, float]]:
    """Return per sample the value of each replica; a sample is its name and its labels, as ``name{a="b",c="d"}``."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{URL}/metrics", timeout=60).text):
        for sample in family.samples:
            labels = [f'{key}="{value}"' for key, value in sorted(sample.labels.items()) if key != "replica"]
            name = f"{sample.name}{{{','.join(labels)}}}" if labels else sample.name
            found.setdefault(name, {})[sample.labels.get("replica", "")] = sample.value
    return found


def total(sample: str) -> float:
    """Return the value of a sample over all replicas."""
    return sum(scrape().get(sample, {}).values())
