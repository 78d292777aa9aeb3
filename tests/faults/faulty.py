"""A platform for rehearsing faults: two replicas of gateway and pool, and an MLflow server as registry."""

from __future__ import annotations

import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import httpx
import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from tests import numbered
from tests.clashing import PATIENCE, factor_model, ship
from tests.conftest import environment_of_nobody
from tests.faults.registry_server import RegistryServer
from tests.hostile_models import LOGGING, deadly_model, hostile_model
from tests.platform import URL, Platform

NAME = "steady"
DIVIDED = "divided"
CLASHING = "clashing"
HOSTILE = "hostile"
SLOW = "slow"
DEADLY = "deadly"
FACTORS = {"champion": 2.0, "challenger": 100.0}
"""What the package of the version of each alias answers; both packages have the same name."""
LOAD_S = 2.0
"""Least seconds that a version takes to load; a kill within them hits the promote."""
PER_S = 50.0
PREDICT_S = 0.06
"""At so many requests a second some are on each replica at any time."""
SLOW_PER_S = 60.0
"""Calls a second that the slow model can answer: two replicas with two threads each."""
WITHIN_S = 180
DISK_BYTES = 64 * 1024**2
REPLICAS = {"Gateway": 2, "ModelPool": 2, "Releases": 1}
SETTINGS = {
    "ML_SERVE_GATEWAY__MIN_REPLICAS": "2",
    "ML_SERVE_POOLS__DEFAULT__MIN_REPLICAS": "2",
    "ML_SERVE_FAILED_LOAD_RETRY_S": "1",
    "ML_SERVE_POOLS__DEFAULT__PROCESS_BYTES": str(2 * 1024**3),
}


def until(condition: Callable[[], bool]) -> float:
    """Wait for a condition; return how long that took, in seconds."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + WITHIN_S
        time.sleep(0.2)
    return time.monotonic() - began


class Faulty:
    """The platform under test and its registry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server = RegistryServer(folder)
        settings = {"MLFLOW_TRACKING_URI": self.server.uri, **SETTINGS}
        self.platform = Platform(folder / "home", folder / "platform.log", settings)
        self.loads = folder / "loads"
        self.mlflow = MlflowClient(self.server.uri, self.server.uri)

    def start(self) -> None:
        """Start the registry, register the models and start the platform, on a small disk of its own if possible."""
        self.platform.home.mkdir()
        self.has_own_disk = _mount(self.platform.home)
        self.server.start()
        before = mlflow.get_tracking_uri()
        with environment_of_nobody(), warnings.catch_warnings(record=True), pytest.MonkeyPatch.context() as monkeypatch:
            warnings.simplefilter("always")
            mlflow.set_tracking_uri(self.server.uri)
            numbers = [
                numbered.log(number, load_s=LOAD_S, held_in=self.loads, predict_s=PREDICT_S) for number in range(1, 8)
            ]
            slow = numbered.log(1, predict_s=4 / SLOW_PER_S, row_wise=False)
            factors = [
                _log(factor_model(), code_paths=[str(ship(self._folder / f"factor {factor}", int(factor)))])
                for factor in FACTORS.values()
            ]
            monkeypatch.setenv(LOGGING, "1")  # the model is loaded once while it is logged
            inputs = ModelSignature(Schema([ColSpec("double", "x")]))
            hostile, deadly = (_log(model, signature=inputs) for model in (hostile_model(), deadly_model()))
            mlflow.set_tracking_uri(before)
        *good, broken = numbers
        self.server.damage(broken)
        self._register(NAME, *good)
        self._register(DIVIDED, *good[:2], broken)
        self._register(SLOW, slow)
        self._register(CLASHING, *factors)
        self._register(HOSTILE, hostile)
        self._register(DEADLY, deadly)
        both = [(name, alias, version) for name in (DIVIDED, CLASHING) for version, alias in enumerate(FACTORS, 1)]
        for name, alias, version in [(NAME, "champion", 1), (SLOW, "champion", 1), *both]:
            self.mlflow.set_registered_model_alias(name, alias, str(version))
        self.platform.start()

    def stop(self) -> None:
        if self.platform.running:
            self.platform.stop()
        self.server.kill()
        if self.has_own_disk:
            subprocess.run(["umount", str(self.platform.home)], check=False)

    def wait_until_whole(self) -> None:
        """Return once every replica runs, and both of the pool have what is called."""
        until(lambda: all(len(self.platform.replicas(name)) == count for name, count in REPLICAS.items()))
        until(self._is_warm)

    def _is_warm(self) -> bool:
        try:
            response = httpx.get(f"{URL}/v1/models/{NAME}", timeout=WITHIN_S)
        except httpx.TransportError:  # HAProxy has just been killed
            return False
        if response.status_code != 200:  # `Releases` have just been started again, or no gateway is there
            return False
        model = response.json()["model"]
        return bool(model["versions"][model["default"]]["replicas"] == REPLICAS["ModelPool"])

    def _register(self, name: str, *model_ids: str) -> None:
        self.mlflow.create_registered_model(name)
        for model_id in model_ids:
            self.mlflow.create_model_version(name, f"models:/{model_id}", model_id=model_id)


def factors() -> dict[str, float]:
    """Return what the versions with packages of their own answer to 1, by alias."""
    found = {}
    for alias in FACTORS:
        url = f"{URL}/v1/models/{CLASHING}@{alias}:predict"
        response = httpx.post(url, json={"instances": [{"x": 1.0}]}, headers=PATIENCE, timeout=330)
        assert response.status_code == 200, response.text
        found[alias] = response.json()["predictions"][0]
    return found


def ask_hostile(x: float) -> httpx.Response:
    """Call the hostile model; the request may wait for as long as it takes."""
    body = {"instances": [{"x": x}]}
    return httpx.post(f"{URL}/v1/models/{HOSTILE}:predict", json=body, headers=PATIENCE, timeout=330)


def _mount(folder: Path) -> bool:
    """Mount a small file system; return whether that was possible, as it is for root."""
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    return mount is not None and subprocess.run([mount, *options], check=False, capture_output=True).returncode == 0


def _log(model: object, **options: object) -> str:
    return str(mlflow.pyfunc.log_model(name="model", python_model=model, pip_requirements=[], **options).model_id)
