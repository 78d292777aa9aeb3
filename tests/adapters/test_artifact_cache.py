import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.adapters.artifact_cache import ArtifactCache
from app.serving.model_ref import ModelVersion

V = ModelVersion("prices of oil", "3")


class Store:
    """Writes two files, counts downloads, and fails when told."""

    def __init__(self) -> None:
        self.downloads = 0
        self.broken = False
        self._lock = threading.Lock()

    def download(self, version: ModelVersion, folder: Path) -> None:
        with self._lock:
            self.downloads += 1
        (folder / "MLmodel").write_text(f"{version} {self.downloads}")
        if self.broken:
            raise OSError("the connection was cut")
        (folder / "data").mkdir()
        (folder / "data" / "model.bin").write_bytes(b"\x00" * 1000)


def test_artifacts_are_downloaded_once(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    folder = cache.get(V, "a")
    assert (folder / "data" / "model.bin").stat().st_size == 1000
    assert cache.get(V, "a") == folder
    assert ArtifactCache(tmp_path, store.download).get(V, "a") == folder
    assert store.downloads == 1


def test_many_at_once_share_one_download(tmp_path: Path) -> None:
    store = Store()
    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(lambda _: ArtifactCache(tmp_path, store.download).get(V, "a"), range(8)))
    assert len(folders) == 1
    assert store.downloads == 1


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "manifest"])
def test_a_damaged_copy_is_downloaded_again(tmp_path: Path, damage: str) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    folder = cache.get(V, "a")
    model = folder / "data" / "model.bin"
    if damage == "changed":
        model.write_bytes(b"\x01" * 1000)
    elif damage == "missing":
        model.unlink()
    elif damage == "added":
        (folder / "evil.py").write_text("")
    else:
        (folder.parent / "manifest.json").write_text("{")
    assert cache.get(V, "a") == folder
    assert store.downloads == 2
    assert model.read_bytes() == b"\x00" * 1000
    assert not (folder / "evil.py").exists()


def test_a_model_registered_anew_under_the_same_number_is_not_served_from_the_old_copy(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    assert (cache.get(V, "a") / "MLmodel").read_text().endswith(" 1")
    assert (cache.get(V, "b") / "MLmodel").read_text().endswith(" 2")


def test_without_a_registry_an_intact_copy_is_used(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    cache.get(V, "a")
    store.broken = True
    assert (cache.get(V, None) / "MLmodel").exists()
    assert store.downloads == 1


def test_an_interrupted_download_leaves_nothing_that_counts_as_a_copy(tmp_path: Path) -> None:
    store = Store()
    store.broken = True
    cache = ArtifactCache(tmp_path, store.download)
    with pytest.raises(OSError, match="cut"):
        cache.get(V, "a")
    store.broken = False
    folder = cache.get(V, "a")
    assert (folder / "data" / "model.bin").exists()
    assert json.loads((folder.parent / "manifest.json").read_text())["identity"] == "a"


def test_a_name_never_leaves_the_cache_folder(tmp_path: Path) -> None:
    folder = ArtifactCache(tmp_path / "cache", Store().download).get(ModelVersion("..", "1"), "a")
    assert (tmp_path / "cache") in folder.resolve().parents
