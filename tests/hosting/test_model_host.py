import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from app.errors import EnvironmentMissing, ModelUnavailable, RegistryUnavailable, ReplicaDied
from app.hosting.model_host import ModelHost
from app.serving.batching_contract import UNPROVEN
from app.serving.model_spec import ModelSpec
from app.serving.placement.states import VersionState
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout, Output

LAYOUT = Layout("tensor", (), ("int64",), ((),))


def version(number: int) -> ModelVersion:
    return ModelVersion("m", str(number))


def batch(*values: int) -> Batch:
    return Batch(LAYOUT, (np.array(values),), len(values))


class Gate(threading.Event):
    """An event that tells whether it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.reached.set()
        return super().wait(timeout)


class AddVersion:
    """A model that adds its version's number; waits for `gate` when it has one."""

    def __init__(
        self,
        key: ModelVersion,
        nbytes: int,
        gate: threading.Event | threading.Barrier | None = None,
        problem: str | None = None,
        flavor: str = "test",
        worker: str = "",
    ) -> None:
        self.problem = problem
        self.worker = worker
        self.is_dead = False
        self.spec = ModelSpec(key.name, key.version, flavor, nbytes=nbytes)
        self.threads: list[int] = []
        self._gate = gate

    def predict(self, given: Batch) -> Output:
        self.threads.append(threading.get_ident())
        if self.is_dead:
            raise ReplicaDied("the worker died")
        if self._gate is not None:
            self._gate.wait(10)
        return Output("tensor", (), (given.arrays[0] + int(self.spec.version),), given.count)

    def invoke(self, body: bytes) -> bytes:
        raise NotImplementedError

    def stream(self, body: bytes) -> Iterator[str]:
        raise NotImplementedError


class Loader:
    """Loads `AddVersion` models of 100 bytes, counts loads, fails and waits as told."""

    def __init__(self) -> None:
        self.loads: Counter[ModelVersion] = Counter()
        self.forgotten: list[str] = []
        self.seconds = 0.0
        self.failing: dict[ModelVersion, Exception] = {}
        self.gates: dict[ModelVersion, threading.Event] = {}
        self.predict_gate: threading.Event | threading.Barrier | None = None
        self.problems: dict[ModelVersion, str] = {}
        self.flavor = "test"
        self.loaded: dict[ModelVersion, AddVersion] = {}
        self.workers: dict[ModelVersion, str] = {}
        self.isolated: dict[ModelVersion, str] = {}
        self.unbuilt: set[ModelVersion] = set()
        self.build_gate = threading.Event()
        self.build_error: Exception | None = None

    def forget(self, name: str) -> None:
        self.forgotten.append(name)

    def isolate(self, key: ModelVersion, reason: str) -> None:
        self.isolated[key] = reason

    def isolate_models(self, names: frozenset[str]) -> None:
        self.isolated |= {key: "tag" for key in self.loaded if key.name in names}

    def reunite(self, key: ModelVersion) -> None:
        self.isolated.pop(key, None)

    def load(self, key: ModelVersion) -> AddVersion:
        self.loads[key] += 1
        time.sleep(self.seconds)
        if key in self.gates:
            assert self.gates[key].wait(10)
        if key in self.failing:
            raise self.failing[key]
        if key in self.unbuilt:
            raise EnvironmentMissing("building the environment: it requires more")
        worker = self.workers.get(key, "") or (f"own {key}" if key in self.isolated else "")
        self.loaded[key] = AddVersion(key, 100, self.predict_gate, self.problems.get(key), self.flavor, worker)
        return self.loaded[key]

    def build(self, key: ModelVersion) -> None:
        assert self.build_gate.wait(10)
        if self.build_error is not None:
            raise self.build_error
        self.unbuilt.discard(key)


def make(loader: Loader, *, budget: int = 1000, retry_after_s: float = 60, load_timeout_s: float = 60) -> ModelHost:
    return ModelHost(
        loader, budget_bytes=budget, predict_threads=2, retry_after_s=retry_after_s, load_timeout_s=load_timeout_s
    )


async def answer(host: ModelHost, number: int, value: int = 1) -> int:
    output = await host.predict(version(number), batch(value))
    return int(output.arrays[0][0])


async def test_a_version_is_loaded_when_it_is_first_called() -> None:
    loader = Loader()
    host = make(loader)
    assert await answer(host, 3, 10) == 13
    assert await answer(host, 3, 11) == 14
    assert loader.loads == {version(3): 1}
    assert host.states() == {version(3): VersionState("ready", None, 100, 0.0, UNPROVEN)}


async def test_a_version_with_a_problem_reports_it_and_still_answers() -> None:
    loader = Loader()
    loader.problems[version(3)] = "it does not predict its own input example"
    host = make(loader)
    assert await answer(host, 3) == 4
    told = VersionState("ready", None, 100, 0.0, UNPROVEN, "it does not predict its own input example")
    assert host.states() == {version(3): told}


async def test_a_version_asked_for_by_many_at_once_is_loaded_once() -> None:
    loader = Loader()
    host = make(loader)
    assert await asyncio.gather(*(answer(host, 1) for _ in range(50))) == [2] * 50
    assert loader.loads == {version(1): 1}


async def test_a_slow_load_blocks_no_other_version() -> None:
    loader = Loader()
    gate = loader.gates[version(1)] = threading.Event()
    host = make(loader)
    slow = asyncio.create_task(answer(host, 1))
    assert await answer(host, 2) == 3
    assert host.states()[version(1)].state == "loading"
    gate.set()
    assert await slow == 2


async def test_a_prediction_does_not_block_the_event_loop() -> None:
    loader = Loader()
    loader.predict_gate = threading.Event()
    host = make(loader)
    under_way = asyncio.create_task(answer(host, 1))
    await asyncio.sleep(0.05)
    assert not under_way.done()
    loader.predict_gate.set()
    assert await under_way == 2


async def test_a_failed_load_is_reported_to_all_callers_and_cached() -> None:
    loader = Loader()
    loader.failing[version(1)] = ModelUnavailable("its artifacts are gone")
    host = make(loader)
    for _ in range(3):
        with pytest.raises(ModelUnavailable, match="artifacts are gone"):
            await answer(host, 1)
    assert loader.loads == {version(1): 1}
    assert host.states()[version(1)] == VersionState("failed", "its artifacts are gone")


async def test_a_failed_load_is_retried_later_or_when_forgiven() -> None:
    loader = Loader()
    loader.failing[version(1)] = RegistryUnavailable("down")
    host = make(loader, retry_after_s=0.01)
    with pytest.raises(RegistryUnavailable):
        await answer(host, 1)
    await asyncio.sleep(0.02)
    del loader.failing[version(1)]
    assert await answer(host, 1) == 2
    loader.failing[version(2)] = RegistryUnavailable("down")
    patient = make(loader, retry_after_s=60)
    with pytest.raises(RegistryUnavailable):
        await answer(patient, 2)
    del loader.failing[version(2)]
    patient.forgive(version(2))
    assert await answer(patient, 2) == 3


async def test_an_unexpected_load_error_is_reported_without_its_text() -> None:
    loader = Loader()
    loader.failing[version(1)] = RuntimeError("/secret/path")
    with pytest.raises(ModelUnavailable) as caught:
        await answer(make(loader), 1)
    assert "secret" not in str(caught.value)


async def test_a_load_that_times_out_fails() -> None:
    loader = Loader()
    gate = loader.gates[version(1)] = threading.Event()
    host = make(loader, load_timeout_s=0.02)
    with pytest.raises(ModelUnavailable, match="not loaded within"):
        await answer(host, 1)
    gate.set()


async def test_the_least_recently_used_versions_are_evicted() -> None:
    host = make(Loader(), budget=300)
    for number in (1, 2, 3):
        await answer(host, number)
    await answer(host, 1)
    await answer(host, 4)
    assert set(host.states()) == {version(1), version(3), version(4)}
    assert host.residents.nbytes == 300
    assert host.residents.evictions == 1


async def test_a_version_in_use_is_not_evicted() -> None:
    loader = Loader()
    loader.predict_gate = threading.Event()
    host = make(loader, budget=100)
    busy = asyncio.create_task(answer(host, 1))
    await asyncio.sleep(0.05)
    await host.describe(version(2))
    assert host.states().keys() == {version(1), version(2)}
    loader.predict_gate.set()
    assert await busy == 2


async def test_kept_versions_are_loaded_and_evicted_last() -> None:
    host = make(Loader(), budget=200)
    await host.keep([version(1)])
    await answer(host, 2)
    await answer(host, 3)
    assert set(host.states()) == {version(1), version(3)}


async def test_kept_versions_over_budget_do_not_evict_in_turns() -> None:
    loader = Loader()
    host = make(loader, budget=100)
    for _ in range(5):
        await host.keep([version(1), version(2)])
    assert sum(loader.loads.values()) == 2
    states = host.states()
    assert sorted(state.state for state in states.values()) == ["failed", "ready"]
    out = next(key for key, state in states.items() if state.state == "failed")
    assert await answer(host, int(out.version)) == int(out.version) + 1


async def test_a_released_version_is_loaded_again_when_called() -> None:
    loader = Loader()
    host = make(loader)
    await answer(host, 1)
    host.release(version(1))
    assert host.states() == {}
    assert await answer(host, 1) == 2
    assert loader.loads == {version(1): 2}


async def test_first_calls_beyond_the_budget_are_all_answered() -> None:
    host = make(Loader(), budget=200)
    answers = await asyncio.gather(*(answer(host, n % 20, 0) for n in range(200)))
    assert answers == [n % 20 for n in range(200)]


async def test_a_version_released_while_loading_does_not_stay() -> None:
    loader = Loader()
    gate = loader.gates[version(1)] = threading.Event()
    host = make(loader)
    first = asyncio.create_task(answer(host, 1))
    await asyncio.sleep(0.05)
    host.release(version(1))
    gate.set()
    assert await first == 2
    assert host.states() == {}


async def test_the_load_timeout_excludes_the_wait_for_a_slot() -> None:
    loader = Loader()
    loader.seconds = 0.3
    host = ModelHost(loader, budget_bytes=10_000, predict_threads=1, load_threads=1, load_timeout_s=2)
    await host.keep(version(number) for number in range(8))  # one after the other: longer than the timeout
    assert {state.state for state in host.states().values()} == {"ready"}


async def test_a_cached_failure_keeps_no_callers_frames() -> None:
    loader = Loader()
    loader.failing[version(1)] = ModelUnavailable("gone")
    host = make(loader)
    errors = []
    for _ in range(3):
        with pytest.raises(ModelUnavailable) as caught:
            await answer(host, 1)
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3


async def test_releasing_a_model_releases_all_its_versions() -> None:
    host = make(Loader())
    await asyncio.gather(answer(host, 1), answer(host, 2))
    host.release_model("other")
    assert len(host.states()) == 2
    host.release_model("m")
    assert host.states() == {}


async def test_every_change_of_states_is_announced() -> None:
    seen = 0

    def changed() -> None:
        nonlocal seen
        seen += 1

    host = ModelHost(Loader(), budget_bytes=1000, predict_threads=1, changed=changed)
    await answer(host, 1)
    loaded = seen
    assert loaded >= 2
    host.release(version(1))
    assert seen > loaded


async def test_predictions_run_side_by_side() -> None:
    loader = Loader()
    loader.predict_gate = threading.Barrier(2)  # each waits for the other: one at a time would never end
    host = make(loader)
    assert list(await asyncio.gather(answer(host, 1), answer(host, 2))) == [2, 3]
    host.close()


async def test_a_kept_version_released_while_loading_is_loaded_again() -> None:
    loader = Loader()
    gate = loader.gates[version(1)] = threading.Event()
    host = make(loader)
    keeping = asyncio.create_task(host.keep([version(1)]))
    await asyncio.sleep(0.05)
    host.release_model("m")
    gate.set()
    await keeping
    assert host.states()[version(1)].state == "ready"
    assert loader.loads == {version(1): 2}


SOME = 200
"""Predictions, of microseconds each, after which a model is known to be short on any machine."""


async def threads_of(host: ModelHost, loader: Loader, times: int = SOME) -> list[int]:
    """The threads of so many predictions by version 1, one after the other."""
    for _ in range(times):
        await answer(host, 1)
    return loader.loaded[version(1)].threads[-times:]


async def test_short_predictions_of_computing_models_run_on_the_loop() -> None:
    loader = Loader()
    loader.flavor = "sklearn"
    threads = await threads_of(make(loader), loader)
    assert threads[0] != threading.get_ident()
    assert threads[-1] == threading.get_ident()


async def test_models_that_may_block_always_predict_in_threads() -> None:
    loader = Loader()
    loader.flavor = "python_function"
    assert threading.get_ident() not in await threads_of(make(loader), loader)


async def test_the_loop_predicts_nothing_while_a_thread_does() -> None:
    loader = Loader()
    loader.flavor = "sklearn"
    host = make(loader)
    await threads_of(host, loader)
    gate = loader.predict_gate = Gate()
    slow = asyncio.create_task(answer(host, 2))
    assert await asyncio.to_thread(gate.reached.wait, 10)
    assert threading.get_ident() not in await threads_of(host, loader, 3)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    assert threading.get_ident() not in await threads_of(host, loader, 3)
    gate.set()
    for _ in range(1000):  # until the thread has ended
        if threading.get_ident() in await threads_of(host, loader, 1):
            break
    else:
        pytest.fail("the loop is not used any more")


async def test_prediction_times_are_forgotten_with_the_version() -> None:
    loader = Loader()
    loader.flavor = "sklearn"
    host = make(loader)
    await threads_of(host, loader)
    host.release(version(1))
    assert threading.get_ident() not in await threads_of(host, loader, 1)


async def test_other_versions_load_while_an_environment_is_built() -> None:
    loader = Loader()
    loader.unbuilt.add(version(1))
    states: asyncio.Queue[VersionState | None] = asyncio.Queue()
    host = ModelHost(
        loader, budget_bytes=1000, predict_threads=1, changed=lambda: states.put_nowait(host.states().get(version(1)))
    )
    waiting = asyncio.create_task(answer(host, 1))
    state = None
    while state is None or state.doing is None:
        state = await states.get()
    assert (state.state, state.doing) == ("loading", "building the environment: it requires more")
    assert [await answer(host, number) for number in (2, 3, 4)] == [3, 4, 5]
    assert not waiting.done()
    loader.build_gate.set()
    assert await waiting == 2
    assert host.states()[version(1)].doing is None


async def test_an_environment_that_cannot_be_built_fails_the_load() -> None:
    loader = Loader()
    loader.unbuilt.add(version(1))
    loader.build_gate.set()
    loader.build_error = ModelUnavailable("no index")
    host = make(loader)
    with pytest.raises(ModelUnavailable, match="no index"):
        await answer(host, 1)
    assert host.states() == {version(1): VersionState("failed", "no index")}


async def test_a_dead_worker_takes_only_its_own_versions_with_it() -> None:
    loader = Loader()
    loader.workers = {version(1): "one", version(2): "one", version(3): "other"}
    host = make(loader)
    assert [await answer(host, number) for number in (1, 2, 3, 4)] == [2, 3, 4, 5]
    assert host.residents.workers == {"one", "other"}
    loader.loaded[version(1)].is_dead = True
    with pytest.raises(ReplicaDied):
        await answer(host, 1)
    assert host.resident == [version(3), version(4)]
    assert await answer(host, 1) == 2
    assert loader.loads == {version(1): 2, version(2): 1, version(3): 1, version(4): 1}


async def test_the_least_recently_used_worker_makes_room() -> None:
    loader = Loader()
    loader.workers = {version(number): f"worker {number}" for number in (2, 3, 4)}
    host = ModelHost(loader, budget_bytes=1000, max_workers=2, predict_threads=1)
    for number in (1, 2, 3, 2, 4):
        await answer(host, number)
    assert host.resident == [version(1), version(2), version(4)]
    assert host.residents.workers == {"worker 2", "worker 4"}
    host.close()


async def test_a_worker_is_never_called_on_the_event_loop() -> None:
    loader = Loader()
    loader.flavor = "sklearn"
    loader.workers = {version(1): "one"}
    host = make(loader)
    for _ in range(40):
        await answer(host, 1)
        await answer(host, 2)
    here = threading.get_ident()
    assert here not in loader.loaded[version(1)].threads
    assert here in loader.loaded[version(2)].threads
