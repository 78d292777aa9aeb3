"""Requests whose input cannot be stacked with others: with row labels, without rows, or of unequal tensors."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from app.errors import ModelFailed
from app.serving.rows import Batch, Output
from tests.connect import Connect
from tests.fakes import FakeModel, columns, make_fakes, tensor


def labels(batch: Batch) -> Output:
    """Answer the labels of the rows."""
    given = batch.layout.labels
    return tensor(np.array([str(label) for label in (range(batch.count) if given is None else given.values)]))


def split(*values: float, **further: Any) -> dict[str, Any]:
    return {"dataframe_split": {"columns": ["x"], "data": [[value] for value in values], **further}}


async def test_row_labels_keep_a_request_alone(connect: Connect) -> None:
    fakes = make_fakes({"m": FakeModel(labels, columns("x"))})
    fakes.runner.delay_s = 0.01
    client = connect(fakes)
    bodies = [split(1, 2, index=["a", n]) if n % 2 else split(1, 2, index=[0, 1]) for n in range(20)]
    answers = await asyncio.gather(*(client.post("/invocations/m", json=body) for body in bodies))
    for number, answer in enumerate(answers):
        if number % 2:
            assert answer.json() == {"predictions": ["a", str(number)]}
    counts = [batch.count for _, batch in fakes.runner.batches if batch.layout.labels is None]
    assert max(counts) > 2, "labels that only count keep no request alone"
    assert all(batch.count == 2 for _, batch in fakes.runner.batches if batch.layout.labels is not None)


async def test_a_large_request_with_row_labels_is_not_cut(connect: Connect) -> None:
    fakes = make_fakes({"m": FakeModel(labels, columns("x"))})
    count = 900
    answer = await connect(fakes).post("/invocations/m", json=split(*range(count), index=[*range(1, count + 1)]))
    assert answer.json()["predictions"][-1] == str(count)
    assert len(fakes.runner.batches) == 1


async def test_a_model_may_answer_a_table_without_rows(connect: Connect) -> None:
    fakes = make_fakes({"m": FakeModel(labels, columns("x"))})
    for _ in range(3):
        answer = await connect(fakes).post("/invocations/m", json=split())
        assert (answer.status_code, answer.json()) == (200, {"predictions": []})


async def test_a_model_that_fails_without_rows_is_no_500(connect: Connect) -> None:
    def predict(batch: Batch) -> Output:
        raise ModelFailed("it raised")

    client = connect(make_fakes({"m": FakeModel(predict, columns("x"))}))
    answer = await client.post("/invocations/m", json=split())
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "no rows, and the model cannot predict none" in answer.json()["message"]
    assert (await client.post("/invocations/m", json=split(1.0))).status_code == 500
