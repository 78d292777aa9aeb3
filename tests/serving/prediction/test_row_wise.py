"""Only versions that are known to be row-wise are batched and cut; a contradiction ends that at once."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from app.errors import ModelFailed
from app.serving.batching.limits import BatchOverrides
from app.serving.prediction.requests import Payload, PredictionRequest
from app.serving.references import ModelVersion, parse_ref
from app.serving.rows import Batch, Output
from app.settings import BatchSettings
from tests.fakes import FakeModel, Fakes, columns, make_fakes, tensor
from tests.virtual_time import run

M = ModelVersion("m", "1")


def running_sums(batch: Batch) -> Output:
    return tensor(np.cumsum(batch.arrays[0]))


def three_per_row(batch: Batch) -> Output:
    return tensor(np.repeat(batch.arrays[0], 3))


def fakes_of(predict: Any, *, row_wise: bool, declared: bool | None = None, max_rows: int = 8) -> Fakes:
    model = FakeModel(predict, columns("x"), row_wise=row_wise)
    fakes = make_fakes({"m": model}, batch=BatchSettings(max_rows=max_rows, max_bytes=10**6, max_in_flight=1))
    fakes.directory.overrides["m"] = BatchOverrides(row_wise=declared)
    return fakes


async def answers(fakes: Fakes, *requests: list[float]) -> list[Any]:
    """Predict requests at the same time. Returns the lists of answers, or the errors."""
    deadline = asyncio.get_running_loop().time() + 60
    asked = [PredictionRequest(parse_ref("m"), deadline, Payload("columns", {"x": one})) for one in requests]
    found = await asyncio.gather(*map(fakes.service.predict, asked), return_exceptions=True)
    return [one if isinstance(one, BaseException) else one.output.arrays[0].tolist() for one in found]


def sizes(fakes: Fakes) -> list[int]:
    return [batch.count for _, batch in fakes.runner.batches]


@pytest.mark.parametrize("declared", [None, False])
def test_a_model_that_is_not_row_wise_gets_one_request_a_call(declared: bool | None) -> None:
    fakes = fakes_of(running_sums, row_wise=declared is False, declared=declared)
    assert run(answers(fakes, *[[1.0, 1.0]] * 16)) == [[1.0, 2.0]] * 16
    assert sizes(fakes) == [2] * 16


def test_its_large_requests_are_not_cut() -> None:
    fakes = fakes_of(running_sums, row_wise=False)
    assert run(answers(fakes, [1.0] * 1000)) == [[float(n) for n in range(1, 1001)]]
    assert sizes(fakes) == [1000]


def test_it_may_answer_any_number_of_items() -> None:
    fakes = fakes_of(three_per_row, row_wise=False)
    assert run(answers(fakes, [1.0], [2.0, 3.0])) == [[1.0] * 3, [2.0] * 3 + [3.0] * 3]
    assert not fakes.directory.contradictions


def test_the_tag_declares_a_model_row_wise() -> None:
    fakes = fakes_of(lambda batch: tensor(batch.arrays[0]), row_wise=False, declared=True)
    run(answers(fakes, *[[1.0]] * 6))
    assert sizes(fakes) == [6]


def test_a_contradiction_is_answered_right_and_ends_batching() -> None:
    async def main() -> None:
        fakes = fakes_of(three_per_row, row_wise=True)
        requests = [[1.0], [2.0], [3.0]]
        right = [[1.0] * 3, [2.0] * 3, [3.0] * 3]
        assert await answers(fakes, *requests) == right
        assert sizes(fakes) == [3, 1, 1, 1]
        assert fakes.directory.contradictions == {M: "it answered 9 items for 3 rows"}
        assert fakes.recorder.repetitions == [(M, 3)]
        assert await answers(fakes, *requests) == right
        assert sizes(fakes)[4:] == [1, 1, 1]
        assert fakes.recorder.repetitions == [(M, 3)]

    run(main())


def test_a_contradiction_by_a_single_request_is_its_answer() -> None:
    fakes = fakes_of(three_per_row, row_wise=True)
    assert run(answers(fakes, [1.0, 2.0])) == [[1.0] * 3 + [2.0] * 3]
    assert fakes.directory.contradictions == {M: "it answered 6 items for 2 rows"}


@pytest.mark.parametrize("declared", [None, True])
def test_a_model_that_answers_a_value_answers_each_request_right(declared: bool | None) -> None:
    def mean(batch: Batch) -> Output:
        return Output("value", (), (np.array([batch.arrays[0].mean()]),), 1)

    async def main() -> None:
        fakes = fakes_of(mean, row_wise=declared is None, declared=declared)
        requests = [[float(n), n + 1.0] for n in range(4)]
        for _ in range(2):
            assert await answers(fakes, *requests) == [[n + 0.5] for n in range(4)]
        assert sizes(fakes)[:5] == [8, 2, 2, 2, 2]
        assert fakes.directory.contradictions == {M: "it answered one value for 8 rows"}
        assert await answers(fakes, [float(n) for n in range(20)]) == [[9.5]]

    run(main())


def test_a_value_for_one_row_is_a_contradiction() -> None:
    fakes = fakes_of(lambda batch: Output("value", (), (batch.arrays[0],), 1), row_wise=True)
    assert run(answers(fakes, [2.0])) == [[2.0]]
    assert fakes.directory.contradictions == {M: "it answered one value for 1 rows"}


def test_a_contradiction_that_another_replica_saw_ends_batching() -> None:
    async def main() -> None:
        fakes = fakes_of(lambda batch: tensor(batch.arrays[0]), row_wise=True)
        fakes.directory.contradictions[M] = "seen elsewhere"
        await answers(fakes, [1.0])  # the batch by which it is noticed
        del fakes.runner.batches[:]
        await answers(fakes, *[[1.0]] * 4)
        assert sizes(fakes) == [1] * 4

    run(main())


def test_the_tag_wins_and_answers_stay_right() -> None:
    async def main() -> None:
        fakes = fakes_of(three_per_row, row_wise=False, declared=True)
        for _ in range(2):
            assert await answers(fakes, [1.0], [2.0]) == [[1.0] * 3, [2.0] * 3]
        assert sizes(fakes) == [2, 1, 1] * 2
        assert fakes.recorder.repetitions == [(M, 2)] * 2
        assert fakes.directory.contradictions == {M: "it answered 6 items for 2 rows"}

    run(main())


def test_pieces_that_contradict_are_predicted_whole() -> None:
    fakes = fakes_of(three_per_row, row_wise=True)
    assert run(answers(fakes, [float(n) for n in range(20)])) == [np.repeat(np.arange(20.0), 3).tolist()]
    assert sizes(fakes)[-1] == 20
    assert M in fakes.directory.contradictions


def test_pieces_that_cannot_be_joined_are_predicted_whole() -> None:
    def wide_by_size(batch: Batch) -> Output:
        return tensor(np.ones((batch.count, batch.count)))

    fakes = fakes_of(wide_by_size, row_wise=True, max_rows=4)
    (answer,) = run(answers(fakes, [1.0] * 6))
    assert np.shape(answer) == (6, 6)
    assert M in fakes.directory.contradictions


def test_a_repeated_request_fails_alone() -> None:
    def choosy(batch: Batch) -> Output:
        if batch.count == 1 and batch.arrays[0][0] == 2:
            raise ModelFailed("no 2")
        return three_per_row(batch)

    found = run(answers(fakes_of(choosy, row_wise=True), [1.0], [2.0], [3.0]))
    assert [found[0], found[2]] == [[1.0] * 3, [3.0] * 3]
    assert isinstance(found[1], ModelFailed)
