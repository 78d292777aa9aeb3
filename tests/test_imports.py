import sys
from pathlib import Path

import pytest

from app.imports import without


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "optional_library.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "optional_library", raising=False)
    return "optional_library"


def test_an_import_fails_until_the_end(library: str) -> None:
    with without(library), pytest.raises(ImportError):
        __import__(library)
    assert __import__(library).__name__ == library


def test_an_imported_library_stays(library: str) -> None:
    module = __import__(library)
    with without(library):
        assert __import__(library) is module
    assert sys.modules[library] is module
