"""What Ray's processes import first: in processes of their own, since an import cannot be undone."""

import subprocess
import sys

import pytest

from app.deployments.environment import WITHOUT_SERVE


def imported(monkeypatch: pytest.MonkeyPatch, **environment: str) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code = "import sys, app.deployments.preload; print(*sorted({'pandas', 'ray.serve'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_serve_is_imported_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert imported(monkeypatch) == ["ray.serve"]


def test_nothing_is_imported_with_the_libraries_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert imported(monkeypatch, **{WITHOUT_SERVE: "1"}) == []
