"""Metadata of the Open Inference Protocol for the tensors of a signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.api.oip.bodies import TensorMetadata
from app.api.oip.output_tensors import output_names
from app.oip.datatypes import datatype_of
from app.serving.signatures.nested import type_name
from app.serving.signatures.signature import Signature

INPUT = "input"
"""Name of the only input if the signature has none for it; requests may use any name."""

_SCALARS = {"boolean": "BOOL", "integer": "INT32", "long": "INT64", "float": "FP32", "double": "FP64"}


def input_metadata(signature: Signature) -> list[TensorMetadata]:
    """Describe the inputs of a model: one tensor per column, or its tensors. Empty without a signature."""
    if signature.tensor is not None:
        return [_tensor(INPUT, signature.tensor.dtype, signature.tensor.shape)]
    if signature.is_tensor:
        return [_tensor(column.name, column.dtype, column.shape) for column in signature.columns]
    return [_column(column.name, column.type) for column in signature.columns]


def output_metadata(signature: Signature) -> list[TensorMetadata]:
    """Describe the outputs of a model. Empty if its signature has none."""
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


def _tensor(name: str, dtype: str, shape: Sequence[int]) -> TensorMetadata:
    return TensorMetadata(name, datatype_of(np.dtype(dtype)), list(shape))
