import pytest

from app.adapters.mlflow.circuit_breaker import Circuit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_works_is_asked(clock: Clock) -> None:
    circuit = Circuit(10, clock)
    assert circuit.may_ask()
    circuit.answered()
    assert circuit.may_ask()


def test_what_has_failed_rests_and_is_then_tried_by_one(clock: Clock) -> None:
    circuit = Circuit(10, clock)
    circuit.failed()
    clock.now += 7.4
    assert not circuit.may_ask()
    clock.now += 5.2
    assert circuit.may_ask()
    assert not circuit.may_ask()
    circuit.answered()
    assert circuit.may_ask()


def test_a_try_that_never_ends_does_not_close_the_way_for_good(clock: Clock) -> None:
    circuit = Circuit(10, clock)
    circuit.failed()
    for _ in range(3):
        clock.now += 12.6
        assert circuit.may_ask()


def test_those_who_saw_the_same_failure_come_back_at_different_times(clock: Clock) -> None:
    circuits = [Circuit(10, clock) for _ in range(200)]
    for circuit in circuits:
        circuit.failed()
    clock.now += 10
    assert 50 < sum(circuit.may_ask() for circuit in circuits) < 150
