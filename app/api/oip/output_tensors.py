"""Conversion of a model's output to tensors of the Open Inference Protocol.

If the signature has outputs, the tensors have the names and datatypes that the model's metadata promises. Otherwise
they are what the model answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from app.api.oip.metadata import UNNAMED, Promise, promises
from app.api.oip.tensor_values import OutputTensor, natural, promised
from app.errors import ModelFailed
from app.serving.json_output import predictions
from app.serving.rows import Array, Output, as_array
from app.serving.signatures.signature import Signature


def output_tensors(output: Output, signature: Signature) -> list[OutputTensor]:
    """Make the tensors of an output: first the promised ones, then others that the model answered.

    Raises:
        ModelFailed: a promised output is missing or does not fit its datatype, or the protocol has no form for a value.
    """
    wanted = promises(signature)
    if len(wanted) == 1 and output.kind == "tensor" and not output.arrays[0].dtype.hasobject:  # the usual case
        return [promised(wanted[0], output.arrays[0])]
    if len(wanted) == 1 and wanted[0].is_whole:
        return [promised(wanted[0], _rows(output))]
    given = _named(output, by_key=bool(wanted) and wanted[0].is_named)
    if not wanted:
        return [natural(name, array) for name, array in given.items()]
    found = _by_name(wanted, given, output.count)
    if found is None:
        return list(map(promised, wanted, _by_position(wanted, given, is_ordered=output.kind == "tuple")))
    names = {promise.name for promise in wanted}
    others = [natural(name, array) for name, array in given.items() if name not in names]
    return [*map(promised, wanted, found), *others]


def _named(output: Output, *, by_key: bool) -> dict[str, Array]:
    """Name the arrays of an output. A dict with other values than arrays has one array per entry.

    Args:
        by_key: make columns of a list of dicts with unequal keys too.
    """
    if output.names:
        return dict(zip(output.names, output.arrays, strict=True))
    (array,) = output.arrays
    cells = array.tolist() if array.dtype.hasobject and array.ndim == 1 else []
    value = cells[0] if output.kind == "value" and cells else None
    if isinstance(value, dict) and value:
        return {name: _entry(entry) for name, entry in value.items()}
    are_dicts = output.kind == "tensor" and bool(cells) and all(isinstance(cell, dict) for cell in cells)
    if are_dicts and (by_key or _have_equal_keys(cells)):
        return {name: _entry([cell.get(name) for cell in cells]) for name in dict.fromkeys(chain.from_iterable(cells))}
    return {UNNAMED: _entry(value) if isinstance(value, list) else array}


def _have_equal_keys(cells: Sequence[dict[str, Any]]) -> bool:
    """Return whether these dicts are columns: a model's rows may differ in keys, and this request's may not."""
    return bool(cells[0]) and all(cell.keys() == cells[0].keys() for cell in cells)


def _entry(value: Any) -> Array:
    if isinstance(value, np.ndarray):
        return value
    return as_array(value if isinstance(value, list) else [value], np.dtype(object))


def _rows(output: Output) -> Array:
    """Make one array of everything that the model answered."""
    if output.kind in ("tensor", "series", "value"):
        return output.arrays[0]
    values = predictions(output)
    return _entry(values if output.kind == "columns" else [values])


def _by_position(wanted: Sequence[Promise], given: Mapping[str, Array], *, is_ordered: bool) -> Sequence[Array]:
    """Return the array of each promise where the model or its signature has no names.

    Args:
        is_ordered: the model gave no names.

    Raises:
        ModelFailed: there is another number of arrays.
    """
    arrays = list(given.values())
    if len(wanted) == len(arrays) and (len(wanted) == 1 or is_ordered or not wanted[0].is_named):
        return arrays
    if len(arrays) == 1 and not arrays[0].size:
        return arrays * len(wanted)
    if len(arrays) == 1 and arrays[0].ndim == 2 and arrays[0].shape[1] == len(wanted):
        return list(arrays[0].T)
    expected = [promise.name for promise in wanted]
    raise ModelFailed(
        f"the model answered the outputs {', '.join(given)}, but its signature declares {', '.join(expected)}",
        {"outputs": [*given], "expected": expected},
    )


def _by_name(wanted: Sequence[Promise], given: Mapping[str, Array], count: int) -> list[Array] | None:
    """Return the array of each promise, nulls for an optional one that is missing; None if a required one is."""
    if not any(promise.name in given for promise in wanted):
        return None
    if not all(promise.name in given or promise.is_optional for promise in wanted):
        return None
    nulls = _entry([None] * count)
    return [given.get(promise.name, nulls) for promise in wanted]
