"""Signed versions of a real registry, and that nothing of a version runs whose signature is missing or wrong."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from app.adapters.mlflow.registry import MlflowRegistry, configure
from app.errors import EnvironmentMissing, ModelUnavailable, StartupError
from app.serving.ports import Model
from app.serving.references import ModelVersion
from app.serving.rows import Batch, Layout
from app.settings import Settings, SignatureSettings, load
from tests.clashing import factor_model, ship
from tests.conftest import environment_of_nobody
from tests.missing import missing
from tests.mlflow_server import EmptyRegistry
from tests.platform import ROOT

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow

    from app.adapters.mlflow import loader as loading
    from app.adapters.mlflow.environments import Environment
    from app.adapters.mlflow.loader import ModelLoader
    from app.adapters.mlflow.overlays import Overlays
    from tests.signing import SIGNATURE, Certified, Key, make_certified, make_key, sign

pytestmark = pytest.mark.filterwarnings("ignore")

BATCH = Batch(Layout("columns", ("x",), ("float64",), ((),)), (np.array([1.5, 4.0]),), 2)
FRAME = pd.DataFrame({"x": [1.0, 2.0]})


class Author(NamedTuple):
    """A registry, and the keys of those who sign models for it."""

    settings: Settings
    key: Key
    certified: Certified
    folder: Path


class NoWorkers:
    """Workers that load nothing."""

    def __init__(self) -> None:
        self.loads: list[ModelVersion] = []

    def load(
        self,
        version: ModelVersion,
        folder: Path,
        environment: Environment,
        overlay: Path | None,
        ended: Callable[[], None],
    ) -> Model:
        self.loads.append(version)
        raise ModelUnavailable("a worker was asked")


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory, empty_registry: EmptyRegistry) -> Iterator[Author]:
    folder = tmp_path_factory.mktemp("author")
    settings = Settings(home=empty_registry(folder / "home"))
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    with environment_of_nobody():
        configure(settings)
        mlflow.create_experiment("signing", artifact_location=settings.artifact_root.as_uri())
        mlflow.set_experiment("signing")
        yield Author(settings, make_key(folder), make_certified(folder, "certified"), folder)
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


def loader(author: Author, cache: Path, **given: Any) -> ModelLoader:
    trusted = SignatureSettings(
        require=True, public_keys=(author.key.public,), certificates=(author.certified.authority,)
    )
    return ModelLoader(MlflowRegistry(author.settings), cache, **{"signatures": trusted, **given})


def log_line() -> Any:
    line = LinearRegression().fit(FRAME, [1.0, 3.0])
    return mlflow.sklearn.log_model(line, name="m", serialization_format="pickle", pip_requirements=[])


def register(info: Any, name: str) -> ModelVersion:
    return ModelVersion(name, str(mlflow.register_model(info.model_uri, name).version))


def stored(info: Any) -> Path:
    """The folder of a logged model in the artifact store."""
    return Path(mlflow.get_logged_model(info.model_id).artifact_location.removeprefix("file://"))


def signed(author: Author, name: str, info: Any, key: Key | Certified | None = None) -> ModelVersion:
    """Sign a logged model in the store and register it."""
    sign(stored(info), key or author.key)
    return register(info, name)


def answers(model: Model) -> list[float]:
    return [round(value, 6) for value in model.predict(BATCH).arrays[0].tolist()]


def refusal(models: ModelLoader, version: ModelVersion) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        models.load(version)
    assert caught.value.details == {"model": version.name}
    return caught.value.message


# How an author signs


def test_a_logged_model_is_signed_on_the_command_line(author: Author, tmp_path: Path) -> None:
    info = log_line()
    folder = mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(tmp_path / "model"))
    signature = tmp_path / SIGNATURE
    command = [sys.executable, "-m", "model_signing", "sign", "key", folder]
    options = ["--private_key", str(author.key.private), "--signature", str(signature)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    mlflow.MlflowClient().log_model_artifact(info.model_id, str(signature))
    version = register(info, "by-command")
    models = loader(author, tmp_path / "cache")
    assert [answers(models.load(version)) for _ in range(2)] == [[2.0, 7.0]] * 2
    assert models.cache_counts.hits == 1


def test_a_saved_model_is_signed_before_its_upload(author: Author, tmp_path: Path) -> None:
    line = LinearRegression().fit(FRAME, [1.0, 3.0])
    mlflow.sklearn.save_model(line, tmp_path / "model", serialization_format="pickle", pip_requirements=[])
    sign(tmp_path / "model", author.certified)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(tmp_path / "model"), "model")
    of_run = mlflow.register_model(f"runs:/{run.info.run_id}/model", "saved").version
    logged = mlflow.initialize_logged_model(name="saved")
    mlflow.MlflowClient().log_model_artifacts(logged.model_id, str(tmp_path / "model"))
    mlflow.finalize_logged_model(logged.model_id, "READY")
    of_model = mlflow.register_model(f"models:/{logged.model_id}", "saved").version
    models = loader(author, tmp_path / "cache")
    versions = [ModelVersion("saved", str(version)) for version in (of_run, of_model)]
    assert [answers(models.load(version)) for version in versions] == [[2.0, 7.0]] * 2


def test_the_page_shows_how_to_sign(author: Author, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "operate" / "security.md").read_text()
    section = page.partition("## Require signed models")[2].partition("\n### ")[0]
    (shell,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    if shutil.which("openssl") is None:
        missing("openssl is not installed")
    commands = [line for line in shell.splitlines() if not line.startswith("pip ")]
    script = "\n".join([*commands, "env -0"])
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    for variable in done.stdout.split("\0"):
        name, _, value = variable.partition("=")
        if name.startswith("ML_SERVE_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow.models, "infer_pip_requirements", lambda *_, **__: [])  # takes ten seconds
    models = loader(author, tmp_path / "cache", signatures=load().signatures)
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    known = {"model": LinearRegression().fit(FRAME, [1.0, 3.0])}
    for number, example in enumerate(examples, 1):
        exec(example, known)
        assert answers(models.load(ModelVersion("prices", str(number)))) == [2.0, 7.0]
    assert len(examples) == 2


def test_other_users_of_the_store_break_no_signature(author: Author, tmp_path: Path) -> None:
    info = log_line()
    version = signed(author, "loaded", info)
    mlflow.pyfunc.load_model(f"models:/{version.name}/{version.version}")
    assert (stored(info) / "registered_model_meta").exists(), "MLflow writes into a local store"
    loader(author, tmp_path).load(version)


# What is refused


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._path), "w")


@pytest.fixture
def evil(author: Author, tmp_path: Path) -> tuple[Any, Path]:
    """A logged model whose pickle creates a file."""
    info, marker = log_line(), tmp_path / "ran"
    (stored(info) / "model.pkl").write_bytes(pickle.dumps(Touch(marker)))
    return info, marker


def test_an_unsigned_pickle_does_not_run(author: Author, tmp_path: Path, evil: tuple[Any, Path]) -> None:
    info, marker = evil
    version = register(info, "unsigned")
    assert refusal(loader(author, tmp_path / "cache"), version) == (
        f"unsigned/versions/{version.version} cannot be loaded: it is not signed: its artifacts have no 'model.sig'; "
        "sign them with 'model_signing sign'"
    )
    assert not marker.exists()
    loader(author, tmp_path / "cache", signatures=SignatureSettings()).load(version)
    assert marker.exists(), "without the setting it runs"


def test_a_pickle_of_an_unknown_author_does_not_run(author: Author, tmp_path: Path, evil: tuple[Any, Path]) -> None:
    info, marker = evil
    version = signed(author, "foreign", info, make_key(tmp_path, "foreign"))
    assert "was not made with a key of signatures.public_keys" in refusal(loader(author, tmp_path / "cache"), version)
    foreign = make_certified(tmp_path, "foreign")
    again = signed(author, "foreign", info, foreign)
    assert "or a certificate of signatures.certificates" in refusal(loader(author, tmp_path / "cache"), again)
    assert not marker.exists()


def test_a_pickle_exchanged_after_the_signature_does_not_run(author: Author, tmp_path: Path) -> None:
    info, marker = log_line(), tmp_path / "ran"
    version = signed(author, "exchanged", info)
    (stored(info) / "model.pkl").write_bytes(pickle.dumps(Touch(marker)))
    found = refusal(loader(author, tmp_path / "cache"), version)
    assert found.endswith("its signature 'model.sig' does not fit its files: 'model.pkl' was changed")
    assert not marker.exists()


def test_a_missing_file_is_refused(author: Author, tmp_path: Path) -> None:
    info = log_line()
    version = signed(author, "incomplete", info)
    (stored(info) / "requirements.txt").unlink()
    assert refusal(loader(author, tmp_path), version).endswith("'requirements.txt' is missing")


@pytest.mark.parametrize("in_worker", [False, True], ids=["replica", "worker"])
def test_added_code_is_not_imported(author: Author, tmp_path: Path, in_worker: bool) -> None:
    package, marker = ship(tmp_path / "code", 2), tmp_path / "ran"
    info = mlflow.pyfunc.log_model(
        name="m", python_model=factor_model(), code_paths=[str(package)], pip_requirements=[]
    )
    version = signed(author, "with-code", info)
    (stored(info) / "code" / "sitecustomize.py").write_text(f"open({str(marker)!r}, 'w')")
    (stored(info) / "code" / package.name / "numbers.py").write_text("")
    workers, path = NoWorkers(), list(sys.path)
    models = loader(author, tmp_path / "cache", workers=workers if in_worker else None)
    assert refusal(models, version).endswith(
        f"does not fit its files: 'code/{package.name}/numbers.py' is not signed, 'code/sitecustomize.py' is not signed"
    )
    assert (workers.loads, sys.path, marker.exists()) == ([], path, False)
    assert package.name not in sys.modules


def test_code_of_a_signed_version_goes_to_a_worker(author: Author, tmp_path: Path) -> None:
    info = mlflow.pyfunc.log_model(
        name="m", python_model=factor_model(), code_paths=[str(ship(tmp_path, 2))], pip_requirements=[]
    )
    version, workers = signed(author, "good-code", info), NoWorkers()
    assert refusal_of_worker(loader(author, tmp_path / "cache", workers=workers), version) == "a worker was asked"
    assert workers.loads == [version]


def refusal_of_worker(models: ModelLoader, version: ModelVersion) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        models.load(version)
    return caught.value.message


# Environments


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Environment]:
    """The environments that were to be built."""
    asked: list[Environment] = []
    monkeypatch.setattr(Overlays, "build", lambda self, environment: asked.append(environment))
    return asked


def log_pinned() -> Any:
    return mlflow.pyfunc.log_model(name="m", python_model=factor_model(), pip_requirements=["absent-library==1.0"])


def test_no_environment_is_built_for_an_unsigned_version(
    author: Author, tmp_path: Path, builds: list[Environment]
) -> None:
    info = log_pinned()
    unsigned, workers = register(info, "pinned"), NoWorkers()
    models = loader(author, tmp_path, workers=workers)
    assert "it is not signed" in refusal(models, unsigned)
    models.build(unsigned)
    assert builds == []
    version = signed(author, "pinned", info)
    with pytest.raises(EnvironmentMissing):
        models.load(version)
    models.build(version)
    assert [environment.requirements for environment in builds] == [("absent-library==1.0",)]


def test_files_changed_before_the_build_stop_it(
    author: Author, tmp_path: Path, builds: list[Environment], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = signed(author, "wheels", log_pinned())
    models = loader(author, tmp_path, workers=NoWorkers())
    with pytest.raises(EnvironmentMissing):
        models.load(version)
    monkeypatch.setattr(models._cache, "_is_intact", lambda *_: True)  # digests were changed too
    (tmp_path / "wheels" / version.version / "artifacts" / "other.whl").touch()
    with pytest.raises(ModelUnavailable, match=r"'other\.whl' is not signed"):
        models.build(version)
    assert builds == []


# The cached copy


def test_a_changed_copy_is_refused_even_with_its_digests(
    author: Author, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first load has proven that the version is only read again."""
    version, marker = signed(author, "cached", log_line()), tmp_path / "ran"
    models = loader(author, tmp_path / "cache")
    models.load(version)
    assert models._known
    copy = tmp_path / "cache" / "cached" / version.version / "artifacts" / "model.pkl"
    copy.write_bytes(pickle.dumps(Touch(marker)))
    monkeypatch.setattr(models._cache, "_is_intact", lambda *_: True)
    assert refusal(models, version).endswith("'model.pkl' was changed")
    assert not marker.exists()


def test_a_changed_copy_is_downloaded_again(author: Author, tmp_path: Path) -> None:
    version = signed(author, "healed", log_line())
    models = loader(author, tmp_path)
    models.load(version)
    (tmp_path / "healed" / version.version / "artifacts" / "model.pkl").write_bytes(b"")
    assert answers(models.load(version)) == [2.0, 7.0]
    assert models.cache_counts.damaged == 1


def test_a_signature_uploaded_later_is_found(author: Author, tmp_path: Path) -> None:
    info = log_line()
    version = register(info, "late")
    models = loader(author, tmp_path)
    refusal(models, version)
    sign(stored(info), author.key)
    refusal(models, version)
    assert models.cache_counts.downloads == 1, "a retry does not download the same files again"
    manifest = tmp_path / "late" / version.version / "manifest.json"
    before = time.time() - loading._REFUSED_COPY_S - 1
    os.utime(manifest, (before, before))
    refusal(models, version)  # of the copy, which is removed
    assert answers(models.load(version)) == [2.0, 7.0]


def test_without_the_registry_a_signed_copy_is_loaded(author: Author, tmp_path: Path) -> None:
    good, bad = signed(author, "offline", log_line()), register(log_line(), "offline")
    loader(author, tmp_path).load(good)
    loader(author, tmp_path, signatures=SignatureSettings()).load(bad)
    away = author._replace(settings=Settings(home=author.settings.home, mlflow_tracking_uri="http://127.0.0.1:9"))
    models = loader(away, tmp_path)
    assert answers(models.load(good)) == [2.0, 7.0]
    assert "it is not signed" in refusal(models, bad)


def test_a_key_file_that_is_gone_stops_a_load(author: Author, tmp_path: Path) -> None:
    key = make_key(tmp_path, "gone")
    version = signed(author, "gone", log_line(), key)
    trusted = SignatureSettings(require=True, public_keys=(key.public,))
    models = loader(author, tmp_path / "cache", signatures=trusted)
    key.public.unlink()
    assert refusal(models, version).endswith("its signature cannot be checked; the log has the cause")
    with pytest.raises(StartupError, match=r"cannot read .*gone\.pub of signatures\.public_keys"):
        loader(author, tmp_path / "cache", signatures=trusted)
