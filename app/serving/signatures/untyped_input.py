"""Input of a model without a signature: each request has the types of its own values.

The types are part of the layout, so requests of different types never share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.serving.rows import Array, Rows, Values
from app.serving.signatures.casting import texts
from app.serving.signatures.columns import Column, as_lists, by_name
from app.serving.signatures.scalars import infer_array
from app.serving.signatures.tensors import tensor_rows, untyped_tensor
from app.serving.signatures.validation_errors import no_dimensions


class UntypedInput:
    """Values of any type, read as pandas and numpy read them."""

    columns: tuple[Column, ...] = ()
    tensor: Column | None = None
    fixed_rows: int | None = None

    def from_records(self, records: list[Any], params: str) -> Rows:
        """Read rows as objects with the same names: a DataFrame, its columns in the order of the first row."""
        return self.from_columns(by_name(records), params)

    def from_columns(self, columns: Mapping[str, Any], params: str) -> Rows:
        """Read columns by name: a DataFrame, or a dict of arrays if one of them has more than one dimension."""
        arrays = {name: _column(values) for name, values in as_lists(columns).items()}
        flat = all(array.ndim == 1 for array in arrays.values())
        return tensor_rows("columns" if flat else "tensors", arrays, params)

    def from_instances(self, instances: list[Any], params: str) -> Rows:
        """Read rows as objects, or as the rows of one array. Objects that hold lists are a dict of arrays."""
        if any(isinstance(instance, dict) for instance in instances):
            return self.from_inputs(by_name(instances), params)
        return tensor_rows("tensor", {"": untyped_tensor("", instances)}, params)

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Read columns by name, rows as in `from_instances`, or one value. Nested columns are a dict of arrays."""
        if not isinstance(inputs, dict):
            return self.from_instances(inputs if isinstance(inputs, list) else [inputs], params)
        if not any(isinstance(item, list) for values in inputs.values() if isinstance(values, list) for item in values):
            return self.from_columns(inputs, params)
        return tensor_rows("tensors", {name: untyped_tensor(name, values) for name, values in inputs.items()}, params)

    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows:
        """Read arrays: one as it is; several as columns if all are flat, else as a dict of arrays."""
        given = {name: texts(name, array) if array.dtype.hasobject else array for name, array in tensors.items()}
        for name, array in given.items():
            if not array.ndim:
                raise no_dimensions(name)
        if len(given) == 1 and next(iter(given.values())).ndim > 1:
            return tensor_rows("tensor", given, params)
        return self.from_columns(given, params)


def _column(values: Values) -> Array:
    if isinstance(values, list):
        return infer_array(values)
    return values.astype(object) if values.dtype.kind in "US" and values.ndim == 1 else values
