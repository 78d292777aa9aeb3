"""Input of a model whose signature has columns without names: they match by their positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.errors import InvalidInput
from app.serving.rows import Array, Rows
from app.serving.signatures.column_input import ColumnInput
from app.serving.signatures.columns import by_name
from app.serving.signatures.validation_errors import listed


class PositionalInput(ColumnInput):
    """Columns without names, compiled. The model gets the caller's names, or 0, 1, and so on for lists and tensors."""

    def from_records(self, records: list[Any], params: str) -> Rows:
        """Read rows as objects with the same names, in the order of the first, or as values of the only column."""
        if self._rows_are_objects and not self._rows_are_lists:
            return super().from_records(records, params)
        return self.from_columns(by_name(records), params)

    def from_columns(self, columns: Mapping[Any, Any], params: str) -> Rows:
        """Read as many columns as the signature has, with any names, in its order."""
        self._check_width(columns)
        rows = self._named(dict(zip(self._names, columns.values(), strict=True)), params)
        labels = tuple(columns)
        return rows if labels == self._labels else replace(rows, layout=rows.layout._replace(names=labels))

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Read columns in order, rows as in `from_instances`, or one value of a single column."""
        if isinstance(inputs, dict) and not self._rows_are_objects:
            return self.from_columns(inputs, params)
        return super().from_inputs(inputs, params)

    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows:
        """Read one array per column, by position, or one ``[n, width]`` array for all."""
        if tensors.keys() != self._allowed and len(tensors) == self._width:
            tensors = dict(zip(self._names, tensors.values(), strict=True))
        return super().from_tensors(tensors, params)

    def _check_width(self, columns: Mapping[Any, Any]) -> None:
        if len(columns) != self._width:
            kinds = ", ".join(column.type for column in self.columns)
            raise InvalidInput(
                f"the input has {len(columns)} columns{': ' if columns else ''}{listed([*map(str, columns)])}; "
                f"the model takes {self._width} without names, in this order: {kinds}",
                {"columns": len(columns), "expected": self._width},
            )
