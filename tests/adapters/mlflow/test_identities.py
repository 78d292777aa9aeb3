import pytest

from app.adapters.mlflow.identities import Identities
from app.errors import ModelNotFound, RegistryUnavailable, ServingError
from app.serving.references import ModelVersion

V, W, OTHER = ModelVersion("m", "1"), ModelVersion("m", "2"), ModelVersion("other", "1")


class Registry:
    """Gives every version the same identity, or fails."""

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


def test_a_fresh_identity_is_not_fetched_again(registry: Registry, identities: Identities) -> None:
    assert [identities.get(V) for _ in range(3)] == ["a"] * 3
    assert registry.asked == [V]
    assert identities.is_worth_asking(V)


def test_after_a_failure_the_registry_is_not_worth_asking(registry: Registry, identities: Identities) -> None:
    identities.get(V)
    registry.fails = RegistryUnavailable("down")
    with pytest.raises(RegistryUnavailable):
        identities.get(W)
    assert not identities.is_worth_asking(W)
    assert identities.is_worth_asking(V)  # it is known
    assert (identities.last(V), identities.last(W)) == ("a", None)
    registry.fails = None
    assert identities.get(W) == "a"
    assert identities.is_worth_asking(OTHER)


def test_a_missing_version_counts_as_an_answer(registry: Registry, identities: Identities) -> None:
    registry.fails = RegistryUnavailable("down")
    with pytest.raises(RegistryUnavailable):
        identities.get(V)
    registry.fails = ModelNotFound("no such version")
    with pytest.raises(ModelNotFound):
        identities.get(V)
    assert identities.is_worth_asking(V)


def test_a_forgotten_model_is_doubtful_until_fetched_again(registry: Registry, identities: Identities) -> None:
    for version in (V, W, OTHER):
        identities.get(version)
    assert not identities.is_doubtful(V)
    identities.forget("m")
    assert [identities.is_doubtful(version) for version in (V, W, OTHER)] == [True, True, False]
    assert (identities.last(V), identities.last(OTHER)) == (None, "a")
    registry.says = "b"
    assert (identities.get(V), identities.get(OTHER)) == ("b", "a")
    assert [identities.is_doubtful(version) for version in (V, W)] == [False, True]


def test_an_answer_from_before_forget_is_not_remembered(registry: Registry) -> None:
    def renewed_meanwhile(version: ModelVersion) -> str:
        known.forget("m")
        return registry.identity(version)

    known = Identities(renewed_meanwhile)
    assert known.get(V) == "a"
    assert known.is_doubtful(V)
    assert known.last(V) is None
