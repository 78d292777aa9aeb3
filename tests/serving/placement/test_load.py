from __future__ import annotations

import pytest

from app.serving.placement.load import NOTE_TTL_S, Backlog, BusyMeter, BusySample, CallNote, Waiting
from app.serving.references import ModelVersion

A, B = ModelVersion("a", "1"), ModelVersion("b", "1")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_last_note_of_each_sender_counts_by_its_share(clock: Clock) -> None:
    waiting = Waiting(clock)
    waiting.note(A, CallNote(1, "g1", Backlog(100, 0.5)))
    waiting.note(A, CallNote(1, "g1", Backlog(40, 0.2)))
    waiting.note(A, CallNote(2, "g2", Backlog(60, 0.1)))
    waiting.note(B, CallNote(1, "g1", Backlog(5, 0.9)))
    assert (waiting.rows, waiting.oldest_wait_s) == (40 + 30 + 5, 0.9)
    waiting.note(B, CallNote(1, "g1"))
    assert (waiting.rows, waiting.oldest_wait_s) == (70, 0.2)


def test_notes_expire(clock: Clock) -> None:
    waiting = Waiting(clock)
    waiting.note(A, CallNote(1, "g1", Backlog(100, 0.5)))
    clock.now += NOTE_TTL_S - 1
    waiting.note(A, CallNote(1, "g2", Backlog(7, 0.1)))
    clock.now += 2
    assert (waiting.rows, waiting.oldest_wait_s) == (7, 0.1)
    clock.now += NOTE_TTL_S
    assert (waiting.rows, waiting.oldest_wait_s) == (0, 0.0)


def test_busy_threads_are_averaged_and_include_running_work(clock: Clock) -> None:
    meter = BusyMeter(clock)
    sample = BusySample(meter, clock)
    with meter.working(A):
        clock.now += 2
    with meter.working(A), meter.working(B):
        clock.now += 2
        assert sample.take() == {A: 1.0, B: 0.5}
        clock.now += 4
        assert sample.take() == {A: 1.0, B: 1.0}
    clock.now += 1
    assert sample.take() == {}
