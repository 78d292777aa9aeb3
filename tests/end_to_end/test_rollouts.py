"""Versions are switched under load, again and again: no request fails, and none waits for a load."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from mlflow import MlflowClient

from tests import numbered
from tests.platform import URL, Platform
from tests.registered import registry, tracking
from tests.steady_load import Outcome, SteadyLoad, told

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

NAME = "switching"
OTHER = f"{NAME}@challenger"
GOOD = ["1", "2", "3", "4", "5", "6"]
BROKEN, ANOTHER_INPUT = "7", "8"
MOVES = 50
LOAD_S = 0.3
WITHIN_S = 60


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the loads are held while there is a load of requests."""
    return tmp_path_factory.mktemp("rollouts") / "loads"


@pytest.fixture(scope="module")
def moved(platform: Platform, loads: Path) -> MlflowClient:
    """Client of a registry with compatible versions, a broken one and an incompatible one."""
    import mlflow

    client = registry(platform.home)
    client.create_registered_model(NAME)
    with tracking(platform.home), warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        with mlflow.start_run(experiment_id=client.get_experiment_by_name("tests").experiment_id):
            models = [numbered.log(int(version), load_s=LOAD_S, held_in=loads) for version in [*GOOD, BROKEN]]
            models.append(numbered.log(int(ANOTHER_INPUT), further="another"))
        for model_id in models:
            version = str(client.create_model_version(NAME, f"models:/{model_id}", model_id=model_id).version)
            if version == "1":  # at once, or a later version may answer the bare name
                for alias in ("champion", "challenger"):
                    client.set_registered_model_alias(NAME, alias, version)
        folder = urlsplit(mlflow.get_logged_model(models[int(BROKEN) - 1]).artifact_location).path
        (Path(folder) / "python_model.pkl").write_bytes(b"no pickle")
    return client


@dataclass
class Move:
    """Switch of a reference to a version, at some time between `begun` and `done`."""

    version: str
    begun: float
    done: float


class Mover:
    """Moves the aliases of the model in every way there is, and records when."""

    def __init__(self, mlflow: MlflowClient, http: httpx.AsyncClient, load: SteadyLoad) -> None:
        self._mlflow = mlflow
        self._http = http
        self._load = load
        self.moves = {ref: [Move("1", -math.inf, -math.inf)] for ref in (NAME, OTHER)}
        self.took_s: dict[str, list[float]] = {}

    def now(self, ref: str) -> str:
        """Return the version that the reference means."""
        return self.moves[ref][-1].version

    async def promote(self, ref: str, version: str) -> None:
        begun = time.monotonic()
        response = await self.ask("promote", version=version, **_alias(ref))
        assert response.status_code == 200, response.text
        self._moved("promote", ref, version, begun)

    async def rollback(self, ref: str) -> None:
        version, begun = self.moves[ref][-2].version, time.monotonic()
        response = await self.ask("rollback", **_alias(ref))
        assert response.status_code == 200, response.text
        self._moved("rollback", ref, version, begun)

    async def in_mlflow(self, ref: str, version: str) -> None:
        begun = time.monotonic()
        await self.set_alias(ref, version)
        await self._load.until(ref, version, within_s=WITHIN_S)
        self._moved("alias moved in MLflow", ref, version, begun)

    async def set_alias(self, ref: str, version: str) -> None:
        alias = _alias(ref).get("alias", "champion")
        await asyncio.to_thread(self._mlflow.set_registered_model_alias, NAME, alias, version)

    async def unload(self, version: str) -> None:
        response = await self._http.post(f"/v1/models/{NAME}/versions/{version}:unload")
        assert response.status_code == 200, response.text

    async def ask(self, verb: str, **body: str) -> httpx.Response:
        return await self._http.post(f"/v1/models/{NAME}:{verb}", json=body)

    async def until_blocked(self, alias: str, version: str) -> None:
        async with asyncio.timeout(WITHIN_S):
            while True:
                status = (await self._http.get(f"/v1/models/{NAME}")).json()["model"]
                if status["desired"].get(alias) == version and alias in status["blocked"]:
                    return
                await asyncio.sleep(0.2)

    def may_answer(self, outcome: Outcome) -> bool:
        """Whether the version that answered was in force at some time while the request was under way."""
        moves = self.moves[outcome.ref]
        ends = [move.done for move in moves[1:]] + [math.inf]
        return any(
            move.version == outcome.version and move.begun <= outcome.done and outcome.sent <= end
            for move, end in zip(moves, ends, strict=True)
        )

    def _moved(self, how: str, ref: str, version: str, begun: float) -> None:
        done = time.monotonic()
        self.moves[ref].append(Move(version, begun, done))
        self.took_s.setdefault(how, []).append(done - begun)


def _alias(ref: str) -> dict[str, str]:
    alias = ref.partition("@")[2]
    return {"alias": alias} if alias else {}


async def test_fifty_switches_under_load_lose_no_request(platform: Platform, moved: MlflowClient, loads: Path) -> None:
    rng = random.Random(50)
    async with httpx.AsyncClient(base_url=URL, timeout=WITHIN_S) as http:
        for ref in (NAME, OTHER):  # else the load would begin with a backlog
            (await http.post(f"/v1/models/{ref}:load")).raise_for_status()
    async with (
        httpx.AsyncClient(base_url=URL, timeout=WITHIN_S) as http,
        SteadyLoad([NAME, OTHER], loads=loads) as load,
    ):
        mover = Mover(moved, http, load)
        for ref in (NAME, OTHER):
            await load.until(ref, "1", within_s=WITHIN_S)
        warm_from = time.monotonic()  # the very first calls load the version
        while sum(map(len, mover.took_s.values())) < MOVES:
            number = sum(map(len, mover.took_s.values()))
            ref = OTHER if number % 5 == 4 else NAME
            version = rng.choice([version for version in GOOD if version not in (mover.now(NAME), mover.now(OTHER))])
            if number % 2:
                await mover.unload(version)  # so that it must be loaded again
            if number % 5 == 2:
                await mover.rollback(ref)
            elif number % 5 == 3:
                await mover.in_mlflow(ref, version)
            else:
                await mover.promote(ref, version)
            if number == MOVES // 2:
                await _refused_switches(mover)
        await load.until(NAME, mover.now(NAME), within_s=WITHIN_S)
    _report(mover.took_s, load.outcomes)
    assert told(load.outcomes) == {}
    outcomes = [outcome for outcome in load.outcomes if outcome.sent > warm_from]
    assert {outcome.version for outcome in outcomes} == set(GOOD)
    for outcome in outcomes:
        assert outcome.said is not None
        assert outcome.said.version == outcome.version, outcome
        assert not outcome.said.unwarmed, outcome
        assert not outcome.said.awaited, outcome
        assert mover.may_answer(outcome), (outcome, mover.moves[outcome.ref])


async def _refused_switches(mover: Mover) -> None:
    """Try both versions by promote and by alias, then call the rollout off: what answers stays the same."""
    before = mover.now(NAME)
    refused = {version: await mover.ask("promote", version=version) for version in (BROKEN, ANOTHER_INPUT)}
    assert (refused[BROKEN].status_code, refused[BROKEN].json()["code"]) == (503, "model_unavailable")
    assert refused[ANOTHER_INPUT].status_code == 409
    assert "another" in refused[ANOTHER_INPUT].text
    await mover.set_alias(NAME, BROKEN)
    await mover.until_blocked("champion", BROKEN)
    await mover.set_alias(NAME, ANOTHER_INPUT)
    await mover.until_blocked("champion", ANOTHER_INPUT)
    called_off = await mover.ask("rollback")
    assert (called_off.status_code, called_off.json()["model_version"]) == (200, before), called_off.text


def _report(took_s: dict[str, list[float]], outcomes: Sequence[Outcome]) -> None:
    for how, seconds in took_s.items():
        p50, most = statistics.median(seconds), max(seconds)
        print(f"{len(seconds)} × {how}: p50 {p50:.2f} s, at most {most:.2f} s")  # noqa: T201 - shown by `pytest -s`
    took = sorted(outcome.done - outcome.sent for outcome in outcomes)
    p50, p99, most = (took[int(share * (len(took) - 1))] * 1000 for share in (0.5, 0.99, 1))
    beside = f"{len(took)} requests beside them: p50 {p50:.0f} ms, p99 {p99:.0f} ms, at most {most:.0f} ms"
    print(beside)  # noqa: T201 - shown by `pytest -s`
