from __future__ import annotations

import pytest

from app.serving.batching.short_calls import SHORT_S, ShortCalls


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calls(clock: Clock) -> ShortCalls:
    return ShortCalls("sklearn", clock)


def learn(calls: ShortCalls, seconds: float, *, rows: int = 1, times: int = 50) -> None:
    for _ in range(times):
        calls.took(rows, seconds, on_loop=False)


def test_no_prediction_is_short_at_first(calls: ShortCalls) -> None:
    assert not calls.is_short(1)
    learn(calls, SHORT_S / 3, times=5)
    assert not calls.is_short(1)


def test_predictions_become_short_after_a_dozen_short_ones(calls: ShortCalls) -> None:
    learn(calls, SHORT_S / 3)
    assert calls.is_short(1)


def test_long_predictions_never_become_short(calls: ShortCalls) -> None:
    learn(calls, SHORT_S * 1.1)
    assert not calls.is_short(1)


def test_several_slow_predictions_count_and_a_single_one_not(calls: ShortCalls) -> None:
    learn(calls, SHORT_S / 3)
    learn(calls, 20 * SHORT_S, times=1)
    assert calls.is_short(1)
    learn(calls, 20 * SHORT_S, times=3)
    assert not calls.is_short(1)


def test_each_number_of_rows_is_learned_by_itself(calls: ShortCalls) -> None:
    learn(calls, SHORT_S / 3, rows=1)
    learn(calls, SHORT_S * 2, rows=40)
    assert calls.is_short(1)
    assert not calls.is_short(40)
    assert not calls.is_short(8)


def test_large_batches_are_never_short(calls: ShortCalls) -> None:
    learn(calls, SHORT_S / 3, rows=128)
    learn(calls, SHORT_S / 3, rows=1_000_000)
    assert not calls.is_short(128)
    assert not calls.is_short(1_000_000)


def test_a_long_prediction_on_the_loop_pauses_its_use(calls: ShortCalls, clock: Clock) -> None:
    learn(calls, SHORT_S / 3)
    calls.took(1, 10.0, on_loop=True)
    learn(calls, SHORT_S / 3)
    clock.now += 3999
    assert not calls.is_short(1)
    clock.now += 2
    assert calls.is_short(1)


def test_a_long_prediction_in_a_thread_pauses_nothing(calls: ShortCalls) -> None:
    learn(calls, SHORT_S / 3)
    calls.took(1, 10.0, on_loop=False)
    assert calls.is_short(1)


def test_a_model_that_may_call_servers_is_never_short(clock: Clock) -> None:
    calls = ShortCalls("python_function", clock)
    learn(calls, SHORT_S / 3)
    assert not calls.is_short(1)
