"""Input of a model that MLflow validates by its type hint: Python values, as the caller sent them.

The class in a hint exists only in the process that holds the model, so `app.adapters.mlflow.type_hints` validates
there: defaults are filled in, and the fields that the class allows are kept. Here only the form is checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.errors import InvalidInput
from app.serving.rows import Array, Rows
from app.serving.signatures.casting import documents, texts
from app.serving.signatures.column_input import ColumnInput
from app.serving.signatures.columns import Column
from app.serving.signatures.untyped_input import UntypedInput, list_rows
from app.serving.signatures.validation_errors import no_dimensions, short, unequal


class HintedInput:
    """The only input of a signature that MLflow inferred from a hint such as ``list[Message]``.

    Raises:
        KeyError: it has an unknown type.
    """

    tensor: Column | None = None
    fixed_rows: int | None = None

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        self.columns = ColumnInput(specs).columns
        self._type = str(specs[0]["type"])
        self._tables = UntypedInput()

    def from_records(self, records: list[Any], params: str) -> Rows:
        """Read one value per row."""
        return list_rows(records, params)

    def from_columns(self, columns: Mapping[Any, Any], params: str) -> Rows:
        """Read a DataFrame, which MLflow converts: the only column holds the values, or each row is an object."""
        return self._tables.from_columns(columns, params)

    from_instances = from_records

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Read a list of values."""
        if not isinstance(inputs, list):
            raise InvalidInput(f"the input is {short(inputs)}, expected a list of values", {"expected": "list"})
        return list_rows(inputs, params)

    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows:
        """Read the only tensor as one value per row, or several as objects. Objects in one tensor are JSON text."""
        for name, array in tensors.items():
            if not array.ndim:
                raise no_dimensions(name)
        lengths = {name: len(array) for name, array in tensors.items()}
        if len({*lengths.values()}) > 1:
            raise unequal(lengths)
        is_object = self._type in ("object", "map")
        ((name, array), *others) = tensors.items()
        if not others and not (is_object and not array.dtype.hasobject):
            return list_rows(self._values(name, array), params)
        columns = [(texts(name, array) if array.dtype.hasobject else array).tolist() for name, array in tensors.items()]
        return list_rows([dict(zip(tensors, row, strict=True)) for row in zip(*columns, strict=True)], params)

    def _values(self, name: str, array: Array) -> list[Any]:
        if array.dtype.hasobject and self._type != "binary":
            nested = self._type in ("object", "map", "array") and array.ndim == 1
            array = documents(name, array) if nested else texts(name, array)
        values: list[Any] = array.tolist()
        return values
