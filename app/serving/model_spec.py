"""Description of a loaded model version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.serving.references import ModelVersion


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model version once it is loaded. All of it is plain data.

    `inputs`, `outputs` and `params` are the parsed JSON of MLflow's signature (``ModelSignature.to_dict()``), None
    where the model was logged without. `input_example` is the logged one as JSON values, and `metadata` what was logged
    under that name.
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
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> ModelVersion:
        return ModelVersion(self.name, self.version)
