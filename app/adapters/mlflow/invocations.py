"""Calls with the JSON body of one request, answered as MLflow's scoring server answers them.

Chat models and agents take such bodies, and so does any model whose caller sends ``messages``, ``prompt`` or ``input``.
The scoring server has no streams; their events are those of MLflow's agent server (`mlflow.genai.agent_server`).
"""

from __future__ import annotations

import copy
import io
import json
import logging
import traceback
import uuid
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, is_dataclass
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.pyfunc.loaders.chat_agent import _ChatAgentPyfuncWrapper
from mlflow.pyfunc.loaders.chat_model import _ChatModelPyfuncWrapper
from mlflow.pyfunc.loaders.responses_agent import _ResponsesAgentPyfuncWrapper
from mlflow.utils.proto_json_utils import NumpyEncoder
from pydantic import BaseModel, ValidationError

from app.errors import InvalidInput, ModelFailed, ServingError
from app.serving.signatures.signature import Signature

log = logging.getLogger(__name__)

_JSON_MODELS = (_ChatModelPyfuncWrapper, _ChatAgentPyfuncWrapper, _ResponsesAgentPyfuncWrapper)
_WITHOUT_STREAM = "mlflow.pyfunc.model"
"""Module of the base classes, whose `predict_stream` raises `NotImplementedError` or returns nothing."""
_INPUT_STEPS = {
    "_parse_json_data",
    "_validate_prediction_input",
    "_enforce_params_schema",
    "_convert_input",
    "_validate_data_against_type_hint",
}
"""Functions of MLflow that read a request's body: an error in one of them is the caller's."""
_SHOWN_FAULTS = 3
_LONGEST_REASON = 300


class Invocations:
    """JSON calls of one loaded model. Create it before `skip_enforcement`: MLflow itself validates these calls.

    `takes_json` and `streams` are those of `ModelSpec`.
    """

    def __init__(self, model: PyFuncModel) -> None:
        self._model = copy.copy(model)
        self._model._model_meta = copy.copy(model.metadata)
        self._schema = model.metadata.get_input_schema()
        implementation = model._model_impl
        self.takes_json = isinstance(implementation, _JSON_MODELS)
        self.streams = model._predict_stream_fn is not None and _has_stream(implementation)

    @property
    def metadata(self) -> Model:
        """The description of the model, with its whole signature."""
        return self._model.metadata

    def invoke(self, body: bytes) -> bytes:
        """Answer a JSON object with the JSON that the scoring server answers; blocks.

        Raises:
            InvalidInput: the body does not fit; the message names the field.
            ModelFailed: the model raised, or its answer is not JSON.
        """
        try:
            parsed = scoring_server._parse_json_data(json.loads(body), self._model.metadata, self._schema)
            answer = self._model.predict(parsed.data, params=parsed.params)
            text = io.StringIO()
            if parsed.is_unified_llm_input:
                scoring_server.unwrapped_predictions_to_json(answer, text)
            else:
                scoring_server.predictions_to_json(answer, text)
            return _strict(text.getvalue()).encode()
        except BaseException as error:  # also what `sys.exit()` raises
            raise self._fault(error, body) from error

    def stream(self, body: bytes) -> Generator[str]:
        """Yield the JSON of each event that `predict_stream` yields; blocks. Raises as `invoke`."""
        with closing(self._events(body)) as events:
            while True:
                try:
                    event = next(events)
                except StopIteration:
                    return
                except BaseException as error:
                    raise self._fault(error, body) from error
                yield event

    def _events(self, body: bytes) -> Generator[str]:
        given = json.loads(body)
        given.pop("stream", None)  # as the agent server does
        parsed = scoring_server._parse_json_data(given, self._model.metadata, self._schema)
        for event in self._model.predict_stream(parsed.data, params=parsed.params):
            yield _strict(json.dumps(_plain(event), cls=NumpyEncoder))

    def _fault(self, error: BaseException, body: bytes) -> ServingError:
        if isinstance(error, ServingError):
            return error
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        steps = {frame.f_code.co_name for frame in frames if frame.f_globals.get("__name__", "").startswith("mlflow.")}
        if steps & _INPUT_STEPS:
            field = self._wrong_field(body)
            where = f"'{field}': " if field is not None else ""
            details = {"field": field} if field is not None else {}
            return InvalidInput(f"the model does not take this body: {where}{_reason(error)}", details)
        failure = uuid.uuid4().hex[:12]
        log.error("prediction failed: failure=%s", failure, exc_info=error)
        message = f"the model raised {type(error).__name__} while predicting; the log has the cause"
        return ModelFailed(message, {"failure": failure})

    def _wrong_field(self, body: bytes) -> str | None:
        """Return the field that does not fit the signature: MLflow often says only what is wrong with it."""
        given = json.loads(body)
        if self._schema is None or not scoring_server.is_unified_llm_input(given):
            return None
        known = {name: given[name] for name in self._schema.input_names() if name in given}
        try:
            Signature.compile(self._schema.to_dict()).rows("records", [known])
        except ServingError as misfit:  # also for a signature that only MLflow reads
            return f"{misfit.details['column']}{misfit.details.get('path', '')}" if "column" in misfit.details else None
        return None


def _has_stream(implementation: Any) -> bool:
    if isinstance(implementation, _JSON_MODELS):
        implementation = implementation.get_raw_model()
    found = getattr(type(getattr(implementation, "python_model", implementation)), "predict_stream", None)
    return found is not None and found.__module__ != _WITHOUT_STREAM


def _plain(event: Any) -> Any:
    if isinstance(event, BaseModel):
        return event.model_dump(exclude_none=True)
    return asdict(event) if is_dataclass(event) and not isinstance(event, type) else event


def _strict(text: str) -> str:
    """Replace NaN and infinities, which JSON has not, by null."""
    if "NaN" not in text and "Infinity" not in text:
        return text
    return json.dumps(json.loads(text, parse_constant=lambda _: None))


def _reason(error: BaseException) -> str:
    """Say in one line what is wrong with a body, and in which field."""
    if isinstance(error, ValidationError):
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        return "; ".join(f"'{_field(fault['loc'])}': {fault['msg']}" for fault in faults[:_SHOWN_FAULTS])
    text = error.message.rpartition("Error: ")[2] if isinstance(error, MlflowException) else str(error)
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"


def _field(place: tuple[int | str, ...]) -> str:
    """Name a field without the validators of a union, which stand in brackets."""
    return ".".join(str(part) for part in place if isinstance(part, int) or "[" not in part)
