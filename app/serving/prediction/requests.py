"""Requests and answers of `app.serving.prediction.service`, common to all dialects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from app.errors import InvalidInput
from app.serving.model_spec import ModelSpec
from app.serving.observation import Observation
from app.serving.prediction.enrichment import Enriched, FeatureRequest
from app.serving.references import ModelRef, ModelVersion
from app.serving.rows import Output, RowLabels, Rows
from app.serving.signatures.signature import Form, Signature


class Payload(NamedTuple):
    """Rows in the form that the caller sent; `Signature.rows` describes the forms. `labels`: those of the rows."""

    form: Form
    value: Any
    labels: RowLabels | None = None

    @property
    def claimed_rows(self) -> int:
        """Rows of tensors, 0 for other forms: a shape may claim rows without a byte for each."""
        arrays = self.value.values() if self.form == "tensors" else ()
        return max([len(array) for array in arrays if array.ndim], default=0)


PayloadReader = Callable[[Signature], Awaitable[Payload]]
"""Reads rows whose types depend on the model's signature, such as text in CSV."""


@dataclass(slots=True)
class PredictionRequest:
    """A request. Either `payload` or `features` is set, or neither and `body`; `deadline` is event loop time.

    `body` is the JSON object that the caller sent. Models that take it whole get it, and with neither `payload` nor
    `features` every model does. It is dropped when the rows of `payload` are predicted instead.
    `lenient`: drop `params` if the model takes none, because the protocol uses parameters of its own.
    `session` returns the caller's session id, which keeps it with one variant. It is called only if there are variants.
    `caller` is what the caller's requests in progress are counted by; None where callers are not known.
    `observation` is told where the request spends its time; None for a request that is not observed.
    """

    ref: ModelRef
    deadline: float
    payload: Payload | PayloadReader | None = None
    features: FeatureRequest | None = None
    params: Mapping[str, Any] | None = None
    body: bytes | None = None
    lenient: bool = False
    session: Callable[[], str | None] | None = None
    caller: str | None = None
    observation: Observation | None = None

    @property
    def sticky_key(self) -> str | None:
        """What keeps the caller with one variant: its session, else its first entity. None: a random variant."""
        session = self.session() if self.session is not None else None
        return session or (self.features.first if self.features is not None else None)

    def json_for(self, model: ModelSpec) -> bytes:
        """Return the JSON body for a model that takes it whole. Raises `InvalidInput` for a request of rows."""
        if self.body is None:
            raise InvalidInput(
                f"{model.key} takes a JSON object, as chat models and agents do, instead of rows; "
                f"POST the object to /invocations/{model.name}",
                {"endpoint": f"/invocations/{model.name}"},
            )
        return self.body


@dataclass(slots=True)
class Prediction:
    """The answer, the version that gave it, and that version's signature.

    `rows` are the version's input. After a feature store read, `features` holds the model's columns, overrides
    included, and `enriched` everything that was read. `text` is the JSON of an answer to a body that the model took
    whole; it has no output and no rows then.
    """

    version: ModelVersion
    output: Output
    signature: Signature
    rows: Rows
    features: Mapping[str, Sequence[Any]] | None = None
    enriched: Enriched | None = None
    text: bytes | None = None
