"""Where the benchmarks keep what they make; every other module imports it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
HERE = ROOT / "benchmarks"
PEERS = HERE / "peers"
STATE = ROOT / ".bench"
"""Models, logs and raw results; not under version control."""

SINGLE_HOME = STATE / "single"
"""Registry of the models that are measured one at a time."""

MANY_HOME = STATE / "many"
"""Registry of the hundred models that share one pool."""

DEMO_HOME = STATE / "demo"
"""Where the demo is seeded once, for its answers and its feature store."""

FRESH_HOME = STATE / "fresh"
"""Removed before each start that is measured from nothing."""

DATA = STATE / "data"
LOGS = STATE / "logs"
RESULTS = STATE / "results"
ENVIRONMENTS = ROOT / ".venv-peers"
