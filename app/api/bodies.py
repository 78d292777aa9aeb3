"""Request and response bodies of ``/serve`` and ``/v1`` as Pydantic models, which validate and document them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from app.api.http.errors import ErrorBody
from app.errors import MalformedBody, ServingError
from app.serving.signatures.validation_errors import short

_MOST_FAULTS = 16
_MOST_CHARACTERS = 100


class Body(BaseModel):
    """A request body that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def read(cls, value: Any) -> Self:
        """Validate parsed JSON.

        Raises:
            MalformedBody: names every wrong key and what it must be, unless there are many.
        """
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            allowed = [field.alias or name for name, field in cls.model_fields.items()]
            raise malformed(error, value, allowed) from None


def malformed(error: ValidationError, value: Any, allowed: Sequence[str]) -> MalformedBody:
    """Describe every wrong key of a body and what it must be, unless there are many. `allowed` are its keys."""
    if not isinstance(value, dict):
        return MalformedBody("the body must be a JSON object")
    if error.error_count() > _MOST_FAULTS:  # listing them would take seconds and gigabytes
        unknown = next((f"; {short(key)} is not a key of this body" for key in value if key not in allowed), "")
        text = f"the body has {error.error_count()} wrong keys or values{unknown}"
        return MalformedBody(text, {"allowed": [*allowed]})
    faults = [
        {"where": ".".join(map(_cut, fault["loc"])) or "body", "what": _plain(fault)}
        for fault in error.errors(include_url=False, include_input=False)
    ]
    text = "; ".join(f"'{fault['where']}': {fault['what']}" for fault in faults)
    return MalformedBody(text, {"faults": faults, "allowed": [*allowed]})


def _cut(part: object) -> str:
    text = str(part)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def _plain(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "is not a key of this body; remove it"
    if fault["type"] == "missing":
        return "is missing"
    return str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")


class ServeRequest(Body):
    """The body of ``POST /serve``."""

    model_name: str = Field(min_length=1, examples=["commodity_price_predictor"])
    """Registered model, optionally as `name@alias` or `name/versions/N`."""

    action: Literal["predict", "load", "unload", "status"] = "predict"
    """What to do with the model."""

    data: dict[str, Any] | list[Any] | None = Field(
        None, examples=[{"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}]
    )
    """One row as an object of columns, or a list of rows. With `use_feature_store`: columns to override the store's."""

    params: dict[str, Any] | None = None
    """Inference parameters of the model's signature."""

    model_version: str | int | None = None
    """Version to use or load. Default: the version that the bare name means."""

    alias: str | None = None
    """Alias to use instead of a version."""

    use_feature_store: StrictBool = False
    """Read the columns from the feature store."""

    entity_id: str | int | Annotated[list[str | int], Field(fail_fast=True)] | None = None
    """Value or values of the feature view's join key, if it has only one."""

    entities: list[dict[str, Any]] | None = Field(None, fail_fast=True)
    """One object of join keys per row, instead of `entity_id`."""

    feature_view: str | None = None
    """Feature view to read."""

    feature_service: str | None = None
    """Feature service to read instead of a view."""

    promote: StrictBool = False
    """With `load`: move the default alias to this version too."""


class ServeResponse(BaseModel):
    """The response of ``POST /serve`` to a prediction."""

    prediction: Any = Field(examples=[[78.3]])
    status: Literal["success"]
    model_name: str
    model_version: str
    request_id: str


class ManageResponse(BaseModel):
    """The response of ``POST /serve`` to a load, an unload or a status request."""

    status: Literal["success"]
    action: Literal["load", "unload", "status"]
    model_name: str
    model_version: str | None = None
    """Loaded or unloaded version."""
    default_version: str | None = None
    """With `load`: version that the bare name means now."""
    model: dict[str, Any] | None = None
    """With `status`: the model as ``GET /v1/models`` shows it."""
    request_id: str


class ServeError(ErrorBody):
    """The error response of ``POST /serve``."""

    class Fault(BaseModel):
        """Code, message and details of the error."""

        code: str
        message: str
        details: dict[str, Any] | None = None

    status: Literal["error"]
    error: Fault
    request_id: str

    @staticmethod
    def describe(error: ServingError) -> dict[str, Any]:
        fault: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.details:
            fault["details"] = error.details
        return {"status": "error", "error": fault}


class PredictRequest(Body):
    """The body of ``POST /v1/models/{ref}:predict``: `instances`, `inputs` or `entities`."""

    instances: list[Any] | None = Field(
        None, examples=[[{"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}]]
    )
    """Rows: objects of columns, or nested lists of a tensor."""

    inputs: dict[str, Any] | list[Any] | None = None
    """The rows by column: an object of lists, or one tensor."""

    parameters: dict[str, Any] | None = None
    """Inference parameters of the model's signature."""

    entities: list[dict[str, Any]] | None = Field(None, fail_fast=True)
    """Entities whose features the gateway reads from the feature store: one object of join keys per row."""

    feature_service: str | None = None
    """Feature service to read."""

    feature_view: str | None = None
    """Feature view to read instead of a service."""

    overrides: dict[str, Any] | None = None
    """Columns that override or complete the store's."""


class PredictResponse(BaseModel):
    """The response of ``POST /v1/models/{ref}:predict``."""

    predictions: Any = Field(examples=[[78.3]])
    model_name: str
    model_version: str
    features: dict[str, Any] | None = None


class SchemaResponse(BaseModel):
    """The response of ``GET /v1/models/{ref}/schema``: JSON Schemas of a version's requests and responses."""

    model_name: str
    model_version: str
    request: dict[str, Any]
    response: dict[str, Any]


class FeatureSourceResponse(BaseModel):
    """The response of ``GET /v1/features/{name}``."""

    name: str
    kind: Literal["feature_service", "feature_view"]
    join_keys: list[str]
    """Join keys that each entity must have."""
    features: list[str]


class V1Error(ErrorBody):
    """KServe's error with a code, details and the request id beside it."""

    error: str
    code: str
    details: dict[str, Any]
    request_id: str

    @staticmethod
    def describe(error: ServingError) -> dict[str, Any]:
        return {"error": error.message, "code": error.code, "details": error.details}
