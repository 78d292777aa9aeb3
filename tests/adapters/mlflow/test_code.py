from __future__ import annotations

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import pytest

from app.adapters.mlflow.code import code_in

DATA = "flavors:\n  python_function:\n    loader_module: mlflow.onnx\n"
PYTHON = "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n"


def archive(name: str) -> bytes:
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as file:
        file.writestr(name, b"x")
    return text.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "MLmodel").write_text(DATA)
    (tmp_path / "requirements.txt").write_text("onnxruntime")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x0a\x12")
    return tmp_path


def test_data_runs_nothing(folder: Path) -> None:
    (folder / "more.npz").write_bytes(archive("weights.npy"))
    assert code_in(folder) is None


def test_a_model_of_python_code_is_named(folder: Path) -> None:
    (folder / "MLmodel").write_text(PYTHON)
    assert code_in(folder) == "Python code"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_found_whatever_its_name(folder: Path, protocol: int) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "weights.bin").write_bytes(pickle.dumps([1], protocol))
    assert code_in(folder) == "the file data/weights.bin"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.pkl", b"(lp0\n."),
        ("model.JOBLIB", b""),
        ("code/onnxruntime.py", b""),
        ("weights", gzip.compress(pickle.dumps(1), mtime=0)),
        ("weights.bin", archive("archive/data.pkl")),
    ],
    ids=["pickle", "joblib", "Python", "compressed", "PyTorch"],
)
def test_other_code_is_found(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    assert code_in(folder) == f"the file {name}"
