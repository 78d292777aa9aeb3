"""The Open Inference Protocol as one service, shared by `app.api.oip.endpoints` (HTTP) and `app.api.oip.grpc`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

from app.api.oip.bodies import IndexEntry, ModelMetadata
from app.api.oip.metadata import input_metadata, output_metadata
from app.api.oip.output_tensors import output_tensors
from app.api.oip.tensor_values import OutputTensor
from app.errors import InvalidRequest, MalformedBody, Unsupported
from app.oip.binary import Buffer, decode
from app.oip.datatypes import DTYPES
from app.serving.callers import Caller
from app.serving.comparison.statistics import Statistics
from app.serving.json_output import UNSENDABLE, unsendable
from app.serving.observation import Observation
from app.serving.ports import ModelManager
from app.serving.prediction.requests import Payload, PayloadReader, PredictionRequest
from app.serving.prediction.service import PredictionService
from app.serving.references import ModelRef, ModelVersion
from app.serving.rows import Array
from app.serving.signatures.signature import Signature
from app.serving.signatures.validation_errors import listed

_PROTOCOL = frozenset({"binary_data_output", "content_type", "headers", "priority", "timeout"})
"""Request parameters that belong to the protocol or to other servers, never to a model."""
_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")
_UNSUPPORTED = ("shared_memory_region", "classification")
_STATES: dict[str, Literal["READY", "LOADING"]] = {"ready": "READY", "loading": "LOADING"}


@dataclass(slots=True)
class InferRequest:
    """Tensors for one model.

    `deadline` is event loop time. `inputs` are arrays by name, or a reader that needs the signature (`raw_input`).
    `outputs` names the requested ones, empty for all. `session`, `caller` and `observation` are the same as in
    `PredictionRequest`.
    """

    ref: ModelRef
    deadline: float
    inputs: Mapping[str, Array] | PayloadReader
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    session: Callable[[], str | None] | None = None
    caller: str | None = None
    observation: Observation | None = None


class Inference(NamedTuple):
    """The result of an `InferRequest`."""

    version: ModelVersion
    outputs: list[OutputTensor]


class InferenceService:
    """Operations of the protocol. Every method raises `ServingError`."""

    def __init__(self, service: PredictionService, manager: ModelManager) -> None:
        self._service = service
        self._manager = manager

    @property
    def ready(self) -> bool:
        """Whether all models that should be served are loaded."""
        return self._manager.ready

    async def infer(self, request: InferRequest) -> Inference:
        if not request.inputs:
            raise MalformedBody("'inputs' has no tensor; send at least one")
        payload = Payload("tensors", request.inputs) if isinstance(request.inputs, Mapping) else request.inputs
        params = model_parameters(request.parameters) if request.parameters else None
        prediction = await self._service.predict(
            PredictionRequest(
                request.ref,
                request.deadline,
                payload,
                params=params,
                lenient=True,
                session=request.session,
                caller=request.caller,
                observation=request.observation,
            )
        )
        try:
            outputs = output_tensors(prediction.output, prediction.signature)
        except UNSENDABLE as error:
            raise unsendable() from error
        return Inference(prediction.version, _wanted(outputs, request.outputs) if request.outputs else outputs)

    async def metadata(self, ref: ModelRef) -> ModelMetadata:
        """Describe the inputs and outputs of a model."""
        model = await self._service.model(ref)
        status = await self._manager.model(model.spec.name)
        version = model.spec.version
        return ModelMetadata(
            name=ref.name,
            versions=sorted({version, *status.versions}, key=int) if ref == ModelRef(ref.name) else [version],
            platform=f"{model.spec.flavor}_mlflow",
            inputs=input_metadata(model.signature),
            outputs=output_metadata(model.signature),
        )

    async def is_ready(self, ref: ModelRef) -> bool:
        """Return whether a call will be answered: the version is loaded, or the call loads it."""
        version = await self._service.resolve(ref)
        return (await self._manager.model(version.name)).can_answer(version.version)

    async def index(self, caller: Caller, *, ready: bool) -> list[IndexEntry]:
        """List the versions that are or were served and that the caller may use; with `ready` only the loaded ones."""
        entries = [
            IndexEntry(model.name, version, _STATES.get(facts["state"], "UNAVAILABLE"), _reason(facts))
            for model in await self._manager.status()
            if caller.may_use(model.name)
            for version, facts in sorted(model.versions.items(), key=lambda item: int(item[0]))
        ]
        return [entry for entry in entries if entry.state == "READY"] if ready else entries

    async def load(self, ref: ModelRef, parameters: Iterable[str] = ()) -> ModelVersion:
        """Make a version resident and warm."""
        if any(name == "config" or name.startswith("file:") for name in parameters):
            raise Unsupported("models and their configuration come from the registry; send no config and no files")
        return await self._manager.load(ref)

    async def unload(self, ref: ModelRef) -> None:
        """Evict a version; with a bare name every loaded version of the model."""
        if ref != ModelRef(ref.name):
            await self._manager.unload(ref)
            return
        status = await self._manager.model(ref.name)
        loaded = [version for version, facts in status.versions.items() if facts["state"] != "cold"]
        for version in loaded:
            await self._manager.unload(ModelRef(ref.name, version=version))

    async def statistics(self, ref: ModelRef) -> tuple[ModelVersion, Statistics]:
        """Return the version of a reference and what all gateway replicas have counted for it."""
        version = await self._service.resolve(ref)
        return version, await self._manager.statistics(version)

    async def names(self) -> list[str]:
        """List the names of the registered models."""
        return [model.name for model in await self._manager.status()]


def model_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the parameters that may be a model's own.

    Raises:
        Unsupported: the request is part of a sequence, which needs a stateful model.
    """
    if any(parameters.get(name) for name in _SEQUENCES):
        raise Unsupported("sequences are not supported: send every request without sequence parameters")
    return {
        name: value
        for name, value in parameters.items()
        if name not in _PROTOCOL and name not in _SEQUENCES and not name.startswith("triton_")
    }


def earliest(deadline: float, received: float, parameters: Mapping[str, Any]) -> float:
    """Apply the protocol's parameter ``timeout``, in microseconds from `received`, if it ends before the deadline.

    Raises:
        InvalidRequest: the timeout is not a whole number.
    """
    timeout = parameters.get("timeout")
    if timeout is None:
        return deadline
    if not isinstance(timeout, int) or isinstance(timeout, bool) or timeout < 0:
        raise InvalidRequest("parameter 'timeout' must be a whole number of microseconds")
    return min(deadline, received + timeout / 1e6) if timeout else deadline


def raw_input(data: Buffer) -> PayloadReader:
    """Make the reader of a request that is only the bytes of the model's single input.

    The reader raises `MalformedBody` if the model has several inputs, or an input whose shape does not follow from the
    number of bytes.
    """

    async def read(signature: Signature) -> Payload:
        if not data:
            raise MalformedBody("the body is empty; send the bytes of the model's only input, or JSON")
        inputs = input_metadata(signature)
        if len(inputs) != 1 or inputs[0].datatype == "BYTES":
            described = listed([f"{one.name} ({one.datatype})" for one in inputs]) or "unknown"
            raise MalformedBody(
                "a body without a JSON header needs a model with one input of numbers; "
                f"this one's inputs are: {described}"
            )
        name, datatype, shape = inputs[0].name, inputs[0].datatype, inputs[0].shape
        free = shape.count(-1)
        if free > 1:
            raise MalformedBody(
                f"input '{name}' has the shape {shape}, which does not follow from a number of bytes; "
                "send the shape in a JSON header"
            )
        if free:
            step = DTYPES[datatype].itemsize * -prod(shape)  # bytes of one step along the free dimension, which is -1
            shape = [len(data) // step if length == -1 and step else length for length in shape]
        return Payload("tensors", {name: decode(name, datatype, shape, data)})

    return read


def check_unique(kind: str, names: Sequence[str]) -> None:
    """Raise `MalformedBody` if two tensors have the same name."""
    if len({*names}) < len(names):
        raise MalformedBody(f"the {kind} '{Counter(names).most_common(1)[0][0][:80]}' is there twice; send it once")


def check_supported(kind: str, name: str, parameters: Mapping[str, Any]) -> None:
    """Raise `Unsupported` if a tensor's parameters ask for shared memory or classification."""
    for parameter in _UNSUPPORTED if parameters else ():
        if parameters.get(parameter):
            raise Unsupported(f"{kind} '{name[:80]}': '{parameter}' is not supported; send the tensor without it")


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
