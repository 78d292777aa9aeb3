import pytest

from app.adapters.mlflow.circuit_breaker import CircuitBreaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_calls_are_allowed_while_they_succeed(clock: Clock) -> None:
    breaker = CircuitBreaker(10, clock)
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.allows()


def test_after_a_cooldown_one_caller_tries(clock: Clock) -> None:
    breaker = CircuitBreaker(10, clock)
    breaker.failed()
    clock.now += 7.4
    assert not breaker.allows()
    clock.now += 5.2
    assert breaker.allows()
    assert not breaker.allows()
    breaker.succeeded()
    assert breaker.allows()


def test_a_try_that_never_ends_does_not_block_later_tries(clock: Clock) -> None:
    breaker = CircuitBreaker(10, clock)
    breaker.failed()
    for _ in range(3):
        clock.now += 12.6
        assert breaker.allows()


def test_cooldowns_vary(clock: Clock) -> None:
    breakers = [CircuitBreaker(10, clock) for _ in range(200)]
    for breaker in breakers:
        breaker.failed()
    clock.now += 10
    assert 50 < sum(breaker.allows() for breaker in breakers) < 150
