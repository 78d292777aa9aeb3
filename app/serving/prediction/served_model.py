"""A model version as a gateway replica knows it: how its rows are read, and how large they may be in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.serving.batching.batcher import Batcher
from app.serving.batching.chunking import Piece, pieces
from app.serving.model_spec import ModelSpec
from app.serving.prediction.requests import Payload
from app.serving.rows import Output, Rows
from app.serving.signatures.signature import Signature


class ServedModel:
    """A version as a gateway replica knows it: its spec, its compiled signature, its batcher."""

    def __init__(self, spec: ModelSpec, batcher: Batcher[Rows, Output]) -> None:
        self.spec = spec
        self.signature = Signature.compile(spec.inputs, spec.outputs, spec.params)
        self.batcher = batcher

    def rows(self, payload: Payload, params: Mapping[str, Any] | None) -> Rows:
        """Validate the payload. Raises `InvalidInput`."""
        return self.signature.rows(payload.form, payload.value, params)

    def cuts(self, rows: Rows, nbytes: int) -> Iterator[Piece[Rows]] | None:
        """The pieces to send it in; None where it goes whole, as it does when it fits a batch.

        It also does where each request is a batch of its own: such a model may look at the rows together.
        """
        batcher = self.batcher
        if rows.count <= batcher.max_rows and nbytes <= batcher.max_bytes:
            return None
        if not self.signature.by_row or rows.count == 1 or batcher.max_rows == 1:
            return None
        return pieces(rows, nbytes, max_rows=batcher.max_rows, max_bytes=batcher.max_bytes)
