"""Files and folders of the benchmarks."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
HERE = ROOT / "benchmarks"
PEERS = HERE / "peers"
STATE = ROOT / ".bench"
"""Models, logs and raw results; not under version control."""

SINGLE_HOME = STATE / "single"
"""Registry of the models that are measured alone."""

MANY_HOME = STATE / "many"
"""Registry of the hundred models that share one pool."""

GROWN_HOME = STATE / "grown"
"""Registry of a thousand models that share the artifacts of the linear model."""

DEMO_HOME = STATE / "demo"
"""Home in which the demo is seeded once, for its predictions and its feature store."""

FRESH_HOME = STATE / "fresh"
"""Home of the start from nothing; removed before each start."""

BEFORE_HOMES = STATE / "before"
"""Homes of the other checkout, with copies of the registries."""

DATA = STATE / "data"
LOGS = STATE / "logs"
RESULTS = STATE / "results"
ENVIRONMENTS = ROOT / ".venv-peers"
