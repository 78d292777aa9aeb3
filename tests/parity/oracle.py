"""What a model gets for one request to ``/invocations``: from MLflow's own scoring server, and from the gateway.

No model is saved and no server starts: both sides run in this process, around a model that keeps what it gets.
"""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema

from app.adapters.mlflow.enforcement import skip_enforcement
from app.adapters.mlflow.model_io import model_input
from app.api.http.json_text import parse_json
from app.api.mlflow.bodies import InvocationsRequest
from app.api.mlflow.csv import csv_columns
from app.api.mlflow.endpoints import CSV, _payload
from app.api.mlflow.tables import TableLimits
from app.errors import InvalidRequest
from app.serving.prediction.requests import Payload
from app.serving.rows import stack
from app.serving.signatures.signature import Signature

logging.getLogger(scoring_server.__name__).setLevel(logging.ERROR)  # it advises against `instances`

_LIMITS = TableLimits(1000, 10**9, 10**6)


class Refused(Exception):
    """One side answers with the status 400."""


class _Keeper:
    """A model that keeps its input."""

    def __init__(self) -> None:
        self.given: Any = None

    def predict(self, data: Any, params: Any = None) -> list[int]:
        self.given = data
        return []


class Pair:
    """A signature, None for none, as MLflow's server and as the gateway read it."""

    def __init__(self, specs: Sequence[Any] | None) -> None:
        self.specs = specs

    def __repr__(self) -> str:
        return f"Pair({self.specs})"

    def theirs(self, body: bytes, content_type: str = "application/json") -> Any:
        """Return what MLflow gives the model. Raises `Refused`."""
        keeper, model = self._model()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of pandas
            try:
                scoring_server.invocations(body, content_type, model, model.metadata.get_input_schema())
            except Exception as error:
                raise Refused(str(error)) from None
        return keeper.given

    def ours(self, body: bytes, content_type: str = "application/json") -> Any:
        """Return what the gateway gives the model. Raises `Refused`."""
        keeper, model = self._model()
        skip_enforcement(model)
        try:
            payload = self._payload(body, content_type)
            rows = self.signature.rows(payload.form, payload.value)
        except InvalidRequest as error:
            raise Refused(error.message) from None
        if payload.labels is not None:
            rows = rows.labeled(payload.labels)
        batch = pickle.loads(pickle.dumps(stack([rows])))
        model.predict(model_input(batch))
        return keeper.given

    @cached_property
    def signature(self) -> Signature:
        return Signature.compile(json.loads(self._schema.to_json()) if self._schema is not None else None)

    @cached_property
    def _schema(self) -> Schema | None:
        return Schema(list(self.specs)) if self.specs is not None else None

    def _model(self) -> tuple[_Keeper, PyFuncModel]:
        signature = ModelSignature(inputs=self._schema) if self._schema is not None else None
        keeper = _Keeper()
        return keeper, PyFuncModel(Model(signature=signature, flavors={"python_function": {}}), keeper)

    def _payload(self, body: bytes, content_type: str) -> Payload:
        if content_type == CSV:
            return Payload("columns", csv_columns(body, self.signature, _LIMITS))
        read = _payload(InvocationsRequest.read(parse_json(body, 100, constants=True)))
        if isinstance(read, Payload):
            return read
        step = read(self.signature).__await__()  # it awaits nothing
        try:
            next(step)
        except StopIteration as done:
            payload: Payload = done.value
            return payload
        raise AssertionError("the reader waits")


def canonical(given: Any, content_type: str = "application/json") -> Any:
    """Describe an input by everything that a model can see of it, except what MLflow itself does not keep to.

    A range and the same whole numbers are one index. In cells, lists and arrays are alike. The last digits of numbers
    in a CSV depend on the parser.
    """
    read = _rounded if content_type == CSV else _cell
    if isinstance(given, pd.DataFrame):
        index = [(type(label).__name__, repr(label)) for label in given.index.tolist()]
        counts = given.index.equals(pd.RangeIndex(len(given)))
        columns = [
            (repr(label), str(given.dtypes.iloc[place]), [read(value) for value in given.iloc[:, place].tolist()])
            for place, label in enumerate(given.columns.tolist())
        ]
        return "DataFrame", len(given) if counts else (str(given.index.dtype), index), columns
    if isinstance(given, np.ndarray):
        dtype = "text" if given.dtype.kind == "U" else str(given.dtype)
        return "array", dtype, given.shape, [read(value) for value in given.ravel().tolist()]
    if isinstance(given, dict):
        return "dict", [(name, canonical(value)) for name, value in given.items()]
    if isinstance(given, list):
        return "list", [canonical(value) for value in given]
    return read(given)


def _rounded(value: Any) -> Any:
    return _cell(float(f"{value:.12g}") if isinstance(value, float) else value)


def _cell(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list):
        return [_cell(one) for one in value]
    if isinstance(value, dict):
        return {key: _cell(one) for key, one in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    return type(value).__name__, repr(value)
