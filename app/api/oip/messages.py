"""Bodies of ``infer``: JSON, or JSON followed by tensors as raw bytes (the binary tensor data extension)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.api.http.exchange import Reply, dump
from app.api.oip.bodies import InferInput, InferOutput, read_infer_body
from app.api.oip.json_tensors import read_tensor
from app.api.oip.service import Inference, InferRequest, check_supported, check_unique
from app.api.oip.tensor_values import OutputTensor
from app.errors import MalformedBody
from app.oip.binary import decode, encode
from app.serving.json_output import UNSENDABLE, unsendable
from app.serving.references import ModelRef
from app.serving.rows import Array

HEADER_LENGTH = b"inference-header-content-length"
_BINARY = b"application/octet-stream"


@dataclass(slots=True)
class HttpInferRequest(InferRequest):
    """A request and the form of its response.

    `binary` says whether outputs are sent as bytes; `binary_by_output` overrides it.
    """

    id: str | None = None
    binary: bool = False
    binary_by_output: dict[str, bool] = field(default_factory=dict)


def header_length(headers: Mapping[bytes, bytes], body: bytes) -> int:
    """Return the length of the JSON before the raw tensors; without the header, all of the body.

    Raises:
        MalformedBody: the header is not a length within the body.
    """
    header = headers.get(HEADER_LENGTH)
    if header is None:
        return len(body)
    if not header.isdigit() or len(header) > 18:
        raise MalformedBody("Inference-Header-Content-Length must be a whole number of bytes")
    if int(header) > len(body):
        raise MalformedBody(f"Inference-Header-Content-Length is {int(header)}, but the body has {len(body)} bytes")
    return int(header)


def read_infer(value: Any, tail: memoryview, ref: ModelRef, deadline: float) -> HttpInferRequest:
    """Read the parsed JSON of a body and the raw tensors after it.

    Raises:
        MalformedBody: the body has not the documented form.
        InvalidInput: values do not fit their tensor's datatype or shape.
        Unsupported: shared memory or classification.
    """
    parsed = read_infer_body(value)
    parameters = parsed.get("parameters") or {}
    asked = HttpInferRequest(ref, deadline, _inputs(parsed["inputs"], tail), parameters=parameters, id=parsed.get("id"))
    if parameters:
        asked.binary = _boolean("parameter", "binary_data_output", parameters) or False
    outputs = parsed.get("outputs")
    if outputs:
        asked.outputs = [output["name"] for output in outputs]
        check_unique("output", asked.outputs)
        asked.binary_by_output = _by_output(outputs)
    return asked


def write_infer(answer: Inference, asked: HttpInferRequest) -> Reply:
    """Encode the outputs in the requested form. Raises `ModelFailed` if a name has half a character."""
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
    if asked.parameters:
        echoed = {name: value for name, value in asked.parameters.items() if name != "binary_data_output"}
        if echoed:
            body["parameters"] = echoed
    body["outputs"] = outputs
    try:
        header = dump(body)
    except UNSENDABLE as error:
        raise unsendable() from error
    version = (b"x-model-version", answer.version.version.encode())
    if not tail:
        return Reply(header, headers=(version,))
    length = (HEADER_LENGTH, b"%d" % len(header))
    return Reply(b"".join((header, *tail)), headers=(version, length), content_type=_BINARY)


def _inputs(inputs: Sequence[InferInput], tail: memoryview) -> dict[str, Array]:
    check_unique("input", [one["name"] for one in inputs])
    arrays: dict[str, Array] = {}
    at = 0
    for one in inputs:
        name, size = one["name"], _binary_size(one)
        if size is None:
            arrays[name] = read_tensor(name, one["datatype"], one["shape"], one.get("data"))
            continue
        if at + size > len(tail):
            raise MalformedBody(
                f"tensor '{name[:80]}' has a binary_data_size of {size}, "
                f"but only {len(tail) - at} bytes follow the JSON for it"
            )
        arrays[name] = decode(name, one["datatype"], one["shape"], tail[at : at + size])
        at += size
    if at != len(tail):
        raise MalformedBody(f"{len(tail) - at} bytes follow the last tensor")
    return arrays


def _binary_size(one: InferInput) -> int | None:
    name, parameters, size = one["name"], one.get("parameters"), None
    if parameters:
        check_supported("input", name, parameters)
        size = parameters.get("binary_data_size")
    if (size is None) == (one.get("data") is None):
        both = "neither 'data' nor a" if size is None else "both 'data' and a"
        raise MalformedBody(f"tensor '{name[:80]}' has {both} 'binary_data_size'; send one of them")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 0):
        raise MalformedBody(f"tensor '{name[:80]}': 'binary_data_size' must be a whole number of bytes")
    return size


def _by_output(outputs: Sequence[InferOutput]) -> dict[str, bool]:
    found = {}
    for output in outputs:
        name, parameters = output["name"], output.get("parameters") or {}
        check_supported("output", name, parameters)
        binary = _boolean(f"output '{name[:80]}':", "binary_data", parameters)
        if binary is not None:
            found[name] = binary
    return found


def _boolean(where: str, name: str, parameters: Mapping[str, Any]) -> bool | None:
    value = parameters.get(name)
    if not isinstance(value, bool | None):
        raise MalformedBody(f"{where} '{name}' must be true or false")
    return value


def _values(output: OutputTensor) -> Any:
    flat = output.array.ravel()
    if output.datatype != "BYTES":
        return np.ascontiguousarray(flat)
    return [base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in flat.tolist()]
