"""Versions that cannot share a process answer side by side, each as in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sklearn

from ml_serve_client import Client
from tests.clashing import PATIENCE, environmental_model, factor_model, ship, spying_model, telling_model
from tests.platform import URL, Platform
from tests.registered import registry, tracking

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

OTHER_SKLEARN = "1.7.2"
OLDER = ["numpy==1.26.4", "scikit-learn==1.6.1"]
"""Arrays of numpy 2 and 1 are pickled under other names."""


@pytest.fixture(scope="module")
def client(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Client of a platform with versions of clashing code and libraries."""
    import mlflow

    code = tmp_path_factory.mktemp("code")
    logged: list[tuple[str, dict[str, Any]]] = [
        *(
            ("factor", {"python_model": factor_model(), "code_paths": [str(ship(code / str(factor), factor))]})
            for factor in (2, 100)
        ),
        *(("environment", {"python_model": environmental_model(number)}) for number in (3, 5)),
        ("telling", {"python_model": telling_model()}),
        ("telling", {"python_model": telling_model(), "pip_requirements": [f"scikit-learn=={OTHER_SKLEARN}"]}),
        ("telling", {"python_model": telling_model(), "pip_requirements": ["no-library-of-this-name==1.0"]}),
        ("older", {"python_model": telling_model(), "pip_requirements": OLDER}),
        ("spying", {"python_model": spying_model()}),
        ("spying", {"python_model": spying_model(), "code_paths": [str(ship(code / "spying", 1))]}),
    ]
    api = registry(platform.home)
    with tracking(platform.home), warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        with mlflow.start_run(experiment_id=api.get_experiment_by_name("tests").experiment_id):
            for name, arguments in logged:
                info = mlflow.pyfunc.log_model(name="model", **{"pip_requirements": [], **arguments})
                version = str(mlflow.register_model(info.model_uri, name).version)
                if name in ("factor", "environment"):  # at once, or version 2 may answer the bare name first
                    api.set_registered_model_alias(name, {"1": "champion", "2": "challenger"}[version], version)
    with Client(URL, timeout=120) as client:
        yield client
    for name in {name for name, _ in logged}:  # else each later start of the platform would start their workers
        api.delete_registered_model(name)


def predict(ref: str, x: float = 1.0) -> tuple[Any, str]:
    """Return the prediction of one row, and the version that gave it."""
    url, body = f"{URL}/v1/models/{ref}:predict", {"instances": [{"x": x}]}
    answer = httpx.post(url, json=body, headers=PATIENCE, timeout=330)
    return answer.raise_for_status().json()["predictions"][0], answer.headers["x-model-version"]


def isolation(client: Client, name: str, version: str) -> str:
    """Return why a version runs in a process of its own. The pool reports it a moment after the first answer."""
    deadline = time.monotonic() + 60
    while (found := client.model(name).versions.get(version)) is None or found.isolation is None:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found.isolation


def test_code_of_the_same_name_answers_by_its_own_version(client: Client) -> None:
    for ref, right in (("factor/versions/1", 2), ("factor/versions/2", 100)) * 2:
        assert predict(ref)[0] == right
    client.promote("factor", "2")
    assert predict("factor") == (100, "2")
    assert predict("factor/versions/1")[0] == 2
    client.rollback("factor")
    assert predict("factor") == (2, "1")
    for ref in ("factor/versions/1", "factor/versions/2"):
        client.unload(ref)
    assert predict("factor@challenger") == (100, "2")
    assert predict("factor") == (2, "1")
    assert isolation(client, "factor", "1") == "it ships code of its own"


def test_a_shadow_of_clashing_code_answers_by_its_own(client: Client) -> None:
    client.set_traffic("factor", {}, shadow="challenger")
    try:
        found, deadline = None, time.monotonic() + 120
        while found is None or found.requests < 3 or found.largest != 3 * 98:  # no copies before it is loaded
            assert time.monotonic() < deadline, found
            for x in (1.0, 2.0, 3.0):
                assert predict("factor", x) == (2 * x, "1")
            time.sleep(0.2)
            found = client.compare("factor", "champion", "challenger").shadow
    finally:
        client.set_traffic("factor", {})


def test_what_a_load_changes_reaches_no_other_model(client: Client) -> None:
    for ref, right in (("environment/versions/1", 3), ("environment/versions/2", 5)) * 2:
        assert predict(ref)[0] == right
    found = {isolation(client, "environment", version) for version in "12"}
    assert found == {"it changes environment variables when it is loaded"}


def test_other_libraries_answer_beside_ours(client: Client, platform: Platform) -> None:
    (ours, our_folder, _), (other, other_folder, _) = (
        predict(f"telling/versions/{version}")[0].split() for version in (1, 2)
    )
    assert (ours, other) == (sklearn.__version__, OTHER_SKLEARN)
    assert len({our_folder, other_folder, str(Path.cwd()), str(platform.home)}) == 4
    reason = f"it requires scikit-learn=={OTHER_SKLEARN} ({sklearn.__version__} is installed)"
    assert isolation(client, "telling", "2") == reason


def test_a_worker_with_numpy_1_reads_our_arrays(client: Client) -> None:
    assert predict("older")[0].split()[0] == "1.6.1"
    assert "numpy==1.26.4" in isolation(client, "older", "1")


def test_worker_processes_have_no_settings_of_the_gateway(client: Client) -> None:
    in_pool, in_worker = (json.loads(predict(f"spying/versions/{version}")[0]) for version in (1, 2))
    assert "ML_SERVE_HOME" in {*in_pool["environ"]} & {*in_pool["proc"]}
    assert [name for names in in_worker.values() for name in names if name.startswith("ML_SERVE_")] == []
    assert {"PATH", "RAY_SERVE_ENABLE_HA_PROXY"} <= {*in_worker["environ"]} & {*in_worker["proc"]}
    assert isolation(client, "spying", "2") == "it ships code of its own"


def test_requirements_that_nobody_has_refuse_the_promote(client: Client) -> None:
    answer = httpx.post(f"{URL}/v1/models/telling:promote", json={"version": "3"}, timeout=330)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_unavailable")
    assert "no-library-of-this-name" in answer.json()["error"]


async def test_a_killed_worker_costs_only_a_retry(client: Client) -> None:
    pid = int(predict("telling/versions/2")[0].split()[2])
    others = int(predict("telling/versions/1")[0].split()[2])
    failed: list[str] = []
    pids: dict[str, set[int]] = {"1": set(), "2": set()}
    answered, ended = asyncio.Condition(), asyncio.Event()

    async def call(http: httpx.AsyncClient, version: str) -> None:
        while not ended.is_set():
            body = {"instances": [{"x": 1.0}]}
            answer = await http.post(f"/v1/models/telling/versions/{version}:predict", json=body)
            if answer.status_code != 200:
                failed.append(answer.text)
            else:
                pids[version].add(int(answer.json()["predictions"][0].split()[2]))
            async with answered:
                answered.notify_all()

    async with asyncio.timeout(300), httpx.AsyncClient(base_url=URL, headers=PATIENCE, timeout=330) as http:
        calls = [asyncio.create_task(call(http, version)) for version in "1122"]
        async with answered:
            await answered.wait_for(lambda: bool(failed) or (bool(pids["1"]) and pid in pids["2"]))
            os.kill(pid, signal.SIGKILL)
            await answered.wait_for(lambda: bool(failed) or len(pids["2"]) > 1)
        await asyncio.sleep(1)  # the calls that follow
        ended.set()
        await asyncio.gather(*calls)
    assert failed == []
    assert pids["1"] == {others}
    assert pid in pids["2"]
    assert len(pids["2"]) == 2
