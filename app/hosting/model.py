"""What loads model versions, as `ModelHost` sees it."""

from __future__ import annotations

from typing import Protocol

from app.serving.ports import Model
from app.serving.references import ModelVersion


class Loader(Protocol):
    """Loads versions. `load` and `build` block.

    `build` builds the environment of a version whose load has raised `EnvironmentMissing`. `forget` drops caches of a
    name that means another model now. `isolate` has all later loads of a version end in a worker of its own, `reunite`
    ends that. `isolate_models` does so for all versions of these names, instead of those that it was given before.
    """

    def load(self, version: ModelVersion) -> Model: ...

    def build(self, version: ModelVersion) -> None: ...

    def forget(self, name: str) -> None: ...

    def isolate(self, version: ModelVersion, reason: str) -> None: ...

    def reunite(self, version: ModelVersion) -> None: ...

    def isolate_models(self, names: frozenset[str]) -> None: ...
