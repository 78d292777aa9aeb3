"""Size and seed of the generated comparisons with MLflow, printed by each test. `make parity` chooses larger ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import hypothesis

EXAMPLES = int(os.environ.get("PARITY_EXAMPLES", "300"))
"""Requests, or answers, of one kind."""

SEED = int(os.environ.get("PARITY_SEED", "0"))


def generated(strategy: Any, examples: int = EXAMPLES) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Run a check on so many examples; the seed decides which."""

    def decorate(check: Callable[[Any], None]) -> Callable[[], None]:
        limited = hypothesis.settings(max_examples=examples, database=None)(hypothesis.given(strategy)(check))  # type: ignore[no-untyped-call]
        seeded: Callable[[], None] = hypothesis.seed(SEED)(limited)
        return seeded

    return decorate
