"""Input of a model with a tensor-based signature: one array, or several by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.errors import InvalidInput
from app.serving.rows import Array, Rows
from app.serving.signatures.casting import texts
from app.serving.signatures.columns import Column, as_lists, by_name
from app.serving.signatures.tensors import TensorSpec, tensor_rows
from app.serving.signatures.validation_errors import listed, wrong_names


class TensorInput:
    """The tensors of one signature, compiled.

    `columns` are the named tensors, `tensor` is the only one of a signature without names. `fixed_rows` is the number
    of rows per call if the signature fixes it: such inputs must not be stacked.

    Raises:
        KeyError: a tensor has an unsupported dtype, or no dimensions.
    """

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        self._tensors = [
            TensorSpec(spec.get("name") or "", spec["tensor-spec"]["dtype"], spec["tensor-spec"]["shape"])
            for spec in specs
        ]
        described = [Column(one.name, f"tensor({one.dtype})", True, one.dtype, one.shape) for one in self._tensors]
        unnamed = not described[0].name
        self.columns = () if unnamed else tuple(described)
        self.tensor = described[0] if unnamed else None
        self.fixed_rows = next((column.shape[0] for column in described if column.shape[0] != -1), None)
        self._names = tuple(column.name for column in self.columns)

    def from_records(self, records: list[Any], params: str) -> Rows:
        """Read rows as objects: one value per tensor. Without names, the numbers of a row in the order of the first."""
        return self.from_columns(by_name(records, self._names), params)

    def from_columns(self, columns: Mapping[str, Any], params: str) -> Rows:
        """Read tensors by name. Without names, one is the tensor and several are its columns, in their order."""
        if self._names:
            return self._named(columns, params)
        lists = as_lists(columns)
        if len(lists) == 1:
            return self._rows(list(lists.values()), params)
        plain = [values.tolist() if isinstance(values, np.ndarray) else values for values in lists.values()]
        return self._rows([list(map(list, zip(*plain, strict=True)))], params)

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Read tensors by name, which may differ in length, rows as objects, or the only tensor."""
        if isinstance(inputs, dict):
            return self._named(inputs, params) if self._names else self.from_columns(inputs, params)
        if isinstance(inputs, list) and any(isinstance(item, dict) for item in inputs):
            return self.from_records(inputs, params)
        if len(self._tensors) > 1:
            raise InvalidInput(
                f"the model takes several tensors; send each by name: {listed(self._names)}",
                {"expected": list(self._names)},
            )
        return self._rows([inputs], params)

    from_instances = from_inputs

    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows:
        """Read tensors by name. A tensor without a name in the signature may have any name here."""
        if not self._names and len(tensors) != 1:
            raise InvalidInput(
                f"the model takes one tensor, of any name, not {listed(list(tensors))}", {"expected": "one tensor"}
            )
        if self._names and tensors.keys() != set(self._names):
            raise wrong_names(tensors, self._names, self._names)
        names = self._names or tuple(tensors)
        # Text and JSON arrive as bytes.
        arrays = [
            texts(name, tensors[name]) if tensors[name].dtype.hasobject and tensor.dtype != "bytes" else tensors[name]
            for name, tensor in zip(names, self._tensors, strict=True)
        ]
        return self._rows(arrays, params)

    def _named(self, columns: Mapping[str, Any], params: str) -> Rows:
        if columns.keys() != set(self._names):
            raise wrong_names(columns, self._names, self._names)
        lists = as_lists(columns, equal=False)
        return self._rows([lists[name] for name in self._names], params)

    def _rows(self, values: Sequence[Any], params: str) -> Rows:
        arrays = {tensor.name: tensor.convert(given) for tensor, given in zip(self._tensors, values, strict=True)}
        return tensor_rows("tensors" if self._names else "tensor", arrays, params)
