"""Protobuf messages of the Open Inference Protocol, to and from tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from app.api.oip.service import Inference, InferRequest, check_supported, check_unique
from app.api.oip.tensor_values import OutputTensor
from app.errors import MalformedBody
from app.oip import inference_pb2 as pb
from app.oip.binary import MAX_DIMENSIONS, decode, encode, values_of
from app.oip.datatypes import DTYPES
from app.serving.json_output import UNSENDABLE, unsendable
from app.serving.references import ModelRef
from app.serving.rows import Array, as_array
from app.serving.signatures.casting import exact

_FIELDS = {
    **{name: f"{name.lower()}_contents" for name in ("BOOL", "INT64", "UINT64", "FP32", "FP64", "BYTES")},
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}
_WIDE = {"int_contents": np.dtype(np.int32), "uint_contents": np.dtype(np.uint32)}


def read_infer(message: pb.ModelInferRequest, ref: ModelRef, deadline: float) -> InferRequest:
    """Read a request.

    Raises:
        MalformedBody: a tensor does not fit its datatype or shape.
        Unsupported: shared memory or classification.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise MalformedBody(f"{len(raw)} raw_input_contents for {len(message.inputs)} inputs; send one for each")
    names = [tensor.name for tensor in message.inputs]
    check_unique("input", names)
    arrays = [_array(tensor, raw[index] if raw else None) for index, tensor in enumerate(message.inputs)]
    for output in message.outputs:
        check_supported("output", output.name, output.parameters)
    outputs = [output.name for output in message.outputs]
    return InferRequest(ref, deadline, dict(zip(names, arrays, strict=True)), outputs, read(message.parameters))


def write_infer(answer: Inference, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    """Encode the outputs: raw if the inputs were raw, or if a datatype has no other form.

    Raises:
        ModelFailed: a name has half a character.
    """
    message = pb.ModelInferResponse(model_name=answer.version.name, model_version=answer.version.version, id=request.id)
    for name, value in request.parameters.items():
        message.parameters[name].CopyFrom(value)
    raw = bool(request.raw_input_contents) or any(output.datatype not in _FIELDS for output in answer.outputs)
    try:
        for output in answer.outputs:
            tensor = message.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
            if raw:
                message.raw_output_contents.append(encode(output.array))
            else:
                getattr(tensor.contents, _FIELDS[output.datatype]).extend(_values(output))
    except UNSENDABLE as error:
        raise unsendable() from error
    return message


def read(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Convert parameters to Python values; one without a value is None."""
    found = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        found[name] = getattr(parameter, choice) if choice else None
    return found


def _array(tensor: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Array:
    name, datatype, shape = tensor.name, tensor.datatype, list(tensor.shape)
    check_supported("input", name, tensor.parameters)
    if datatype not in DTYPES:
        raise MalformedBody(f"tensor '{name[:80]}': unknown datatype '{datatype[:20]}'; use one of {', '.join(DTYPES)}")
    if len(shape) > MAX_DIMENSIONS or any(length < 0 for length in shape):
        raise MalformedBody(
            f"tensor '{name[:80]}' has the shape {shape[:MAX_DIMENSIONS]}; "
            f"send at most {MAX_DIMENSIONS} dimensions, none of them negative"
        )
    if raw is not None:
        if tensor.HasField("contents"):
            raise MalformedBody(f"tensor '{name[:80]}' has both 'contents' and raw_input_contents; send one of them")
        return decode(name, datatype, shape, raw)
    field = _FIELDS.get(datatype)
    if field is None:
        raise MalformedBody(f"tensor '{name[:80]}': {datatype} has no field in 'contents'; send raw_input_contents")
    values = getattr(tensor.contents, field)
    count = values_of(name, shape)
    if len(values) != count:
        raise MalformedBody(
            f"tensor '{name[:80]}': '{field}' has {len(values)} values, expected {count} for the shape {shape}"
        )
    if datatype == "BYTES":
        return as_array(list(values), np.dtype(object)).reshape(shape)
    given = np.array(values, dtype=_WIDE.get(field, DTYPES[datatype]))
    array = exact(given, DTYPES[datatype].name)
    if array is None:
        raise MalformedBody(f"tensor '{name[:80]}': '{field}' has a value out of the range of {datatype}")
    return array.reshape(shape)


def _values(output: OutputTensor) -> list[Any]:
    values: list[Any] = output.array.ravel().tolist()
    if output.datatype != "BYTES":
        return values
    return [value.encode() if isinstance(value, str) else value for value in values]
