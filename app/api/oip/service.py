"""The Open Inference Protocol over the one use case: tensors in, tensors out, and what a server tells of its models.

`app.api.oip.endpoints` speaks it over HTTP and `app.api.oip.grpc` over gRPC; what the two share is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

from app.api.oip.metadata import TensorMetadata, input_metadata, output_metadata
from app.api.oip.output_tensors import OutputTensor, output_tensors
from app.errors import InvalidRequest, MalformedBody, Unsupported
from app.oip.binary import Buffer, decode
from app.oip.datatypes import DTYPES
from app.serving.comparison.statistics import Statistics
from app.serving.ports import ModelManager
from app.serving.prediction.requests import Payload, PayloadReader, PredictionRequest
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, ModelVersion
from app.serving.rows import Array
from app.serving.signatures.signature import Signature
from app.serving.signatures.validation_errors import listed

_PROTOCOL = frozenset({"binary_data_output", "content_type", "headers", "priority", "timeout"})
"""Parameters of a request that belong to the protocol or to other servers, and never to a model."""
_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(slots=True)
class InferRequest:
    """Tensors for one model, or what reads them by its signature (`raw_input`).

    `deadline` is event loop time; `outputs` names those wanted, empty for all; `session` as in `PredictionRequest`.
    """

    ref: ModelRef
    deadline: float
    inputs: Mapping[str, Array] | PayloadReader
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    session: Callable[[], str | None] | None = None


class Inference(NamedTuple):
    """The answer to an `InferRequest`."""

    version: ModelVersion
    outputs: list[OutputTensor]


class ModelMetadata(NamedTuple):
    """What ``GET /v2/models/{name}`` tells."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexEntry(NamedTuple):
    """One version in the repository index: `state` is READY, LOADING or UNAVAILABLE, `reason` says why."""

    name: str
    version: str
    state: str
    reason: str


class InferenceService:
    """What both transports of the protocol do. Every method raises `ServingError`."""

    def __init__(self, service: PredictionService, manager: ModelManager) -> None:
        self._service = service
        self._manager = manager

    @property
    def ready(self) -> bool:
        """Whether the models that should be served are loaded."""
        return self._manager.ready

    async def infer(self, request: InferRequest) -> Inference:
        """Predict."""
        if not request.inputs:
            raise MalformedBody("'inputs' has no tensor")
        payload = Payload("tensors", request.inputs) if isinstance(request.inputs, Mapping) else request.inputs
        params = model_parameters(request.parameters) if request.parameters else None
        prediction = await self._service.predict(
            PredictionRequest(
                request.ref,
                request.deadline,
                payload=payload,
                params=params,
                lenient=True,
                session=request.session,
            )
        )
        outputs = output_tensors(prediction.output, prediction.signature)
        return Inference(prediction.version, _wanted(outputs, request.outputs) if request.outputs else outputs)

    async def metadata(self, ref: ModelRef) -> ModelMetadata:
        """The tensors that a model takes and gives."""
        model = await self._service.model(ref)
        status = await self._manager.model(ref.name)
        version = model.spec.version
        return ModelMetadata(
            name=ref.name,
            versions=sorted({version, *status.versions}, key=int) if ref == ModelRef(ref.name) else [version],
            platform=f"{model.spec.flavor}_mlflow",
            inputs=input_metadata(model.signature),
            outputs=output_metadata(model.signature),
        )

    async def is_ready(self, ref: ModelRef) -> bool:
        """Whether the version that a reference means is loaded."""
        version = await self._service.resolve(ref)
        facts = (await self._manager.model(ref.name)).versions.get(version.version)
        return facts is not None and facts["state"] == "ready"

    async def index(self, *, ready: bool) -> list[IndexEntry]:
        """Every version that is or was to be served; only the loaded ones where `ready`."""
        entries = [
            IndexEntry(model.name, version, _STATES.get(facts["state"], "UNAVAILABLE"), _reason(facts))
            for model in await self._manager.status()
            for version, facts in sorted(model.versions.items(), key=lambda item: int(item[0]))
        ]
        return [entry for entry in entries if entry.state == "READY"] if ready else entries

    async def load(self, ref: ModelRef) -> ModelVersion:
        """Make a version resident and warm."""
        return await self._manager.load(ref)

    async def unload(self, ref: ModelRef) -> None:
        """Let a version go, and every loaded version of the model where the reference is a bare name."""
        if ref != ModelRef(ref.name):
            await self._manager.unload(ref)
            return
        status = await self._manager.model(ref.name)
        loaded = [version for version, facts in status.versions.items() if facts["state"] != "cold"]
        for version in loaded:
            await self._manager.unload(ModelRef(ref.name, version=version))

    async def statistics(self, ref: ModelRef) -> tuple[ModelVersion, Statistics]:
        """What all gateway replicas have counted for the version that a reference means."""
        version = await self._service.resolve(ref)
        return version, await self._manager.statistics(version)

    async def names(self) -> list[str]:
        """Names of the registered models."""
        return [model.name for model in await self._manager.status()]


def model_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a request that may be a model's own.

    Raises:
        Unsupported: the request is part of a sequence, which needs a stateful model.
    """
    if any(parameters.get(name) for name in _SEQUENCES):
        raise Unsupported("sequences are not supported: every request is answered by itself")
    return {
        name: value
        for name, value in parameters.items()
        if name not in _PROTOCOL and name not in _SEQUENCES and not name.startswith("triton_")
    }


def earliest(deadline: float, received: float, parameters: Mapping[str, Any]) -> float:
    """The deadline, or an earlier one by the protocol's parameter ``timeout``, in microseconds from `received`.

    Raises:
        InvalidRequest: the timeout is no whole number.
    """
    timeout = parameters.get("timeout")
    if timeout is None:
        return deadline
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise InvalidRequest("parameter 'timeout' must be a whole number of microseconds")
    return min(deadline, received + timeout / 1e6) if timeout else deadline


def raw_input(data: Buffer) -> PayloadReader:
    """Reads a request that is nothing but the bytes of the model's only input.

    The reader raises `MalformedBody` where the model has several inputs, or one whose shape the number of bytes does
    not tell.
    """

    async def read(signature: Signature) -> Payload:
        inputs = input_metadata(signature)
        if len(inputs) != 1 or inputs[0].datatype == "BYTES":
            described = listed([f"{one.name} ({one.datatype})" for one in inputs]) or "unknown"
            raise MalformedBody(
                f"a body without a JSON header needs a model with one input of numbers; this one's are: {described}"
            )
        name, datatype, shape = inputs[0]
        free = shape.count(-1)
        if free > 1:
            raise MalformedBody(f"the shape {shape} of input '{name}' does not follow from a number of bytes")
        if free:
            # The product of the others, since the free one is -1.
            step = DTYPES[datatype].itemsize * -prod(shape)
            shape = [len(data) // step if length == -1 and step else length for length in shape]
        return Payload("tensors", {name: decode(name, datatype, shape, data)})

    return read


_STATES = {"ready": "READY", "loading": "LOADING"}


def _reason(facts: Mapping[str, Any]) -> str:
    return str(facts.get("error") or ("unloaded" if facts["state"] == "cold" else ""))


def _wanted(outputs: Sequence[OutputTensor], names: Sequence[str]) -> list[OutputTensor]:
    given = {output.name: output for output in outputs}
    missing = [name for name in names if name not in given]
    if missing:
        raise InvalidRequest(
            f"the model has no output '{missing[0][:80]}'; its outputs are: {', '.join(given)}",
            {"output": missing[0][:80], "expected": list(given)},
        )
    return [given[name] for name in names]
