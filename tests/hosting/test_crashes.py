"""Versions that end their process, or never return: other versions stay where they are and answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from app.errors import ModelFailed, ModelUnavailable, ReplicaDied
from app.hosting import abandoned_calls, crashes
from app.hosting.crashes import PARDON_S, Crashes
from app.hosting.model_host import ModelHost
from tests.hosting.test_model_host import AddVersion, Gate, Loader, answer, batch, make, version


class Deadly(Loader):
    """Loads models whose workers die in every prediction of one version."""

    deadly = version(1)

    def load(self, key: object) -> AddVersion:
        model = super().load(key)  # type: ignore[arg-type]
        model.is_dead = bool(model.worker) and key == self.deadly
        return model


async def apart(host: ModelHost, number: int) -> int:
    output = await host.predict(version(number), batch(1), apart=True)
    return int(output.arrays[0][0])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


async def test_a_retried_batch_runs_in_a_worker() -> None:
    loader = Loader()
    host = make(loader)
    assert await answer(host, 1) == 2
    assert host.residents.workers == set()
    assert await apart(host, 1) == 2
    assert host.residents.workers == {f"own {version(1)}"}
    assert loader.isolated == {version(1): "its process died during a prediction"}
    assert [await answer(host, 1), await apart(host, 1)] == [2, 2]
    assert loader.loads == {version(1): 2}


async def test_other_calls_do_not_wait_for_the_worker() -> None:
    loader = Loader()
    host = make(loader)
    assert await answer(host, 1) == 2
    loader.gates[version(1)] = threading.Event()
    retried = asyncio.create_task(apart(host, 1))
    await until(lambda: loader.loads[version(1)] == 2)
    assert await answer(host, 1) == 2
    assert not retried.done()
    loader.gates[version(1)].set()
    assert await retried == 2


async def test_a_call_tells_that_it_begins_unless_it_is_in_a_worker() -> None:
    loader = Loader()
    loader.workers = {version(2): "one"}
    host = make(loader)
    begun: list[int] = []
    for number in (1, 2):
        await host.predict(version(number), batch(1), begins=lambda number=number: begun.append(number))  # type: ignore[misc]
    assert begun == [1]


async def test_a_version_that_kills_every_worker_is_refused() -> None:
    host = make(Deadly())
    for _ in range(3):
        with pytest.raises(ReplicaDied):
            await apart(host, 1)
    with pytest.raises(
        ModelUnavailable, match=r"m/versions/1 is refused for 15 s, because its process died several times"
    ):
        await answer(host, 1)
    assert host.states()[version(1)].state == "failed"
    assert await answer(host, 2) == 3
    host.forgive(version(1))
    assert await answer(host, 1) == 2  # in the process of the host again


async def test_a_version_that_answers_in_between_is_not_refused() -> None:
    loader = Loader()
    host = make(loader)
    for _ in range(10):
        assert await apart(host, 1) == 2
        loader.loaded[version(1)].is_dead = True
        with pytest.raises(ReplicaDied):
            await apart(host, 1)


def test_refusals_grow_to_ten_minutes() -> None:
    known = Crashes(lambda: 0.0)
    assert [known.died(version(1)) for _ in range(10)] == [0, 0, 15, 30, 60, 120, 240, 480, 600, 600]
    known.answered(version(1))
    assert known.died(version(1)) == 0


async def test_a_version_returns_after_ten_quiet_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader()
    host = make(loader)
    assert await apart(host, 1) == 2
    await host.keep([version(1)])
    assert host.residents.workers
    monkeypatch.setattr(crashes, "PARDON_S", -PARDON_S)
    await host.keep([version(1)])
    await until(lambda: not host.residents.workers)
    assert await answer(host, 1) == 2
    assert loader.isolated == {}


async def test_a_version_whose_call_does_not_end_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_calls, "_STUCK_S", 0.05)
    loader = Loader()
    gate = loader.predict_gate = Gate()
    host = make(loader)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await answer(host, 1)
    assert gate.reached.is_set()
    loader.predict_gate = None
    await until(lambda: host.residents.workers)
    assert await answer(host, 1) == 2
    assert loader.isolated[version(1)] == "a prediction did not end after its caller had left"
    gate.set()


async def test_a_worker_whose_call_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_calls, "_STUCK_S", 0.05)
    loader = Loader()
    loader.workers = {version(1): "one", version(2): "two"}
    gate = loader.predict_gate = Gate()
    ended: list[str] = []
    host = ModelHost(loader, budget_bytes=1000, predict_threads=2, end_worker=ended.append)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await answer(host, 1)
    await until(lambda: ended)
    assert ended == ["one"]
    assert host.resident == []
    gate.set()
    loader.predict_gate = None
    assert [await answer(host, 1), await answer(host, 2)] == [2, 3]


async def test_a_call_that_ends_late_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_calls, "_STUCK_S", 0.2)
    loader = Loader()
    gate = loader.predict_gate = Gate()
    host = make(loader)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await answer(host, 1)
    gate.set()
    await asyncio.sleep(0.4)
    assert host.residents.workers == set()
    assert loader.isolated == {}


async def test_models_with_the_tag_move_to_workers_once() -> None:
    loader = Loader()
    host = make(loader)
    assert [await answer(host, 1), await answer(host, 2)] == [2, 3]
    for _ in range(3):
        host.isolation.of_models(frozenset({"m"}))
        await until(lambda: len(host.residents.workers) == 2)
    assert [await answer(host, 1), await answer(host, 2)] == [2, 3]
    assert loader.loads == {version(1): 2, version(2): 2}


async def test_an_answer_of_too_many_bytes_is_the_models_error() -> None:
    loader = Loader()
    loader.workers = {version(2): "one"}
    host = ModelHost(loader, budget_bytes=1000, predict_threads=1, answer_bytes=16)
    assert (await host.predict(version(1), batch(1, 2))).count == 2
    with pytest.raises(ModelFailed, match=r"the model's answer has 24 bytes; .*limits.answer_bytes allows 16"):
        await host.predict(version(1), batch(1, 2, 3))
    assert (await host.predict(version(2), batch(1, 2, 3))).count == 3  # a worker bounds its own


async def test_many_calls_that_do_not_end_move_a_version_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls hang in the process of the host: the worker that the version has got since is not ended for them."""
    monkeypatch.setattr(abandoned_calls, "_STUCK_S", 0.1)
    loader = Loader()
    gate = loader.predict_gate = Gate()
    ended: list[str] = []
    host = ModelHost(loader, budget_bytes=1000, predict_threads=2, end_worker=ended.append)
    calls = [asyncio.create_task(answer(host, 1)) for _ in range(2)]
    assert await asyncio.to_thread(gate.reached.wait, 10)
    await asyncio.sleep(0.05)  # the second one has begun too
    loader.predict_gate = None
    calls[0].cancel()
    await until(lambda: host.residents.workers)
    calls[1].cancel()
    await asyncio.sleep(0.3)
    assert (ended, loader.loads) == ([], {version(1): 2})
    assert await answer(host, 1) == 2
    gate.set()
