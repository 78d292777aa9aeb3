"""Input of a model with a tensor-based signature: one array, or several by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.errors import InvalidInput
from app.serving.columns import Column, as_lists, dtype_name
from app.serving.misfit import listed, no_rows, not_an_object, unequal, wrong_names
from app.serving.tables import Layout, Rows
from app.serving.tensors import Tensor


class TensorInput:
    """The tensors of one signature, compiled.

    `columns` are the named ones, `tensor` is the only one of a signature without names. `fixed_rows` is the number of
    rows that the model takes at once, where its signature fixes it: such inputs must not be stacked.

    Raises:
        KeyError: a tensor has a dtype that is not read, or no dimension of rows.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        described, self._tensors = [], []
        for spec in specs:
            name, kind = str(spec.get("name") or ""), spec["tensor-spec"]
            dtype, shape = np.dtype(kind["dtype"]), tuple(kind["shape"])
            self._tensors.append(Tensor(name, kind["dtype"], shape))
            described.append(Column(name, f"tensor({kind['dtype']})", True, dtype_name(np.empty(0, dtype)), shape))
        unnamed = not described[0].name
        self.columns = () if unnamed else tuple(described)
        self.tensor = described[0] if unnamed else None
        self.fixed_rows = next((column.shape[0] for column in described if column.shape[0] != -1), None)
        self._names = tuple(column.name for column in self.columns)

    def from_records(self, records: Sequence[Any], params: str) -> Rows:
        """Rows as objects: one value per tensor; without names, the numbers of a row in the order of the first."""
        names = self._names or _keys(records)
        for row, record in enumerate(records):
            if not isinstance(record, dict):
                raise not_an_object(record, row)
            if record.keys() != set(names):
                raise wrong_names(record, names, names, row)
        return self.from_columns({name: [record[name] for record in records] for name in names}, params)

    def from_columns(self, columns: Mapping[str, Any], params: str) -> Rows:
        """Tensors by name. Without names, one is the tensor and several are its columns, in their order."""
        if self._names:
            if columns.keys() != set(self._names):
                raise wrong_names(columns, self._names, self._names)
            return self._rows([columns[name] for name in self._names], params)
        if len(columns) == 1:
            return self._rows(list(columns.values()), params)
        lists = [values.tolist() if isinstance(values, np.ndarray) else values for values in as_lists(columns).values()]
        return self._rows([list(map(list, zip(*lists, strict=True)))], params)

    def from_instances(self, instances: Sequence[Any], params: str) -> Rows:
        """Rows as objects by tensor name, or as the rows of the only tensor."""
        if any(isinstance(instance, dict) for instance in instances):
            return self.from_records(instances, params)
        return self.from_inputs(instances, params)

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Tensors by name, or the only tensor."""
        if isinstance(inputs, dict):
            return self.from_columns(inputs, params)
        if isinstance(inputs, list) and any(isinstance(item, dict) for item in inputs):
            return self.from_records(inputs, params)
        if len(self._tensors) > 1:
            raise InvalidInput(
                f"the model takes several tensors: give each by name, {listed(self._names)}",
                {"expected": list(self._names)},
            )
        return self._rows([inputs], params)

    def _rows(self, values: Sequence[Any], params: str) -> Rows:
        arrays = tuple(tensor.convert(given) for tensor, given in zip(self._tensors, values, strict=True))
        count = len(arrays[0])
        if any(len(array) != count for array in arrays):
            raise unequal({name: len(array) for name, array in zip(self._names, arrays, strict=True)})
        if not count:
            raise no_rows()
        layout = Layout(
            kind="tensors" if self._names else "tensor",
            names=self._names,
            dtypes=tuple(map(dtype_name, arrays)),
            shapes=tuple(array.shape[1:] for array in arrays),
            params=params,
        )
        return Rows(layout, arrays, count)


def _keys(records: Sequence[Any]) -> tuple[str, ...]:
    return tuple(records[0]) if records and isinstance(records[0], dict) else ()
