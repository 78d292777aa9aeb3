"""Metadata of the Open Inference Protocol for the tensors of a signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from app.api.oip.bodies import TensorMetadata
from app.oip.datatypes import datatype_of
from app.serving.signatures.nested import type_name
from app.serving.signatures.signature import Signature

INPUT = "input"
"""Name of the only input if the signature has none for it; requests may use any name."""

UNNAMED = "output"
"""Name of the only output if neither the model nor its signature has one for it."""

_WITHOUT_NULL = {"boolean", "integer", "long"}
_LISTS = {"array", "sparkml_vector"}
_WHOLE = {"any", "map", "object"}
_SCALARS = {"boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64"}


def input_metadata(signature: Signature) -> list[TensorMetadata]:
    """Describe the inputs of a model: one tensor per column, or its tensors. Empty without a signature."""
    if signature.tensor is not None:
        return [_tensor(INPUT, signature.tensor.dtype, signature.tensor.shape)]
    if signature.is_tensor:
        return [_tensor(column.name, column.dtype, column.shape) for column in signature.columns]
    return [_column(column.name, column.type) for column in signature.columns]


def output_metadata(signature: Signature) -> list[TensorMetadata]:
    """Describe the outputs of a model. Empty if its signature has none.

    An optional output of integers or booleans is BYTES: their datatypes have no null.
    """
    return [_output(name, spec) for name, spec in zip(output_names(signature), signature.outputs, strict=True)]


def output_names(signature: Signature) -> list[str]:
    """Name the outputs of the signature; empty if it has none."""
    names = [spec.get("name") for spec in signature.outputs]
    unnamed = [UNNAMED] if len(names) == 1 else map(str, range(len(names)))
    return [str(name) if name not in (None, "") else other for name, other in zip(names, unnamed, strict=True)]


class Promise(NamedTuple):
    """What the metadata says about an output.

    `is_named` says whether its name is from the signature. `is_list` says whether each row is a list. `is_whole` says
    whether it holds everything that the model answers for a row, as JSON text.
    """

    name: str
    datatype: str
    dimensions: int
    is_named: bool
    is_optional: bool
    is_list: bool
    is_whole: bool


@lru_cache(maxsize=1024)
def promises(signature: Signature) -> tuple[Promise, ...]:
    """Return what every answer of the model must have, in order."""
    found = []
    for described, spec in zip(output_metadata(signature), signature.outputs, strict=True):
        named, optional = spec.get("name") not in (None, ""), spec.get("required") is False
        many, whole = spec["type"] in _LISTS, not named and spec["type"] in _WHOLE
        found.append(Promise(described.name, described.datatype, len(described.shape), named, optional, many, whole))
    return tuple(found)


def _output(name: str, spec: Mapping[str, Any]) -> TensorMetadata:
    if spec["type"] == "tensor":
        return _tensor(name, spec["tensor-spec"]["dtype"], spec["tensor-spec"]["shape"])
    if spec["type"] in _WITHOUT_NULL and spec.get("required") is False:
        return TensorMetadata(name, "BYTES", [-1])
    return _column(name, type_name(spec))


def _column(name: str, kind: str) -> TensorMetadata:
    shape = [-1]
    while kind.startswith("array("):
        shape, kind = [*shape, -1], kind[len("array(") : -1]
    if kind == "sparkml_vector":
        shape, kind = [*shape, -1], "double"
    return TensorMetadata(name, _SCALARS.get(kind, "BYTES"), shape)


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> TensorMetadata:
    return TensorMetadata(name, datatype_of(np.dtype(dtype)), list(shape))
