"""Input of a model without a signature: the types are those that each request has.

They are part of the layout, so requests of different types never share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from app.serving.rows import Array, Layout, Rows, Values
from app.serving.signatures.casting import texts
from app.serving.signatures.columns import Column, as_lists, dtype_name
from app.serving.signatures.scalars import Untyped
from app.serving.signatures.tensors import untyped_tensor
from app.serving.signatures.validation_errors import no_rows, not_an_object, unequal, without_rows, wrong_names


class UntypedInput:
    """Whatever the caller sends, as pandas and numpy would read it."""

    columns: tuple[Column, ...] = ()
    tensor: Column | None = None
    fixed_rows: int | None = None

    def from_records(self, records: list[Any], params: str) -> Rows:
        """Rows as objects with the same names: a DataFrame, its columns in the order of the first row."""
        names = tuple(records[0]) if records and isinstance(records[0], dict) else ()
        for row, record in enumerate(records):
            if not isinstance(record, dict):
                raise not_an_object(record, row)
            if record.keys() != records[0].keys():
                raise wrong_names(record, names, names, row)
        return self.from_columns({name: [record[name] for record in records] for name in names}, params)

    def from_columns(self, columns: Mapping[str, Any], params: str) -> Rows:
        """Values by column name: a DataFrame, or a dict of arrays where one has more dimensions than a column."""
        arrays = {name: self._column(values) for name, values in as_lists(columns).items()}
        flat = all(array.ndim == 1 for array in arrays.values())
        return _rows("columns" if flat else "tensors", arrays, params)

    def from_instances(self, instances: list[Any], params: str) -> Rows:
        """Rows as objects, or as the rows of one array. Objects that hold lists are a dict of arrays."""
        if not any(isinstance(instance, dict) for instance in instances):
            return _rows("tensor", {"": untyped_tensor("", instances)}, params)
        records = self.from_records(instances, params)
        if not any(isinstance(value, list) for instance in instances for value in instance.values()):
            return records
        names = records.layout.names
        return self._tensors({str(name): [instance[name] for instance in instances] for name in names}, params)

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Columns by name, rows as in `from_instances`, or one value. Nested columns are a dict of arrays."""
        if not isinstance(inputs, dict):
            return self.from_instances(inputs if isinstance(inputs, list) else [inputs], params)
        if not any(isinstance(item, list) for values in inputs.values() if isinstance(values, list) for item in values):
            return self.from_columns(inputs, params)
        return self._tensors(inputs, params)

    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows:
        """One array, as it is; several are columns where all are flat, and a dict of arrays else."""
        given = {name: texts(name, array) if array.dtype.hasobject else array for name, array in tensors.items()}
        for name, array in given.items():
            if not array.ndim:
                raise without_rows(name)
        if len(given) == 1 and next(iter(given.values())).ndim > 1:
            return _rows("tensor", given, params)
        return self.from_columns(given, params)

    def _tensors(self, columns: Mapping[str, Any], params: str) -> Rows:
        return _rows("tensors", {name: untyped_tensor(name, values) for name, values in columns.items()}, params)

    def _column(self, values: Values) -> Array:
        if isinstance(values, list):
            return Untyped().convert(values)
        return values.astype(object) if values.dtype.kind in "US" and values.ndim == 1 else values


def _rows(kind: Literal["columns", "tensor", "tensors"], arrays: Mapping[str, Array], params: str) -> Rows:
    lengths = {name: len(array) for name, array in arrays.items()}
    count = next(iter(lengths.values()), 0)
    if any(length != count for length in lengths.values()):
        raise unequal(lengths)
    if not count:
        raise no_rows()
    layout = Layout(
        kind=kind,
        names=tuple(arrays) if kind != "tensor" else (),
        dtypes=tuple(dtype_name(array.dtype) for array in arrays.values()),
        shapes=tuple(array.shape[1:] for array in arrays.values()),
        params=params,
    )
    return Rows(layout, tuple(arrays.values()), count)
