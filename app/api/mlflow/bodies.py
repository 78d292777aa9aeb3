"""Request and response bodies of MLflow's scoring protocol, and the conversion of a split DataFrame to columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, Field, StrictBool, WithJsonSchema

from app import errors
from app.api.bodies import Body
from app.api.http.errors import ErrorBody
from app.errors import InvalidInput, MalformedBody, ServingError
from app.serving.rows import RowLabels, Values
from app.serving.signatures.validation_errors import short

_LABELS = frozenset((str, int))
_FEW = 4
"""Rows for which lists take less time than arrays."""


class SplitFrame(Body):
    """A DataFrame as ``to_dict(orient="split")`` writes it."""

    data: list[Any] = Field(examples=[[[75.5, 3.2, 1.18]]])
    """Rows: a list of values for each."""

    columns: list[Any] | None = Field(None, examples=[["crude_oil_price", "natural_gas_price", "exchange_rate"]])
    """Names, in the order of the values; 0, 1, and so on by default."""

    index: list[Any] | None = None
    """Labels of the rows: text, numbers, booleans or null. With labels other than 0, 1, and so on, the request is
    predicted alone."""

    def labels(self) -> list[str | int]:
        """Return the column names. Raises `InvalidRequest`."""
        if self.columns is None:
            return list(range(len(self.data[0]) if self.data and isinstance(self.data[0], list) else 0))
        if not _LABELS.issuperset(map(type, self.columns)):
            wrong = next(label for label in self.columns if type(label) not in _LABELS)
            raise MalformedBody(f"'dataframe_split.columns' has {short(wrong)}, expected text or a whole number")
        if len({*map(str, self.columns)}) < len(self.columns):
            name, times = Counter(map(str, self.columns)).most_common(1)[0]
            raise InvalidInput(
                f"'dataframe_split.columns' has {short(name)} {times} times; give each column its own name",
                {"column": name},
            )
        return self.columns

    def row_labels(self) -> RowLabels | None:
        """Return the labels of the rows, None for 0, 1, and so on. Raises `MalformedBody`."""
        if not self.index or ({*map(type, self.index)} == {int} and self.index == list(range(len(self.index)))):
            return None
        for label in self.index:
            if isinstance(label, list | dict):
                raise MalformedBody(
                    f"'dataframe_split.index' has {short(label)}, expected text, a number, a boolean or null"
                )
        return RowLabels(tuple(self.index))

    def values(self, width: int) -> Sequence[Values]:
        """Return the values of each of `width` columns, without Python work per row.

        Raises:
            MalformedBody: a row is not a list of `width` values, there are no columns, or the index has another length.
        """
        if self.index is not None and len(self.index) != len(self.data):
            raise MalformedBody(
                f"'dataframe_split.index' has {len(self.index)} labels for the {len(self.data)} rows of 'data'"
            )
        if not self.data:
            return [[]] * width
        if {*map(type, self.data)} == {list} and {*map(len, self.data)} == {width}:
            if not width:
                raise MalformedBody("'dataframe_split' has rows but no columns")
            if len(self.data) > _FEW and {*map(type, chain.from_iterable(self.data))} == {float}:
                return list(np.array(self.data, dtype=np.float64).T)
            return list(map(list, zip(*self.data, strict=True)))
        row, wrong = next(
            (row, one) for row, one in enumerate(self.data) if not isinstance(one, list) or len(one) != width
        )
        what = f"has {len(wrong)} values" if isinstance(wrong, list) else f"is {short(wrong)}"
        raise MalformedBody(
            f"row {row} of 'dataframe_split.data' {what}, expected a list of {width}, one for each column",
            {"row": row, "expected": width},
        )


class InvocationsRequest(Body):
    """The JSON body of MLflow's scoring protocol: exactly one form of input, and `params`."""

    dataframe_split: Annotated[SplitFrame, WithJsonSchema(SplitFrame.model_json_schema())] | None = None
    """A DataFrame as names and rows."""

    dataframe_records: list[Any] | None = Field(
        None, examples=[[{"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}]]
    )
    """A DataFrame as a list of objects."""

    instances: Any = None
    """Rows in TensorFlow Serving's format: objects of columns, or nested lists for a tensor."""

    inputs: Any = None
    """Columns in TensorFlow Serving's format: an object of lists, one tensor, or a single value."""

    params: Any = None
    """Inference parameters by name, if the model's signature has any."""

    stream: StrictBool = False
    """Answer with server-sent events, if the model has `predict_stream`."""


JSON_CALL_KEYS = frozenset({"messages", "prompt", "input"})
"""A body with one of these keys goes to the model whole; MLflow's ``SUPPORTED_LLM_FORMATS``."""

JSON_CALL_SCHEMA = {
    "title": "JsonCall",
    "type": "object",
    "description": "A body that the model gets whole, as chat models and agents do: it has `messages`, `prompt` or "
    "`input`. With `stream` true the answer is server-sent events.",
    "anyOf": [{"required": [key]} for key in sorted(JSON_CALL_KEYS)],
    "properties": {"stream": {"type": "boolean", "default": False}},
}
"""OpenAPI schema of such a body."""


class InvocationsResponse(BaseModel):
    """The response of ``POST /invocations``."""

    predictions: Any = Field(examples=[[78.3]])


CODES: dict[type[ServingError], str] = {
    errors.MalformedBody: "BAD_REQUEST",
    errors.InvalidRequest: "INVALID_PARAMETER_VALUE",
    errors.Unauthenticated: "UNAUTHENTICATED",
    errors.Forbidden: "PERMISSION_DENIED",
    errors.ModelNotFound: "RESOURCE_DOES_NOT_EXIST",
    errors.NotFound: "ENDPOINT_NOT_FOUND",
    errors.Conflict: "RESOURCE_CONFLICT",
    errors.TooLarge: "BAD_REQUEST",
    errors.UnsupportedMediaType: "BAD_REQUEST",
    errors.Unsupported: "NOT_IMPLEMENTED",
    errors.Overloaded: "RESOURCE_EXHAUSTED",
    errors.Unavailable: "TEMPORARILY_UNAVAILABLE",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.ServingError: "INTERNAL_ERROR",
}
"""MLflow's error code of each class and of its subclasses without a code of their own."""


class InvocationsError(ErrorBody):
    """MLflow's error, with details and the request id."""

    error_code: str
    message: str
    details: dict[str, Any]
    request_id: str

    @staticmethod
    def describe(error: ServingError) -> dict[str, Any]:
        code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
        if isinstance(error, InvalidInput) and _is_value_error(error.details):
            code = "BAD_REQUEST"
        return {"error_code": code, "message": error.message, "details": error.details}


def _is_value_error(details: Mapping[str, Any]) -> bool:
    """Tell a wrong value, which MLflow finds in the body, from a wrong name or shape, which its model finds."""
    return "row" in details and "missing" not in details and details.get("expected") != "object"
