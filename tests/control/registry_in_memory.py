"""A registry in memory for tests of concurrency: it can be held back in the middle of an answer."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.errors import ModelNotFound
from app.serving.references import ModelVersion
from app.serving.releases.registered_model import RegisteredModel


@dataclass
class Model:
    aliases: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    versions: int = 3
    created: int = 1


class RegistryInMemory:
    """The part of `MlflowRegistry` that `RegistrySync` uses.

    An answer is what was so when the question came. It is held back while `slow` holds the name of its model, or
    ``models`` for the reading of all, and a write while it holds ``write NAME``; `refuses` is called with the name of a
    model before it is written to. Versions in `deleted` do not exist; `down` is called by questions about versions.
    """

    def __init__(self, **models: Model) -> None:
        self.of = models
        self._replica: dict[str, Model] | None = None
        self.slow: set[str] = set()
        self.deleted: set[ModelVersion] = set()
        self.down: Callable[[], None] = lambda: None
        self.go_on = threading.Event()
        self.refuses: Callable[[str], None] = lambda name: None
        self._asked: list[str] = []
        self._news = threading.Condition()

    def models(self) -> Sequence[RegisteredModel]:
        found = [self._model(name) for name in sorted(self.of)]
        self._hold_back("models")
        return found

    def model(self, name: str) -> RegisteredModel:
        found = self._model(name)
        self._hold_back(name)
        return found

    def has_version(self, version: ModelVersion) -> bool:
        self.down()
        exists = version.name in self.of and 0 < int(version.version) <= self.of[version.name].versions
        return exists and version not in self.deleted

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self._write(name, lambda model: model.aliases.update({alias: version}))

    def set_tag(self, name: str, tag: str, value: str) -> None:
        self._write(name, lambda model: model.tags.update({tag: value}))

    def delete_tag(self, name: str, tag: str) -> None:
        self._write(name, lambda model: model.tags.pop(tag, None))

    def lag_behind(self) -> None:
        """Answer from now on with the present state, in spite of later writes."""
        self._replica = copy.deepcopy(self.of)

    def catch_up(self) -> None:
        """End what `lag_behind` began."""
        self._replica = None

    def times_asked(self, question: str) -> int:
        """How often it was asked, as `wait_until_asked` counts."""
        return self._asked.count(question)

    def wait_until_asked(self, question: str, times: int = 1) -> None:
        """Return once it was asked about a model, or for all ``models``, or has ``written NAME``, so many times."""
        with self._news:
            assert self._news.wait_for(lambda: self._asked.count(question) >= times, 20)

    def _model(self, name: str) -> RegisteredModel:
        if name not in self.of:
            raise ModelNotFound(f"there is no registered model '{name}'", {"model": name})
        model = (self._replica or self.of)[name]
        return RegisteredModel(name, dict(model.aliases), dict(model.tags), str(model.versions), model.created)

    def _write(self, name: str, change: Callable[[Model], object]) -> None:
        self.refuses(name)
        self._hold_back(f"write {name}")
        self._model(name)
        change(self.of[name])
        self._hold_back(f"written {name}")

    def _hold_back(self, question: str) -> None:
        with self._news:
            self._asked.append(question)
            self._news.notify_all()
        if question in self.slow:
            assert self.go_on.wait(20)
