"""What callers of every dialect ask for and what they get, as `app.serving.prediction.service` knows it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from app.serving.prediction.enrichment import Enriched, FeatureRequest
from app.serving.references import ModelRef, ModelVersion
from app.serving.rows import Output, Rows
from app.serving.signatures.signature import Signature


class Payload(NamedTuple):
    """Rows as a caller wrote them.

    ``records``: a list of objects, one per row. ``columns``: an object of lists. ``instances`` and ``inputs``: as
    TensorFlow Serving's REST format defines them, row-wise and column-wise. ``tensors``: an array per name.
    """

    form: Literal["records", "columns", "instances", "inputs", "tensors"]
    value: Any


PayloadReader = Callable[[Signature], Awaitable[Payload]]
"""Reads rows whose meaning depends on what the model takes, as that of text in a CSV does."""


@dataclass(slots=True)
class PredictionRequest:
    """What a caller wants. Either `payload` or `features` is set; `deadline` is event loop time.

    `lenient`: a model that takes no parameters is given none of `params`, where the protocol lets callers send others.
    `session` reads what the caller names its session, by which it stays with one variant; it is called where there are
    variants.
    """

    ref: ModelRef
    deadline: float
    payload: Payload | PayloadReader | None = None
    features: FeatureRequest | None = None
    params: Mapping[str, Any] | None = None
    lenient: bool = False
    session: Callable[[], str | None] | None = None


@dataclass(slots=True)
class Prediction:
    """The answer, the version that gave it, and that version's signature.

    `rows` are what the version was given. Where the feature store was read, `features` holds the columns of that,
    overrides included, and `enriched` all that was read.
    """

    version: ModelVersion
    output: Output
    signature: Signature
    rows: Rows
    features: Mapping[str, Sequence[Any]] | None = None
    enriched: Enriched | None = None
