"""Predictions of a model: JSON values, or arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from ml_serve_client._errors import missing_extra

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions as JSON values: a list with one per row, or an object of columns where the outputs have names.

    Of a model that does not work row by row they are what it answers: a number, a text, an object or a list.
    `version` is the version that answered. `features` holds the columns that the gateway read from the feature store.
    """

    predictions: Any
    model: str
    version: str
    features: Mapping[str, Sequence[Any]] | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TensorPrediction:
    """Predictions as arrays by output name; the first dimension is the rows.

    Numbers and truth values have the dtype of the model's output. A BYTES output is an object array of `str`, or of
    `bytes` where an element is not UTF-8. `version` is the version that answered.
    """

    outputs: Mapping[str, Array]
    model: str
    version: str
    request_id: str | None = None

    @property
    def array(self) -> Array:
        """The only output. Raises `ValueError` where there are several."""
        if len(self.outputs) != 1:
            raise ValueError(f"the model has {len(self.outputs)} outputs, not one: {', '.join(self.outputs)}")
        return next(iter(self.outputs.values()))

    def frame(self) -> pd.DataFrame:
        """Return the outputs as columns of a DataFrame, in the order of the rows that were sent.

        A single output that is a matrix becomes columns numbered from 0. Another output of several dimensions has an
        array in each cell.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise missing_extra("pandas") from error
        if len(self.outputs) == 1 and self.array.ndim == 2 and self.array.shape[1] != 1:
            return pd.DataFrame(self.array)
        return pd.DataFrame({name: _column(array) for name, array in self.outputs.items()})


def _column(array: Array) -> Any:
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    return array if array.ndim == 1 else list(array)
