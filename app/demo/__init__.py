"""Demo: a small model and its features, so that a fresh installation has something to serve.

The command line calls `seed`. All data is synthetic, drawn from a fixed seed, and describes no real market.
"""

from app.demo.data import COLUMNS, COMMODITIES, EXAMPLE, MODEL, SERVICE
from app.demo.seeding import is_seeded, seed

__all__ = ["COLUMNS", "COMMODITIES", "EXAMPLE", "MODEL", "SERVICE", "is_seeded", "seed"]
