"""The demo: a small model and the features it needs, so that a fresh installation has something to serve.

`seed` is called by the command line. All data is synthetic, drawn from a fixed seed: it says nothing about any market.
"""

from app.demo.data import COLUMNS, COMMODITIES, EXAMPLE, MODEL, SERVICE
from app.demo.seeding import DemoSummary, seed

__all__ = ["COLUMNS", "COMMODITIES", "EXAMPLE", "MODEL", "SERVICE", "DemoSummary", "seed"]
