"""The limits of a batch, from the settings and from a registered model's tags.

`app.serving.releases.reconciler` reads the tags into the release table, which gateways follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from app.serving.batching_contract import ROW_WISE_TAG
from app.settings import BatchSettings

N = TypeVar("N", int, float)

MAX_ROWS_TAG = "serving.batch.max_rows"
WAIT_TAG = "serving.batch.wait_ms"
MAX_IN_FLIGHT_TAG = "serving.batch.max_in_flight"
_TRUTHS = {"true": True, "True": True, "false": False, "False": False}


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of a batcher: rows and bytes of one batch, batches in flight, seconds that a batch waits for more rows.

    With a `max_rows` of 1 every request is a call of its own, whole. `max_in_flight` is the upper limit of the learned
    bound of `app.serving.batching.concurrency`.
    """

    max_rows: int
    max_bytes: int
    max_in_flight: int
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BatchOverrides:
    """Limits in one model's tags, and whether it declares to be row-wise; None for a missing tag.

    Milliseconds, as in the settings.
    """

    max_rows: int | None = None
    wait_ms: float | None = None
    max_in_flight: int | None = None
    row_wise: bool | None = None

    def over(self, settings: BatchSettings) -> BatchLimits:
        """Return the limits of `settings`, with these values in place of theirs."""
        return BatchLimits(
            max_rows=settings.max_rows if self.max_rows is None else self.max_rows,
            max_bytes=settings.max_bytes,
            max_in_flight=settings.max_in_flight if self.max_in_flight is None else self.max_in_flight,
            wait_s=(settings.wait_ms if self.wait_ms is None else self.wait_ms) / 1000,
        )


NO_OVERRIDES = BatchOverrides()


def read_tags(tags: Mapping[str, str]) -> tuple[BatchOverrides, tuple[str, ...]]:
    """Read a registered model's tags. Returns the overrides and a message for each invalid tag, which is ignored."""
    problems: list[str] = []

    def read(tag: str, number: Callable[[str], N], least: float, expected: str) -> N | None:
        text = tags.get(tag)
        if text is None:
            return None
        with suppress(ValueError):
            value = number(text)
            if least <= value < math.inf:
                return value
        problems.append(f"tag {tag} is {text[:40]!r}, expected {expected}: it is ignored")
        return None

    overrides = BatchOverrides(
        max_rows=read(MAX_ROWS_TAG, int, 1, "a whole number from 1 on"),
        wait_ms=read(WAIT_TAG, float, 0, "a number of milliseconds from 0 on"),
        max_in_flight=read(MAX_IN_FLIGHT_TAG, int, 1, "a whole number from 1 on"),
        row_wise=_truth(tags.get(ROW_WISE_TAG), problems),
    )
    return overrides, tuple(problems)


def _truth(text: str | None, problems: list[str]) -> bool | None:
    if text is None or text in _TRUTHS:
        return _TRUTHS.get(text or "")
    problems.append(f"tag {ROW_WISE_TAG} is {text[:40]!r}, expected 'true' or 'false': it is ignored")
    return None
