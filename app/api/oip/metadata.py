"""The tensors of a signature as the Open Inference Protocol's metadata describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from app.api.oip.output_tensors import output_names
from app.oip.datatypes import datatype_of
from app.serving.signatures.nested import type_name
from app.serving.signatures.signature import Signature

INPUT = "input"
"""What the only input is called where the signature does not name it; requests may call it anything."""

_SCALARS = {"boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64"}


class TensorMetadata(NamedTuple):
    """One tensor; -1 in its shape is any length, and its first dimension the rows."""

    name: str
    datatype: str
    shape: list[int]


def input_metadata(signature: Signature) -> list[TensorMetadata]:
    """What a model takes: one tensor per column, or its tensors. Empty where it has no signature."""
    if signature.tensor is not None:
        return [_tensor(INPUT, signature.tensor.dtype, signature.tensor.shape)]
    if signature.is_tensor:
        return [_tensor(column.name, column.dtype, column.shape) for column in signature.columns]
    return [_column(column.name, column.type) for column in signature.columns]


def output_metadata(signature: Signature) -> list[TensorMetadata]:
    """What a model gives. Empty where its signature does not say."""
    return [_output(name, spec) for name, spec in zip(output_names(signature), signature.outputs, strict=True)]


def _output(name: str, spec: Mapping[str, Any]) -> TensorMetadata:
    if spec["type"] == "tensor":
        return _tensor(name, spec["tensor-spec"]["dtype"], spec["tensor-spec"]["shape"])
    return _column(name, type_name(spec))


def _column(name: str, kind: str) -> TensorMetadata:
    shape = [-1]
    while kind.startswith("array("):
        shape, kind = [*shape, -1], kind[len("array(") : -1]
    if kind == "sparkml_vector":
        shape, kind = [*shape, -1], "double"
    return TensorMetadata(name, _SCALARS.get(kind, "BYTES"), shape)


def _tensor(name: str, dtype: str, shape: Any) -> TensorMetadata:
    return TensorMetadata(name, datatype_of(np.dtype(dtype)), list(shape))
