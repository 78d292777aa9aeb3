"""JSON bodies of the Open Inference Protocol, as pydantic models: what is documented is what is checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.bodies import Body
from app.oip.binary import MAX_DIMENSIONS

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16",
    "BYTES",
]  # fmt: skip
Length = Annotated[int, Field(ge=0, lt=2**63)]


class _Lenient(Body):
    """Keys that are not known are ignored: the protocol lets clients send their own."""

    model_config = ConfigDict(extra="ignore", strict=True, use_attribute_docstrings=True, protected_namespaces=())


class InferInput(_Lenient):
    """One input tensor."""

    name: str = Field(examples=["crude_oil_price"])
    """Column or tensor of the model's signature. A single `[n, width]` tensor of all columns may be called anything."""

    shape: list[Length] = Field(max_length=MAX_DIMENSIONS, examples=[[1]])
    """The first dimension is the rows. A column is `[n]` or `[n, 1]`."""

    datatype: Datatype = Field(examples=["FP64"])
    """Numbers are converted to the column's type where they fit it."""

    parameters: dict[str, Any] | None = None
    """`binary_data_size`: the tensor's bytes behind the JSON, instead of `data`."""

    data: list[Any] | None = Field(None, examples=[[75.5]])
    """Values in row-major order, flat or nested as the shape is."""


class InferOutput(_Lenient):
    """One output that is wanted."""

    name: str = Field(examples=["output"])
    parameters: dict[str, Any] | None = None
    """`binary_data`: whether this output comes as bytes behind the JSON."""


class InferBody(_Lenient):
    """The body of ``POST /v2/models/{ref}/infer``."""

    id: str | None = None
    """Echoed in the answer."""

    parameters: dict[str, Any] | None = None
    """The model's inference parameters; `binary_data_output`: whether outputs come as bytes behind the JSON;
    `timeout`: microseconds. Echoed in the answer."""

    inputs: list[InferInput] = Field(min_length=1, fail_fast=True)
    outputs: list[InferOutput] | None = Field(None, fail_fast=True)
    """Outputs wanted, in this order; all of them where it is left out."""


class OutputBody(BaseModel):
    """One output tensor."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None
    """Values in row-major order; null for NaN and infinities. BYTES are text, and base64 where they are bytes."""


class InferAnswer(BaseModel):
    """The answer of ``POST /v2/models/{ref}/infer``."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputBody]


class ServerMetadataAnswer(BaseModel):
    """The answer of ``GET /v2``."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadataAnswer(BaseModel):
    """A tensor in a model's metadata; -1 is any length."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadataAnswer(BaseModel):
    """The answer of ``GET /v2/models/{ref}``."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadataAnswer]
    outputs: list[TensorMetadataAnswer]


class IndexBody(_Lenient):
    """The body of ``POST /v2/repository/index``."""

    ready: bool = False
    """Only versions that are loaded."""


class RepositoryBody(_Lenient):
    """The body of loads and unloads; its parameters are those of other servers."""

    parameters: dict[str, Any] | None = None


class IndexEntryAnswer(BaseModel):
    """A version in the answer of ``POST /v2/repository/index``."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str
