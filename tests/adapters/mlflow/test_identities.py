import pytest

from app.adapters.mlflow.identities import Identities
from app.errors import ModelNotFound, RegistryUnavailable, ServingError
from app.serving.references import ModelVersion

V, W, OTHER = ModelVersion("m", "1"), ModelVersion("m", "2"), ModelVersion("other", "1")


class Registry:
    """Says the same of every version, or fails."""

    def __init__(self) -> None:
        self.says = "a"
        self.fails: ServingError | None = None
        self.asked: list[ModelVersion] = []

    def identity(self, version: ModelVersion) -> str:
        self.asked.append(version)
        if self.fails is not None:
            raise self.fails
        return self.says


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def identities(registry: Registry) -> Identities:
    return Identities(registry.identity)


def test_what_is_known_is_not_asked_for_again(registry: Registry, identities: Identities) -> None:
    assert [identities.ask(V) for _ in range(3)] == ["a"] * 3
    assert registry.asked == [V]
    assert identities.may_ask(V)


def test_while_the_registry_does_not_answer_asking_is_not_worth_the_wait(
    registry: Registry, identities: Identities
) -> None:
    identities.ask(V)
    registry.fails = RegistryUnavailable("down")
    with pytest.raises(RegistryUnavailable):
        identities.ask(W)
    assert not identities.may_ask(W)
    assert identities.may_ask(V)  # it is known
    assert (identities.last(V), identities.last(W)) == ("a", None)
    registry.fails = None
    assert identities.ask(W) == "a"
    assert identities.may_ask(OTHER)


def test_that_a_version_does_not_exist_is_an_answer(registry: Registry, identities: Identities) -> None:
    registry.fails = RegistryUnavailable("down")
    with pytest.raises(RegistryUnavailable):
        identities.ask(V)
    registry.fails = ModelNotFound("no such version")
    with pytest.raises(ModelNotFound):
        identities.ask(V)
    assert identities.may_ask(V)


def test_a_name_that_means_another_model_is_asked_for_again_and_doubtful_until_then(
    registry: Registry, identities: Identities
) -> None:
    for version in (V, W, OTHER):
        identities.ask(version)
    assert not identities.is_doubtful(V)
    identities.forget("m")
    assert [identities.is_doubtful(version) for version in (V, W, OTHER)] == [True, True, False]
    assert (identities.last(V), identities.last(OTHER)) == (None, "a")
    registry.says = "b"
    assert (identities.ask(V), identities.ask(OTHER)) == ("b", "a")
    assert [identities.is_doubtful(version) for version in (V, W)] == [False, True]


def test_an_answer_from_before_the_name_changed_its_meaning_is_not_remembered(registry: Registry) -> None:
    def renewed_meanwhile(version: ModelVersion) -> str:
        known.forget("m")
        return registry.identity(version)

    known = Identities(renewed_meanwhile)
    assert known.ask(V) == "a"
    assert known.is_doubtful(V)
    assert known.last(V) is None
