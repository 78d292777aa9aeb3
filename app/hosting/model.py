"""A loaded model version, and what loads it, as `ModelHost` sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from app.serving.model_spec import ModelSpec
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Output


class Model(Protocol):
    """A loaded model version; its methods block.

    `problem` is a reason not to promote it, or None. `worker` is the key of the process that holds the model, empty for
    this one.
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def problem(self) -> str | None: ...

    @property
    def worker(self) -> str: ...

    def predict(self, batch: Batch) -> Output: ...

    def invoke(self, body: bytes) -> bytes: ...

    def stream(self, body: bytes) -> Iterator[str]: ...


class Loader(Protocol):
    """Loads versions. `load` and `build` block.

    `build` builds the environment of a version whose load has raised `EnvironmentMissing`. `forget` drops caches of a
    name that means another model now.
    """

    def load(self, version: ModelVersion) -> Model: ...

    def build(self, version: ModelVersion) -> None: ...

    def forget(self, name: str) -> None: ...
