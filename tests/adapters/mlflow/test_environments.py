"""Environments: which versions may share a process, and the libraries of those that may not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import mlflow
import pytest

from app.adapters.mlflow.environments import Environment, environment_of, is_python
from app.adapters.mlflow.overlays import Overlays
from app.errors import ModelUnavailable
from app.serving.references import ModelVersion
from tests.clashing import factor_model, ship

pytestmark = pytest.mark.filterwarnings("ignore")


def save(folder: Path, requirements: list[str], code: Path | None = None) -> Path:
    mlflow.pyfunc.save_model(
        folder, python_model=factor_model(), pip_requirements=requirements, code_paths=[str(code)] if code else None
    )
    return folder


@pytest.mark.parametrize(
    ("requirements", "contradictions"),
    [
        ([], ()),
        (["numpy", "pandas>=2"], ()),
        (["numpy==1.0"], ("numpy==1.0 (2.0 is installed)",)),
        (["NumPy<2.0", "pandas"], ("NumPy<2.0 (2.0 is installed)",)),
        (["absent"], ("absent (not installed)",)),
        (["absent>=3"], ("absent>=3 (not installed)",)),
        (['absent; python_version < "3"', "numpy==2.0"], ()),
        (["mlflow==1.0", "mlflow-skinny==1.0"], ()),
        (["numpy @ https://example.com/numpy.whl"], ("numpy (a file or an address)",)),
        (["# a comment", "--no-binary :all:", "numpy  # another"], ()),
        (["numpy==2.0 --hash=sha256:00"], ()),
        (["numpy", "-c bounds.txt"], ("numpy<2.0 (2.0 is installed)",)),
        (["pandas", "--constraint further.txt"], ()),
        (["-r more.txt"], ("absent (not installed)",)),
    ],
)
def test_requirements_are_compared_with_what_is_here(
    tmp_path: Path, requirements: list[str], contradictions: tuple[str, ...]
) -> None:
    save(tmp_path / "model", [])
    (tmp_path / "model" / "requirements.txt").write_text("\n".join(requirements))
    (tmp_path / "model" / "bounds.txt").write_text("numpy<2.0\nabsent==1.0\n")
    (tmp_path / "model" / "further.txt").write_text("absent==1.0\n")
    (tmp_path / "model" / "more.txt").write_text("numpy\nabsent\n")
    environment = environment_of(tmp_path / "model", {"numpy": "2.0", "NumPy": "2.0", "pandas": "2.2"}.get)
    assert environment.contradictions == contradictions
    assert bool(environment.key) == bool(contradictions)
    assert bool(environment.requirements) == bool(contradictions)
    assert environment.with_installed() == Environment()


def test_a_constraint_counts_by_its_text(tmp_path: Path) -> None:
    keys: set[str] = set()
    for bound in ("numpy<1", "numpy<1", "numpy<1.1"):
        folder = tmp_path / str(len(keys)) / bound
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "requirements.txt").write_text("numpy\n-c constraints.txt\n")
        (folder / "constraints.txt").write_text(bound)
        (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n")
        keys.add(environment_of(folder).key)
    assert len(keys) == 2


def test_what_mlflow_writes_down_is_installed_here(tmp_path: Path) -> None:
    save(tmp_path / "model", mlflow.sklearn.get_default_pip_requirements(include_cloudpickle=True))
    assert {"mlflow", "scikit-learn", "cloudpickle"} <= {
        line.partition("==")[0] for line in (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    }
    assert environment_of(tmp_path / "model") == Environment()


def test_versions_share_a_worker_if_their_code_is_equal(tmp_path: Path) -> None:
    two, again, hundred = (
        environment_of(save(tmp_path / f"model{number}", [], ship(tmp_path / f"code{number}", factor)))
        for number, factor in enumerate((2, 2, 100))
    )
    assert two.key == again.key != hundred.key
    assert two.reason == "it ships code of its own"
    alone = two.only_for(ModelVersion("m", "1"), "it changes the locale")
    assert alone.key not in (two.key, two.only_for(ModelVersion("m", "2"), "it changes the locale").key)
    assert alone.reason == "it ships code of its own and it changes the locale"


def test_python_code_is_told_from_the_models_of_libraries(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    mlflow.sklearn.save_model(LinearRegression().fit([[0.0]], [0.0]), tmp_path / "library", pip_requirements=[])
    assert not is_python(tmp_path / "library")
    assert is_python(save(tmp_path / "python", []))


def wheel(folder: Path, name: str, version: str, requires: str = "") -> None:
    """Write a wheel of one module that holds its own version."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        file.writestr(f"{info}/METADATA", metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Index of libraries that no package index has; it is all that uv sees."""
    for version in ("1.0", "2.0"):
        wheel(tmp_path / "wheels", "echoing", version, "helping")
    wheel(tmp_path / "wheels", "helping", "7.0")
    wheel(tmp_path / "wheels", "numpy", "99.0")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    return tmp_path / "wheels"


def overlays(folder: Path, *, may_build: bool = True) -> Overlays:
    return Overlays(folder / "environments", may_build=may_build, index_url=None, timeout_s=60)


def needs(*requirements: str) -> Environment:
    return Environment(requirements, tuple(f"{one} (not installed)" for one in requirements))


def test_an_overlay_holds_only_what_differs(tmp_path: Path, wheels: Path) -> None:
    built = overlays(tmp_path)
    left = built.build(needs("helping")).with_suffix(".killed")
    left.mkdir()
    built.build(needs("helping"))
    assert left.exists()  # nothing is built
    shutil.rmtree(left.with_suffix(""))
    built.build(needs("helping"))
    assert not left.exists()
    assert built.find(needs("echoing==1.0")) is None
    folder = built.build(needs("echoing==1.0"))
    assert (folder / "requirements.txt").read_text().split() == ["echoing==1.0", "helping==7.0"]
    code = "import echoing, helping, numpy; print(echoing.VERSION, helping.VERSION, numpy.ndarray.__name__)"
    said = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["1.0", "7.0", "ndarray"]
    assert overlays(tmp_path).find(needs("echoing==1.0")) == folder
    assert overlays(tmp_path, may_build=False).build(needs("echoing==1.0")) == folder
    assert built.build(needs("echoing==2.0")) != folder


def test_an_overlay_that_cannot_be_built_says_why(tmp_path: Path, wheels: Path) -> None:
    for environment, said in (
        (needs("missing==1.0"), "missing"),
        (needs("echoing==1.0", "echoing==2.0"), "echoing==2.0"),
        (needs("numpy==99.0"), "numpy"),  # MLflow cannot live with it
    ):
        with pytest.raises(ModelUnavailable, match=f"cannot be built: .*{said}") as raised:
            overlays(tmp_path).build(environment)
        assert str(tmp_path) not in raised.value.message
        assert overlays(tmp_path).find(environment) is None
    assert not [path for path in (tmp_path / "environments").iterdir() if path.is_dir() and path.name != "uv"]


def test_where_nothing_may_be_built_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"echoing==1.0 \(not installed\), and the setting environments.build"):
        overlays(tmp_path, may_build=False).build(needs("echoing==1.0"))
