"""Request forms: encode rows as a request, decode an answer to numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson

from app.demo import COMMODITIES
from app.oip import inference_pb2 as pb
from benchmarks.models import Array

JSON = {"content-type": "application/json"}
_ENTITIES = {values: name for name, values in COMMODITIES.items()}
GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Over gRPC `path` is the method."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One request form.

    Args:
        encode: makes a request from the model's name, its columns and rows ``(n, columns)``.
        decode: returns the predictions ``(n,)`` of an answer's body and headers.
        grpc: whether it runs over gRPC instead of HTTP.
    """

    name: str
    encode: Callable[[str, Sequence[str], Array], Request]
    decode: Callable[[bytes, Mapping[str, str]], Array]
    grpc: bool = False


def _numbers(values: object) -> Array:
    return np.asarray(values, np.float64).reshape(-1)


def _record(columns: Sequence[str], row: Array) -> dict[str, float]:
    return dict(zip(columns, row.tolist(), strict=True))


def _serve(model: str, columns: Sequence[str], rows: Array) -> Request:
    (row,) = rows
    return Request("/serve", orjson.dumps({"model_name": model, "data": _record(columns, row)}))


def _v1(model: str, columns: Sequence[str], rows: Array) -> Request:
    return Request(f"/v1/models/{model}:predict", orjson.dumps({"instances": rows.tolist()}))


def _entity(model: str, columns: Sequence[str], rows: Array) -> Request:
    """Name the entity that has this row in the demo's feature store."""
    (row,) = rows
    body = {"model_name": model, "use_feature_store": True, "feature_view": "commodity_features"}
    return Request("/serve", orjson.dumps({**body, "entity_id": _ENTITIES[tuple(row.tolist())]}))


def _object(model: str, columns: Sequence[str], rows: Array) -> Request:
    (row,) = rows
    return Request("/predict", orjson.dumps(_record(columns, row)))


def _rows(model: str, columns: Sequence[str], rows: Array) -> Request:
    return Request("/predict", orjson.dumps({"rows": rows.tolist()}))


def _row(model: str, columns: Sequence[str], rows: Array) -> Request:
    (row,) = rows
    return Request("/predict", orjson.dumps({"row": row.tolist()}))


def _split(path: str) -> Callable[[str, Sequence[str], Array], Request]:
    def encode(model: str, columns: Sequence[str], rows: Array) -> Request:
        body = {"dataframe_split": {"columns": list(columns), "data": rows.tolist()}}
        return Request(path.format(model=model), orjson.dumps(body))

    return encode


def _v2_columns(model: str, columns: Sequence[str], rows: Array) -> Request:
    """Encode a tensor per column, which MLServer's pandas codec reads as a DataFrame."""
    inputs = [
        {"name": column, "shape": [len(rows), 1], "datatype": "FP64", "data": rows[:, index].tolist()}
        for index, column in enumerate(columns)
    ]
    body = {"parameters": {"content_type": "pd"}, "inputs": inputs}
    return Request(f"/v2/models/{model}/infer", orjson.dumps(body))


def _v2_tensor(model: str, columns: Sequence[str], rows: Array) -> Request:
    """Encode one tensor, which MLServer's numpy codec reads as an array."""
    tensor = {"name": "predict", "shape": list(rows.shape), "datatype": "FP64", "data": rows.ravel().tolist()}
    body = {"parameters": {"content_type": "np"}, "inputs": [tensor]}
    return Request(f"/v2/models/{model}/infer", orjson.dumps(body))


def _v2_binary(model: str, columns: Sequence[str], rows: Array) -> Request:
    tensor = {
        "name": "table",
        "shape": list(rows.shape),
        "datatype": "FP64",
        "parameters": {"binary_data_size": rows.size * 8},
    }
    header = orjson.dumps({"parameters": {"binary_data_output": True}, "inputs": [tensor]})
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(header))}
    return Request(f"/v2/models/{model}/infer", header + rows.astype("<f8").tobytes(), headers)


def _read_v2(body: bytes, headers: Mapping[str, str]) -> Array:
    length = headers.get("inference-header-content-length")
    if length is not None:
        return np.frombuffer(body[int(length) :], "<f8")
    return _numbers(json.loads(body)["outputs"][0]["data"])


def _grpc(model: str, columns: Sequence[str], rows: Array) -> Request:
    message = pb.ModelInferRequest(model_name=model, raw_input_contents=[rows.astype("<f8").tobytes()])
    message.inputs.add(name="predict", datatype="FP64", shape=rows.shape)
    return Request(GRPC_INFER, message.SerializeToString(), {})


def _grpc_typed(model: str, columns: Sequence[str], rows: Array) -> Request:
    message = pb.ModelInferRequest(model_name=model)
    message.inputs.add(name="predict", datatype="FP64", shape=rows.shape).contents.fp64_contents.extend(rows.ravel())
    message.parameters["content_type"].string_param = "np"
    return Request(GRPC_INFER, message.SerializeToString(), {})


def _read_grpc(body: bytes, headers: Mapping[str, str]) -> Array:
    answer = pb.ModelInferResponse.FromString(body)
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], "<f8")
    return _numbers(answer.outputs[0].contents.fp64_contents)


def _under(key: str) -> Callable[[bytes, Mapping[str, str]], Array]:
    return lambda body, headers: _numbers(json.loads(body)[key])


def _read_records(body: bytes, headers: Mapping[str, str]) -> Array:
    """Read predictions that are numbers, or records of one column."""
    found = json.loads(body)["predictions"]
    return _numbers([next(iter(one.values())) if isinstance(one, dict) else one for one in found])


SERVE = Dialect("/serve", _serve, _under("prediction"))
ENTITY = Dialect("/serve, by entity", _entity, _under("prediction"))
OBJECT = Dialect("JSON object", _object, _under("prediction"))
V1 = Dialect("/v1", _v1, _under("predictions"))
ROWS = Dialect("JSON rows", _rows, lambda body, headers: _numbers(json.loads(body)))
ROW = Dialect("JSON row", _row, _under("prediction"))
MLFLOW = Dialect("dataframe_split", _split("/invocations"), _read_records)
MLFLOW_OURS = Dialect("dataframe_split", _split("/invocations/{model}"), _read_records)
V2_COLUMNS = Dialect("v2 JSON, a tensor per column", _v2_columns, _read_v2)
V2_TENSOR = Dialect("v2 JSON, one tensor", _v2_tensor, _read_v2)
V2_BINARY = Dialect("v2 binary, one tensor", _v2_binary, _read_v2)
GRPC = Dialect("v2 gRPC, one raw tensor", _grpc, _read_grpc, grpc=True)
GRPC_TYPED = Dialect("v2 gRPC, one typed tensor", _grpc_typed, _read_grpc, grpc=True)
