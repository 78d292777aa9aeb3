"""JSON bodies of the Open Inference Protocol.

Pydantic validates and documents requests; that of `infer` is a `TypedDict`, which takes a third of the time of a model.
Responses that other modules build are dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic wants it before Python 3.12

from app.api.bodies import Body, malformed
from app.oip.binary import MAX_DIMENSIONS
from app.oip.datatypes import DTYPES

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16",
    "BYTES",
]  # fmt: skip
Length = Annotated[int, Field(ge=0, lt=2**63)]
DatatypeName = Annotated[str, Field(json_schema_extra={"enum": [*DTYPES]})]


_LENIENT = ConfigDict(extra="ignore", strict=True, use_attribute_docstrings=True)
"""Unknown keys are ignored: the protocol lets clients send their own."""


class _LenientBody(Body):
    """A body whose unknown keys are ignored."""

    model_config = _LENIENT


@with_config(_LENIENT)
class InferInput(TypedDict):
    """One input tensor."""

    name: Annotated[str, Field(examples=["crude_oil_price"])]
    """Column or tensor of the model's signature. A single `[n, width]` tensor of all columns may have any name."""

    shape: Annotated[list[Length], Field(max_length=MAX_DIMENSIONS, examples=[[1]])]
    """The first dimension is the rows. A column is `[n]` or `[n, 1]`."""

    datatype: Annotated[Datatype, Field(examples=["FP64"])]
    """Numbers are converted to the column's type if they fit it."""

    parameters: NotRequired[dict[str, Any] | None]
    """`binary_data_size`: the number of bytes after the JSON that hold this tensor, instead of `data`."""

    data: Annotated[NotRequired[list[Any] | None], Field(examples=[[75.5]])]
    """Values in row-major order, flat or nested like the shape."""


@with_config(_LENIENT)
class InferOutput(TypedDict):
    """One requested output."""

    name: Annotated[str, Field(examples=["output"])]
    parameters: NotRequired[dict[str, Any] | None]
    """`binary_data`: whether the response has this output as bytes after the JSON."""


@with_config(_LENIENT)
class InferRequestBody(TypedDict):
    """The body of ``POST /v2/models/{ref}/infer``."""

    id: NotRequired[str | None]
    """Echoed in the response."""

    parameters: NotRequired[dict[str, Any] | None]
    """The model's inference parameters; `binary_data_output`: whether the response has outputs as bytes after the JSON;
    `timeout`: microseconds. Echoed in the response."""

    inputs: Annotated[list[InferInput], Field(min_length=1, fail_fast=True)]
    outputs: Annotated[NotRequired[list[InferOutput] | None], Field(fail_fast=True)]
    """Requested outputs, in this order; all of them by default."""


_read_infer: Callable[[Any], InferRequestBody] = TypeAdapter(InferRequestBody).validator.validate_python


def read_infer_body(value: Any) -> InferRequestBody:
    """Validate the parsed JSON of ``infer``. Raises `MalformedBody`."""
    try:
        return _read_infer(value)
    except ValidationError as error:
        raise malformed(error, value, [*InferRequestBody.__annotations__]) from None


class InferOutputBody(BaseModel):
    """One output tensor."""

    name: str
    shape: list[int]
    datatype: Datatype
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None
    """Values in row-major order; null for NaN and infinities. BYTES are text, or base64 if they are not text."""


class InferResponseBody(BaseModel):
    """The response of ``POST /v2/models/{ref}/infer``."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[InferOutputBody]


class ServerMetadataBody(BaseModel):
    """The response of ``GET /v2``."""

    name: str
    version: str
    extensions: list[str]


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """A tensor in a model's metadata. The first dimension of its shape is the rows; -1 is any length."""

    name: str
    datatype: DatatypeName
    shape: list[int]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """The response of ``GET /v2/models/{ref}``."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexBody(_LenientBody):
    """The body of ``POST /v2/repository/index``."""

    ready: bool = False
    """Only loaded versions."""


class RepositoryBody(_LenientBody):
    """The body of loads and unloads."""

    parameters: dict[str, Any] | None = None
    """Ignored, except `config` and `file:…`, which are refused: models come from the registry."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model version in the response of ``POST /v2/repository/index``; `reason` says why it is not READY."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str
