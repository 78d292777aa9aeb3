from __future__ import annotations

import asyncio
import pickle
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ModelFailed, WrongRowCount
from app.serving.batching.merging import Merger, merge
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, Output, Rows, stack

VERSION, OTHER = ModelVersion("m", "1"), ModelVersion("m", "2")
LAYOUT = Layout("columns", ("a", "b"), ("float64", "float64"), ((), ()))
CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


def batch(*values: float, layout: Layout = LAYOUT) -> Batch:
    column = np.array(values)
    return Batch(layout, (column, column * 10), len(values))


class Model:
    """Adds the columns; each call waits until it is let go. Fails where a value is negative."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.callers: list[str] = []
        self.rows_too_many = 0
        self._gates: list[asyncio.Event] = []
        self.open = False

    async def __call__(self, version: ModelVersion, given: Batch) -> Output:
        self.calls.append(given.arrays[0].tolist())
        self.callers.append(CALLER.get())
        gate = asyncio.Event()
        if not self.open:
            self._gates.append(gate)
            await gate.wait()
        if (given.arrays[0] < 0).any():
            raise ModelFailed("a negative price", {"rows": given.count})
        answer = given.arrays[0] + given.arrays[1]
        if self.rows_too_many and given.count > 1:
            answer = np.resize(answer, given.count + self.rows_too_many)
        return Output("tensor", (), (answer,), len(answer))

    async def let_go(self) -> None:
        """End all calls, those that follow too."""
        self.open = True
        for gate in self._gates:
            gate.set()
        await asyncio.sleep(0)


def make(model: Model, *, most_calls: int = 1, most_rows: int = 1000, max_bytes: int = 10**6) -> Merger:
    return Merger(model, most_calls=most_calls, most_rows=lambda _: most_rows, max_bytes=max_bytes)


async def start(merger: Merger, *batches: Batch, version: ModelVersion = VERSION) -> list[asyncio.Task[Output]]:
    tasks = [asyncio.create_task(merger.predict(version, one)) for one in batches]
    await asyncio.sleep(0)
    return tasks


def values(output: Output) -> list[Any]:
    found: list[Any] = output.arrays[0].tolist()
    return found


async def test_a_version_with_a_free_thread_is_called_at_once_with_each_batch_as_it_is() -> None:
    model = Model()
    merger = make(model, most_calls=2)
    first = batch(1)
    tasks = await start(merger, first, batch(2))
    assert model.calls == [[1], [2]]
    await model.let_go()
    assert [values(await task) for task in tasks] == [[11], [22]]


async def test_what_comes_while_all_threads_are_busy_leaves_as_one_call_and_is_cut_apart() -> None:
    model = Model()
    merger = make(model, most_calls=2)
    tasks = await start(merger, batch(1), batch(2), batch(3, 4), batch(5), batch(6))
    assert model.calls == [[1], [2]]
    await model.let_go()
    assert [values(await task) for task in tasks] == [[11], [22], [33, 44], [55], [66]]
    assert model.calls == [[1], [2], [3, 4, 5, 6]]


async def test_one_version_does_not_wait_for_another() -> None:
    model = Model()
    merger = make(model)
    await start(merger, batch(1))
    await start(merger, batch(2), version=OTHER)
    assert model.calls == [[1], [2]]
    await model.let_go()


async def test_only_batches_of_one_layout_are_merged_and_the_others_come_next_in_their_order() -> None:
    model = Model()
    merger = make(model)
    params = LAYOUT._replace(params='{"unit":"kg"}')
    tasks = await start(merger, batch(1), batch(2), batch(3, layout=params), batch(4), batch(5, layout=params))
    await model.let_go()
    assert [values(await task) for task in tasks] == [[11], [22], [33], [44], [55]]
    assert model.calls == [[1], [2, 4], [3, 5]]


async def test_a_merged_call_has_no_more_rows_and_bytes_than_allowed() -> None:
    for bounds in ({"most_rows": 4}, {"max_bytes": 4 * 16}):
        model = Model()
        merger = make(model, **bounds)
        tasks = await start(merger, batch(0), batch(1, 2), batch(3, 4, 5), batch(6, 7), batch(8))
        await model.let_go()
        assert [values(await task) for task in tasks] == [[0], [11, 22], [33, 44, 55], [66, 77], [88]]
        assert model.calls == [[0], [1, 2, 6, 7], [3, 4, 5, 8]]


@pytest.mark.parametrize("most_rows", [0, 1])
async def test_a_model_whose_requests_stay_whole_is_called_with_each_batch_as_it_is(most_rows: int) -> None:
    model = Model()
    merger = make(model, most_rows=most_rows)
    tasks = await start(merger, batch(1), batch(2), batch(3, 4))
    assert model.calls == [[1], [2], [3, 4]]
    await model.let_go()
    assert [values(await task) for task in tasks] == [[11], [22], [33, 44]]


async def test_a_large_batch_is_called_as_it_is() -> None:
    model = Model()
    merger = make(model, most_rows=10**9, max_bytes=10**9)
    await start(merger, batch(1), batch(*range(2 * 1024**2 // 16)))
    assert len(model.calls) == 2
    await model.let_go()


async def test_a_batch_at_fault_fails_alone() -> None:
    model = Model()
    merger = make(model)
    tasks = await start(merger, batch(1), batch(2), batch(-3), batch(4))
    await model.let_go()
    first, second, failed, last = await asyncio.gather(*tasks, return_exceptions=True)
    assert [values(one) for one in (first, second, last) if isinstance(one, Output)] == [[11], [22], [44]]
    assert isinstance(failed, ModelFailed)
    assert failed.details == {"rows": 1}


async def test_a_batch_at_fault_that_waited_alone_is_called_once() -> None:
    model = Model()
    merger = make(model)
    tasks = await start(merger, batch(1), batch(-2))
    await model.let_go()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(found[1], ModelFailed)
    assert model.calls == [[1], [-2]]


async def test_a_wrong_number_of_rows_is_nobody_elses_answer() -> None:
    model = Model()
    model.rows_too_many = 1
    merger = make(model)
    tasks = await start(merger, batch(0), batch(1), batch(2))
    await model.let_go()
    assert [values(await task) for task in tasks] == [[0], [11], [22]]
    assert model.calls == [[0], [1, 2], [1], [2]]


async def test_batches_that_cannot_be_put_together_are_called_apart(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    merger = make(model)
    odd = Batch(LAYOUT, (np.array([[1.0]]), np.array([[2.0]])), 1)  # of another shape than its layout says
    tasks = await start(merger, batch(0), batch(1), odd)
    await model.let_go()
    assert [values(await task) for task in tasks] == [[0], [11], [[3.0]]]
    assert "called apart" in caplog.text


async def test_who_leaves_is_left_out_and_disturbs_nobody() -> None:
    model = Model()
    merger = make(model)
    running, gone, stays = await start(merger, batch(1), batch(2), batch(3))
    gone.cancel()
    await model.let_go()
    assert values(await stays) == [33]
    assert values(await running) == [11]
    assert model.calls == [[1], [3]]


async def test_when_all_have_left_the_model_is_not_called_for_them() -> None:
    model = Model()
    merger = make(model)
    running, *gone = await start(merger, batch(1), batch(2), batch(3))
    for task in gone:
        task.cancel()
    await model.let_go()
    assert values(await running) == [11]
    assert values(await merger.predict(VERSION, batch(4))) == [44]
    assert model.calls == [[1], [4]]


async def test_who_leaves_a_merged_call_under_way_disturbs_nobody() -> None:
    model = Model()
    merger = make(model)
    first, gone, stays = await start(merger, batch(1), batch(2), batch(3))
    first.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert model.calls == [[1], [2, 3]]
    gone.cancel()
    await asyncio.sleep(0)
    await model.let_go()
    assert values(await stays) == [33]


async def test_a_merged_call_belongs_to_none_of_its_callers() -> None:
    model = Model()
    merger = make(model)

    async def call(name: str, value: float) -> Output:
        CALLER.set(name)
        return await merger.predict(VERSION, batch(value))

    tasks = [asyncio.create_task(call(name, 1)) for name in ("first", "second", "third")]
    await asyncio.sleep(0)
    await model.let_go()
    await asyncio.gather(*tasks)
    assert model.callers == ["first", "nobody"]


async def test_after_the_last_call_nothing_is_remembered_and_the_next_is_called_at_once() -> None:
    model = Model()
    merger = make(model)
    tasks = await start(merger, batch(1), batch(-2), batch(3))
    await model.let_go()
    await asyncio.gather(*tasks, return_exceptions=True)
    model.calls.clear()
    assert values(await merger.predict(VERSION, batch(4))) == [44]
    assert model.calls == [[4]]


DTYPES = ("float64", "float32", "int64", "bool", "str", "object")
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "float64": st.floats(width=64),
    "float32": st.floats(width=32),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "bool": st.booleans(),
    "str": st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    "object": st.none() | st.text() | st.lists(st.integers(), max_size=2),
}


@st.composite
def alike(draw: st.DrawFn) -> list[list[Rows]]:
    """The requests in some batches, all of one layout."""
    dtypes = draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3) | st.just(["float64"] * 3))
    layout = Layout("columns", tuple(f"c{index}" for index in range(len(dtypes))), tuple(dtypes), ((),) * len(dtypes))

    def rows() -> Rows:
        count = draw(st.integers(1, 3))
        return Rows(layout, tuple(draw(st.lists(CELLS[one], min_size=count, max_size=count)) for one in dtypes), count)

    return [[rows() for _ in range(draw(st.integers(1, 3)))] for _ in range(draw(st.integers(1, 4)))]


@given(alike(), st.lists(st.booleans(), min_size=4, max_size=4))
def test_merged_batches_are_what_one_batcher_would_have_stacked(drawn: list[list[Rows]], sent: list[bool]) -> None:
    batches = [stack(parts) for parts in drawn]
    travelled = [pickle.loads(pickle.dumps(one)) if away else one for one, away in zip(batches, sent, strict=False)]
    merged, whole = merge(travelled), stack([part for parts in drawn for part in parts])
    assert (merged.layout, merged.count) == (whole.layout, whole.count)
    for array, expected in zip(merged.arrays, whole.arrays, strict=True):
        assert array.dtype == expected.dtype
        assert repr(array.tolist()) == repr(expected.tolist())


@given(st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=4), min_size=1, max_size=12), st.integers(1, 3))
def test_answers_are_those_of_calls_without_merging(drawn: list[list[float]], most_calls: int) -> None:
    async def run() -> None:
        model, alone = Model(), Model()
        alone.open = True
        merger = make(model, most_calls=most_calls)
        tasks = await start(merger, *(batch(*one) for one in drawn))
        await model.let_go()
        assert [values(await task) for task in tasks] == [values(await alone(VERSION, batch(*one))) for one in drawn]
        assert len(model.calls) <= most_calls + 1

    asyncio.run(run())


async def test_a_lone_batch_with_a_wrong_number_of_rows_is_the_models_error() -> None:
    """`ModelHost` gives what the model answered; a batch that waited alone is checked like merged ones."""

    async def call(version: ModelVersion, given: Batch) -> Output:
        await asyncio.sleep(0)
        return Output("tensor", (), (np.zeros(given.count + given.arrays[0][0].astype(int)),), given.count)

    merger = Merger(call, most_calls=1, most_rows=lambda _: 100, max_bytes=10**6)
    right, wrong = await asyncio.gather(*await start(merger, batch(0), batch(1)), return_exceptions=True)
    assert isinstance(right, Output)
    assert isinstance(wrong, WrongRowCount)
