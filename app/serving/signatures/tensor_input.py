"""Input of a model with a tensor-based signature: one array, or several by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.errors import InvalidInput
from app.serving.rows import Array, Layout, Rows
from app.serving.signatures.casting import texts
from app.serving.signatures.columns import Column, as_lists
from app.serving.signatures.tensors import Tensor
from app.serving.signatures.validation_errors import listed, no_rows, not_an_object, unequal, wrong_names


class TensorInput:
    """The tensors of one signature, compiled.

    `columns` are the named ones, `tensor` is the only one of a signature without names. `fixed_rows` is the number of
    rows that the model takes at once, where its signature fixes it: such inputs must not be stacked.

    Raises:
        KeyError: a tensor has a dtype that is not read, or no dimension of rows.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        self._tensors = [
            Tensor(spec.get("name") or "", spec["tensor-spec"]["dtype"], spec["tensor-spec"]["shape"]) for spec in specs
        ]
        described = [Column(one.name, f"tensor({one.dtype})", True, one.dtype, one.shape) for one in self._tensors]
        unnamed = not described[0].name
        self.columns = () if unnamed else tuple(described)
        self.tensor = described[0] if unnamed else None
        self.fixed_rows = next((column.shape[0] for column in described if column.shape[0] != -1), None)
        self._names = tuple(column.name for column in self.columns)

    def from_records(self, records: list[Any], params: str) -> Rows:
        """Rows as objects: one value per tensor; without names, the numbers of a row in the order of the first."""
        names = self._names or _keys(records)
        expected = set(names)
        for row, record in enumerate(records):
            if not isinstance(record, dict):
                raise not_an_object(record, row)
            if record.keys() != expected:
                raise wrong_names(record, names, names, row)
        return self.from_columns({name: [record[name] for record in records] for name in names}, params)

    def from_columns(self, columns: Mapping[str, Any], params: str) -> Rows:
        """Tensors by name. Without names, one is the tensor and several are its columns, in their order."""
        if self._names and columns.keys() != set(self._names):
            raise wrong_names(columns, self._names, self._names)
        lists = as_lists(columns)
        if self._names:
            return self._rows([lists[name] for name in self._names], params)
        if len(lists) == 1:
            return self._rows(list(lists.values()), params)
        plain = [values.tolist() if isinstance(values, np.ndarray) else values for values in lists.values()]
        return self._rows([list(map(list, zip(*plain, strict=True)))], params)

    def from_instances(self, instances: list[Any], params: str) -> Rows:
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

    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows:
        """Tensors by name. Where the only one has no name, it may be called anything."""
        if not self._names and len(tensors) != 1:
            raise InvalidInput(
                f"the model takes one tensor, of any name, not {listed(list(tensors))}", {"expected": "one tensor"}
            )
        # Text and objects come as bytes; only a tensor of bytes takes them so.
        plain = [
            texts(name, array) if array.dtype.hasobject and not self._is_bytes(name) else array
            for name, array in tensors.items()
        ]
        if not self._names:
            return self._rows(plain, params)
        if tensors.keys() != set(self._names):
            raise wrong_names(tensors, self._names, self._names)
        given = dict(zip(tensors, plain, strict=True))
        arrays = [given[name] for name in self._names]
        lengths = {name: len(array) for name, array in given.items() if array.ndim}
        if len({*lengths.values()}) > 1:
            raise unequal(lengths)
        return self._rows(arrays, params)

    def _is_bytes(self, name: str) -> bool:
        return any(tensor.dtype == "bytes" and tensor.name in ("", name) for tensor in self._tensors)

    def _rows(self, values: Sequence[Any], params: str) -> Rows:
        arrays = tuple(tensor.convert(given) for tensor, given in zip(self._tensors, values, strict=True))
        if not len(arrays[0]):
            raise no_rows()
        layout = Layout(
            kind="tensors" if self._names else "tensor",
            names=self._names,
            dtypes=tuple(tensor.dtype for tensor in self._tensors),
            shapes=tuple(array.shape[1:] for array in arrays),
            params=params,
        )
        return Rows(layout, arrays, len(arrays[0]))


def _keys(records: Sequence[Any]) -> tuple[str, ...]:
    return tuple(records[0]) if records and isinstance(records[0], dict) else ()
