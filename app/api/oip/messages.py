"""Bodies of ``infer``: JSON, or JSON followed by tensors as raw bytes (the binary tensor data extension)."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.api.http.exchange import Reply, dump
from app.api.oip.bodies import InferBody, InferInput, InferOutput
from app.api.oip.json_tensors import read
from app.api.oip.output_tensors import OutputTensor
from app.api.oip.service import Inference
from app.errors import MalformedBody, Unsupported
from app.oip.binary import decode, encode
from app.serving.prediction.requests import PayloadReader
from app.serving.rows import Array

HEADER_LENGTH = b"inference-header-content-length"
_BINARY = b"application/octet-stream"
_FOREIGN = ("shared_memory_region", "classification")


@dataclass(slots=True)
class Infer:
    """A body that was read.

    `binary` says whether outputs go back as bytes, where `binary_by_output` says nothing else.
    """

    inputs: dict[str, Array] | PayloadReader
    outputs: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    binary: bool = False
    binary_by_output: dict[str, bool] = field(default_factory=dict)


def header_length(headers: Mapping[bytes, bytes], body: bytes) -> int:
    """Length of the JSON before the raw tensors: all of the body, where the caller does not say.

    Raises:
        MalformedBody: the header is no length within the body.
    """
    header = headers.get(HEADER_LENGTH)
    if header is None:
        return len(body)
    if not header.isdigit() or len(header) > 18:
        raise MalformedBody("Inference-Header-Content-Length must be a whole number of bytes")
    if int(header) > len(body):
        raise MalformedBody(f"Inference-Header-Content-Length is {int(header)}, but the body has {len(body)} bytes")
    return int(header)


def read_infer(value: Any, tail: memoryview) -> Infer:
    """Read a body: its JSON, parsed, and the raw tensors behind it.

    Raises:
        MalformedBody: not of the documented form.
        InvalidInput: values that are not of their tensor's datatype or shape.
        Unsupported: shared memory, classification.
    """
    parsed = InferBody.read(value)
    parameters = parsed.parameters or {}
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise MalformedBody("parameter 'binary_data_output' must be true or false")
    return Infer(
        inputs=_inputs(parsed.inputs, tail),
        outputs=_names("output", parsed.outputs or ()),
        parameters=parameters,
        id=parsed.id,
        binary=binary,
        binary_by_output=_by_output(parsed.outputs or ()),
    )


def write_infer(answer: Inference, asked: Infer) -> Reply:
    """The answer in the form that was asked for."""
    outputs, tail = [], []
    for output in answer.outputs:
        described: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.array.shape),
        }
        if asked.binary_by_output.get(output.name, asked.binary):
            tail.append(encode(output.array))
            described["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            described["data"] = _values(output)
        outputs.append(described)
    body: dict[str, Any] = {"model_name": answer.version.name, "model_version": answer.version.version}
    if asked.id is not None:
        body["id"] = asked.id
    echoed = {name: value for name, value in asked.parameters.items() if name != "binary_data_output"}
    if echoed:
        body["parameters"] = echoed
    body["outputs"] = outputs
    header = dump(body)
    version = (b"x-model-version", answer.version.version.encode())
    if not tail:
        return Reply(header, headers=(version,))
    length = (HEADER_LENGTH, b"%d" % len(header))
    return Reply(b"".join((header, *tail)), headers=(version, length), content_type=_BINARY)


def _inputs(inputs: Sequence[InferInput], tail: memoryview) -> dict[str, Array]:
    _names("input", inputs)
    arrays: dict[str, Array] = {}
    at = 0
    for one in inputs:
        size = _binary_size(one)
        if size is None:
            arrays[one.name] = read(one.name, one.datatype, one.shape, one.data)
            continue
        if at + size > len(tail):
            raise MalformedBody(
                f"tensor '{one.name[:80]}' has a binary_data_size of {size}, "
                f"but only {len(tail) - at} bytes follow the JSON for it"
            )
        arrays[one.name] = decode(one.name, one.datatype, one.shape, tail[at : at + size])
        at += size
    if at != len(tail):
        raise MalformedBody(f"{len(tail) - at} bytes follow the last tensor")
    return arrays


def _binary_size(one: InferInput) -> int | None:
    parameters = one.parameters or {}
    _refuse_foreign("input", one.name, parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if one.data is None:
            raise MalformedBody(f"tensor '{one.name[:80]}' has neither 'data' nor a 'binary_data_size'")
        return None
    if one.data is not None:
        raise MalformedBody(f"tensor '{one.name[:80]}' has both 'data' and a 'binary_data_size'")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise MalformedBody(f"tensor '{one.name[:80]}': 'binary_data_size' must be a whole number of bytes")
    return size


def _by_output(outputs: Sequence[InferOutput]) -> dict[str, bool]:
    found = {}
    for output in outputs:
        parameters = output.parameters or {}
        _refuse_foreign("output", output.name, parameters)
        binary = parameters.get("binary_data")
        if binary is None:
            continue
        if not isinstance(binary, bool):
            raise MalformedBody(f"output '{output.name[:80]}': 'binary_data' must be true or false")
        found[output.name] = binary
    return found


def _names(kind: str, tensors: Sequence[InferInput | InferOutput]) -> list[str]:
    names = [tensor.name for tensor in tensors]
    if len({*names}) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise MalformedBody(f"the {kind} '{twice[:80]}' is there twice")
    return names


def _refuse_foreign(kind: str, name: str, parameters: Mapping[str, Any]) -> None:
    for foreign in _FOREIGN:
        if parameters.get(foreign):
            raise Unsupported(f"{kind} '{name[:80]}': '{foreign}' is not supported")


def _values(output: OutputTensor) -> Any:
    flat = output.array.ravel()
    if output.datatype != "BYTES":
        return np.ascontiguousarray(flat)
    return [base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in flat.tolist()]
