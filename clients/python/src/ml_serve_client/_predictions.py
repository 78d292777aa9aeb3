"""What a model answers: values as JSON has them, or arrays."""

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
    """What a model answered: one prediction per row, or an object of columns where the model names several.

    `version` is the one that answered; `features` holds what was read from the feature store, by column.
    """

    predictions: Any
    model: str
    version: str
    features: Mapping[str, Sequence[Any]] | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class TensorPrediction:
    """What a model answered, as arrays by name; the first dimension is the rows.

    Numbers and truth values have the model's own type. BYTES are an object array of `str`, or of `bytes` where one of
    them is not UTF-8. `version` is the one that answered.
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
        """The outputs as columns of a pandas DataFrame, rows in the order that they were sent.

        The columns of an only output that is a matrix are numbered from 0. Other outputs of several dimensions have an
        array in each cell. Raises `ImportError` where pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise missing_extra("pandas") from error

        if len(self.outputs) == 1 and self.array.ndim == 2 and self.array.shape[1] != 1:
            return pd.DataFrame(self.array)
        return pd.DataFrame({name: _column(array) for name, array in self.outputs.items()})


def prediction(body: Mapping[str, Any], request_id: str | None) -> Prediction:
    """Read the answer to ``:predict``."""
    return Prediction(body["predictions"], body["model_name"], body["model_version"], body.get("features"), request_id)


def _column(array: Array) -> Any:
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    return array if array.ndim == 1 else list(array)
