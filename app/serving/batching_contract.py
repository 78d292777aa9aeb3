"""Batching contract: whether rows of several requests may be predicted in one call.

A model may look at its rows together, as in running sums and forecasts, or answer with another number of items than it
was given rows. In a batch with strangers such a model would answer wrongly. So a version is batched, and its large
requests are cut, only if it is known to be *row-wise*: one answer per row, which depends on that row alone.
`app.adapters.mlflow.row_wise` finds out when a version is loaded; `app.serving.prediction.served_model` obeys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ROW_WISE_TAG = "serving.batch.row_wise"

Basis = Literal["declared", "proven", "flavor", "unproven", "disproved", "contradicted"]


@dataclass(frozen=True, slots=True)
class BatchingContract:
    """What is known about a version.

    Attributes:
        row_wise: whether its requests are batched and cut.
        basis: how that is known. ``declared``: by the model's tag. ``proven``: the input example's rows got the same
            answers alone, together, repeated and in another order. ``flavor``: its library predicts row by row.
            ``unproven``: nothing is known. ``disproved``: they got other answers. ``contradicted``: a later answer
            had another number of rows.
        reason: why it is not batched; None if it is.
    """

    row_wise: bool = False
    basis: Basis = "unproven"
    reason: str | None = None

    def declared(self, row_wise: bool | None) -> BatchingContract:
        """Return the contract with the model's tag, which wins; None where the model has no such tag."""
        if row_wise is None:
            return self
        return BatchingContract(row_wise, "declared", None if row_wise else f"its tag {ROW_WISE_TAG} is false")

    def contradicted(self, reason: str | None) -> BatchingContract:
        """Return the contract after an answer that contradicts it; None where there was none."""
        if reason is None or not self.row_wise:
            return self
        return replace(self, row_wise=False, basis="contradicted", reason=reason)


UNPROVEN = BatchingContract()
ONE_OBJECT = BatchingContract(reason="it takes the JSON object of one request")
