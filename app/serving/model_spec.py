"""Description of a loaded model version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.serving.batching_contract import UNPROVEN, BatchingContract
from app.serving.references import ModelVersion


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Plain data about a loaded model version.

    Attributes:
        inputs, outputs, params: the parsed JSON of MLflow's signature (``ModelSignature.to_dict()``), None for parts
            that the model was logged without.
        input_example: the logged example as JSON values, None without one.
        nbytes: memory that the loaded model takes, in bytes.
        load_ms: time to load it, in milliseconds.
        batching: whether the version is known to predict row by row.
        accelerator: the faster way in which the model is called, None without one.
        isolation: why the version runs in a worker process, as a clause; None where it does not.
        metadata: the metadata that was logged with the model.
        hinted: whether `inputs` comes from a type hint, which validates the input where the model is.
        takes_json: whether it takes the JSON object of one request, as chat models and agents do, instead of rows.
        streams: whether it can answer a request event by event.
    """

    name: str
    version: str
    flavor: str
    inputs: Sequence[Mapping[str, Any]] | None = None
    outputs: Sequence[Mapping[str, Any]] | None = None
    params: Sequence[Mapping[str, Any]] | None = None
    input_example: Any = None
    nbytes: int = 0
    load_ms: float = 0.0
    batching: BatchingContract = UNPROVEN
    isolation: str | None = None
    accelerator: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    hinted: bool = False
    takes_json: bool = False
    streams: bool = False

    @property
    def key(self) -> ModelVersion:
        return ModelVersion(self.name, self.version)
