"""Input of a model without a signature: each request has the types of its own values.

The types are part of the layout, so requests of different types never share a batch. What the model gets is what it
would get from MLflow's server: a DataFrame for tables, arrays or dicts of arrays for ``inputs`` and ``instances``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

from app.errors import TooLarge
from app.serving.rows import Array, Layout, Rows, Values
from app.serving.signatures.casting import texts
from app.serving.signatures.columns import Column, as_lists, by_name
from app.serving.signatures.scalars import infer_column
from app.serving.signatures.tensors import flatten, tensor_rows, untyped_tensors
from app.serving.signatures.validation_errors import Misfit, check_records, no_dimensions, refusal

MAX_NAMES = 2**16
"""Limit on the different names in the rows of a table."""

MAX_MISSING = 2**20
"""Limit on the values that the rows of a table lack: a row lacks every name that only other rows have."""


class UntypedInput:
    """Values of any type, read as pandas and numpy read them."""

    columns: tuple[Column, ...] = ()
    tensor: Column | None = None
    fixed_rows: int | None = None

    def from_records(self, records: list[Any], params: str) -> Rows:
        """Read rows as objects, as lists, or as the values of one column: a DataFrame.

        Objects may have different names, in the order in which they first occur; what one lacks is NaN.
        """
        columns = _columns_of(records)
        if not columns:
            return Rows(Layout("columns", (), (), (), params, alone=True), (), len(records))
        return self.from_columns(columns, params)

    def from_columns(self, columns: Mapping[Any, Any], params: str) -> Rows:
        """Read columns by name: a DataFrame, or a dict of arrays if one of them has more than one dimension."""
        arrays = {name: _column(values) for name, values in as_lists(columns).items()}
        flat = all(array.ndim == 1 for array in arrays.values())
        return tensor_rows("columns" if flat else "tensors", arrays, params)

    def from_instances(self, instances: list[Any], params: str) -> Rows:
        """Read rows as objects with the same names: a dict of arrays. Anything else is read as `from_inputs` does."""
        if instances and isinstance(instances[0], dict):
            return self.from_inputs(by_name(instances), params)
        return self.from_inputs(instances, params)

    def from_inputs(self, inputs: Any, params: str) -> Rows:
        """Read arrays by name, of any lengths, a list of objects, whose values become arrays, or one array."""
        if isinstance(inputs, dict):
            return tensor_rows("tensors", dict(zip(inputs, untyped_tensors(inputs.items()), strict=True)), params)
        if isinstance(inputs, list) and all(isinstance(one, dict) for one in inputs):
            arrays = untyped_tensors(pair for one in inputs for pair in one.items())
            return list_rows([{name: next(arrays) for name in one} for one in inputs], params)
        return tensor_rows("tensor", {"": next(untyped_tensors([("", inputs)]))}, params)

    def from_tensors(self, tensors: Mapping[str, Array], params: str) -> Rows:
        """Read arrays: one as it is; several as columns if all are flat and of one length, else as a dict of arrays."""
        given = {name: texts(name, array) if array.dtype.hasobject else array for name, array in tensors.items()}
        for name, array in given.items():
            if not array.ndim:
                raise no_dimensions(name)
        if len(given) == 1 and next(iter(given.values())).ndim > 1:
            return tensor_rows("tensor", given, params)
        if len({*map(len, given.values())}) > 1:
            return tensor_rows("tensors", given, params)
        return self.from_columns(given, params)


def list_rows(values: list[Any], params: str) -> Rows:
    """Make the rows of a request from Python values, which the model gets as a list."""
    return Rows(Layout("list", (), ("object",), ((),), params, alone=not values), (values,), len(values))


def _columns_of(records: list[Any]) -> dict[Any, list[Any]]:
    kinds = {*map(type, records)}
    if dict in kinds:
        check_records(records, (), ()) if kinds != {dict} else None
        names = dict.fromkeys(chain.from_iterable(records))
        _check_size(names, records)
        return {name: [record.get(name, math.nan) for record in records] for name in names}
    if list not in kinds:
        return {0: records} if records else {}
    try:
        flatten(records, deepest=2)
    except Misfit as misfit:
        raise refusal("", misfit) from None
    return {index: list(values) for index, values in enumerate(zip(*records, strict=True))}


def _check_size(names: Collection[Any], records: Sequence[Mapping[Any, Any]]) -> None:
    """Raise `TooLarge` if the table is far larger than its rows, because each row has names of its own."""
    if len(names) > MAX_NAMES:
        raise TooLarge(
            f"the rows have {len(names)} different names; at most {MAX_NAMES} are allowed", {"limit": MAX_NAMES}
        )
    missing = len(names) * len(records) - sum(map(len, records))
    if missing > MAX_MISSING:
        raise TooLarge(
            f"the {len(records)} rows have {len(names)} different names, and lack {missing} values together; at most "
            f"{MAX_MISSING} may be missing: send rows with the same names",
            {"limit": MAX_MISSING},
        )


def _column(values: Values) -> Array:
    if isinstance(values, list):
        return infer_column(values)
    return values.astype(object) if values.dtype.kind in "US" and values.ndim == 1 else values
