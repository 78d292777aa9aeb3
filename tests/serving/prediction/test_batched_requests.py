"""Requests through the whole service into batches: what is cut, what stays whole, what a model's tags change."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from app.errors import DeadlineExceeded, ModelFailed
from app.serving.batching.limits import BatchOverrides
from app.serving.prediction.requests import Payload, Prediction, PredictionRequest
from app.serving.references import parse_ref
from app.serving.rows import Batch, Output
from app.settings import BatchSettings
from tests.fakes import FakeModel, Fakes, columns, make_fakes, tensor, total
from tests.virtual_time import run

WHOLE = FakeModel(lambda batch: tensor(batch.arrays[0]), row_wise=False)

FIXED = FakeModel(
    lambda batch: tensor(batch.arrays[0]),
    [{"name": None, "type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [12, 1]}}],
)


def fakes_of(model: FakeModel, **batch: int) -> Fakes:
    bounds = BatchSettings(**{"max_rows": 8, "max_bytes": 10**6, "max_in_flight": 2, **batch})
    return make_fakes({"m": model}, batch=bounds)


async def predict(fakes: Fakes, payload: Payload, deadline_s: float = 60.0) -> Prediction:
    deadline = asyncio.get_running_loop().time() + deadline_s
    return await fakes.service.predict(PredictionRequest(parse_ref("m"), deadline, payload))


def ramp(count: int) -> Payload:
    return Payload("columns", {"a": list(range(count)), "b": [0.5] * count})


def sizes(fakes: Fakes) -> list[int]:
    return [batch.count for _, batch in fakes.runner.batches]


@pytest.mark.parametrize("bounds", [{"max_rows": 8}, {"max_rows": 1000, "max_bytes": 8 * 16}], ids=["rows", "bytes"])
def test_a_request_larger_than_a_batch_is_cut_and_joined(bounds: dict[str, int]) -> None:
    fakes = fakes_of(total("a", "b"), **bounds)
    prediction = run(predict(fakes, ramp(30)))
    assert prediction.output.count == 30
    assert prediction.output.arrays[0].tolist() == [n + 0.5 for n in range(30)]
    assert len(sizes(fakes)) > 3
    assert max(sizes(fakes)) <= 8
    assert sum(sizes(fakes)) == 30


def test_a_request_that_fits_a_batch_is_one_call() -> None:
    fakes = fakes_of(total("a", "b"))
    run(predict(fakes, ramp(8)))
    assert sizes(fakes) == [8]


@pytest.mark.parametrize(
    ("model", "payload"),
    [
        (WHOLE, Payload("columns", {"x": list(range(12))})),
        (FIXED, Payload("instances", [[float(n)] for n in range(12)])),
    ],
    ids=["by contract", "fixed number of rows"],
)
def test_a_request_that_is_not_row_wise_stays_whole(model: FakeModel, payload: Payload) -> None:
    fakes = fakes_of(model)
    assert run(predict(fakes, payload)).output.count == 12
    assert sizes(fakes) == [12]


def test_a_model_with_max_rows_1_gets_each_request_whole() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"))
        fakes.directory.overrides["m"] = BatchOverrides(max_rows=1)
        await asyncio.gather(*(predict(fakes, ramp(count)) for count in (1, 1, 3, 20)))
        assert sorted(sizes(fakes)) == [1, 1, 3, 20]

    run(main())


def test_tags_hold_from_the_next_batch_on() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), max_in_flight=1)
        fakes.runner.delay_s = 1
        for rows, expected in ((2, [2, 2, 1]), (4, [4, 1])):
            fakes.directory.overrides["m"] = BatchOverrides(max_rows=rows)
            await predict(fakes, ramp(1))  # the batch by which it is noticed
            del fakes.runner.batches[:]
            await asyncio.gather(*(predict(fakes, ramp(1)) for _ in range(5)))
            assert sizes(fakes) == expected

    run(main())


def test_pieces_answered_in_different_dtypes_become_one() -> None:
    def halves(batch: Batch) -> Output:
        """Whole numbers, where there is no other need."""
        values = batch.arrays[0] / 2
        whole = values.astype("int64")
        return tensor(whole if (whole == values).all() else values)

    fakes = fakes_of(FakeModel(halves, columns("a")), max_rows=4)
    payload = Payload("columns", {"a": [0.0, 2.0, 4.0, 6.0, 8.0, 1.0]})
    output = run(predict(fakes, payload)).output
    assert output.arrays[0].dtype == np.float64
    assert output.arrays[0].tolist() == [0, 1, 2, 3, 4, 0.5]


def test_a_row_that_the_model_rejects_fails_its_request_once() -> None:
    def predicting(batch: Batch) -> Output:
        if 17.0 in batch.arrays[0]:
            raise ModelFailed("no 17")
        return tensor(batch.arrays[0])

    async def main() -> None:
        fakes = fakes_of(FakeModel(predicting, columns("a", "b")))
        large = asyncio.create_task(predict(fakes, ramp(1000)))
        small = asyncio.create_task(predict(fakes, ramp(1)))
        with pytest.raises(ModelFailed, match="no 17"):
            await large
        assert (await small).output.count == 1
        assert fakes.recorder.failures == [("m", "model_failed")]
        assert sum(sizes(fakes)) < 200
        assert fakes.service.admission.rows == 0

    run(main())


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "is late"])
def test_a_large_request_stops_when_its_caller_disconnects(leaves: bool) -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"))
        fakes.runner.delay_s = 1
        task = asyncio.create_task(predict(fakes, ramp(1000), deadline_s=60 if leaves else 2.5))
        await asyncio.sleep(2.5)
        if leaves:
            task.cancel()
        expected: type[BaseException] = asyncio.CancelledError if leaves else DeadlineExceeded
        with pytest.raises(expected):
            await task
        sent = sum(sizes(fakes))
        await asyncio.sleep(30)
        assert sum(sizes(fakes)) == sent <= 3 * 2 * 8
        assert fakes.service.admission.rows == 0

    run(main())


def test_a_batch_carries_the_backlog() -> None:
    async def main() -> None:
        fakes = fakes_of(total("a", "b"), max_in_flight=1, max_rows=2)
        fakes.runner.delay_s = 1
        told: list[Any] = []
        predict_there = fakes.runner.predict

        async def predict_and_note(version: Any, batch: Any, backlog: Any, **how: Any) -> Any:
            told.append(tuple(backlog))
            return await predict_there(version, batch, backlog, **how)

        fakes.runner.predict = predict_and_note  # type: ignore[method-assign]
        await asyncio.gather(*(predict(fakes, ramp(1)) for _ in range(5)))
        assert told == [(3, 0.0), (1, 1.0), (0, 0.0)]

    run(main())
