"""The cache alone, shared by threads, and by real processes, some of which are killed."""

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pytest

from app.adapters.artifacts.cache import ArtifactCache, CacheCounts, is_full
from app.adapters.artifacts.locks import lock
from app.serving.references import ModelVersion

V = ModelVersion("prices of oil", "3")


class Store:
    """Writes two files, counts downloads, and fails on demand."""

    def __init__(self, nbytes: int = 1000) -> None:
        self.downloads = 0
        self.broken = False
        self._nbytes = nbytes
        self._lock = threading.Lock()

    def download(self, version: ModelVersion, folder: Path) -> None:
        with self._lock:
            self.downloads += 1
        (folder / "MLmodel").write_text(f"{version} {self.downloads}")
        if self.broken:
            raise OSError("the connection was cut")
        (folder / "data").mkdir()
        (folder / "data" / "model.bin").write_bytes(b"\x00" * self._nbytes)


def folder_of(cache: ArtifactCache, version: ModelVersion = V, identity: str = "a") -> Path:
    """Get the artifacts of a version and release them at once."""
    cached = cache.get(version, identity)
    cached.release()
    return cached.folder


def number(n: int) -> ModelVersion:
    return ModelVersion("m", str(n))


def present(folder: Path) -> set[str]:
    """The versions of `m` that are in the cache."""
    return {path.name for path in (folder / "m").iterdir() if path.is_dir()}


def test_artifacts_are_downloaded_once(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    folder = folder_of(cache)
    assert (folder / "data" / "model.bin").stat().st_size == 1000
    assert folder_of(cache) == folder
    other = ArtifactCache(tmp_path, store.download)
    assert folder_of(other) == folder
    assert store.downloads == 1
    assert other.counts == CacheCounts(hits=1)
    counted = cache.counts
    assert (counted.hits, counted.downloads, counted.downloaded_bytes) == (1, 1, 1000 + len(f"{V} 1"))
    assert counted.download_seconds > 0


def test_concurrent_threads_share_one_download(tmp_path: Path) -> None:
    store = Store()
    with ThreadPoolExecutor(8) as threads:
        folders = set(threads.map(lambda _: folder_of(ArtifactCache(tmp_path, store.download)), range(8)))
    assert len(folders) == 1
    assert store.downloads == 1


@pytest.mark.parametrize(
    "damage", ["flipped", "shortened", "emptied", "missing", "added", "unreadable", "no manifest", "manifest"]
)
def test_a_damaged_copy_is_downloaded_again(tmp_path: Path, damage: str) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    folder = folder_of(cache)
    model, manifest = folder / "data" / "model.bin", folder.parent / "manifest.json"
    broken = tmp_path / "broken"
    broken.symlink_to("/proc/self/mem")  # reads fail as on a broken disk
    do: dict[str, Callable[[], object]] = {
        "flipped": lambda: model.write_bytes(b"\x01" + b"\x00" * 999),
        "shortened": lambda: os.truncate(model, 999),
        "emptied": lambda: shutil.rmtree(folder),
        "missing": model.unlink,
        "added": lambda: (folder / "evil.py").write_text(""),
        "unreadable": lambda: broken.replace(model),
        "no manifest": manifest.unlink,
        "manifest": lambda: manifest.write_text('["no", "manifest"]'),
    }
    do[damage]()
    assert cache.find(V, "a") is None
    assert folder_of(cache) == folder
    assert store.downloads == 2
    assert cache.counts.damaged == 2
    assert model.read_bytes() == b"\x00" * 1000
    assert not (folder / "evil.py").exists()


def test_a_copy_of_another_identity_is_not_used(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    assert (folder_of(cache, identity="a") / "MLmodel").read_text().endswith(" 1")
    assert cache.find(V, "b") is None
    assert (folder_of(cache, identity="b") / "MLmodel").read_text().endswith(" 2")
    assert cache.counts.damaged == 0


def test_a_failed_download_leaves_no_copy_of_another_identity(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    folder_of(cache, identity="a")
    store.broken = True
    with pytest.raises(OSError, match="cut"):
        cache.get(V, "b")
    assert cache.find(V, None) is None


def test_find_returns_an_intact_copy_and_downloads_nothing(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    assert cache.find(V, None) is None
    folder_of(cache)
    found = cache.find(V, None)
    assert found is not None
    assert (found.folder / "MLmodel").exists()
    found.release()
    assert store.downloads == 1


def test_an_interrupted_download_leaves_nothing(tmp_path: Path) -> None:
    store = Store()
    store.broken = True
    cache = ArtifactCache(tmp_path, store.download)
    with pytest.raises(OSError, match="cut"):
        cache.get(V, "a")
    assert [path.name for path in tmp_path.glob("*/*")] == ["3.lock"]
    store.broken = False
    folder = folder_of(cache)
    assert (folder / "data" / "model.bin").exists()
    assert json.loads((folder.parent / "manifest.json").read_text())["identity"] == "a"


@pytest.mark.parametrize("version", [ModelVersion("..", "1"), ModelVersion("m", "..")])
def test_a_name_never_leaves_the_cache_folder(tmp_path: Path, version: ModelVersion) -> None:
    folder = folder_of(ArtifactCache(tmp_path / "cache", Store().download), version)
    assert len(folder.resolve().relative_to(tmp_path / "cache").parts) == 3


@pytest.mark.parametrize("name", ["a.b", "two words", "größe", "a(b)", "a+b", "100%", "%20", "a=2Eb"])
def test_a_path_of_the_cache_means_the_same_when_decoded(tmp_path: Path, name: str) -> None:
    """MLflow decodes paths that look like URIs."""
    folder = folder_of(ArtifactCache(tmp_path, Store().download), ModelVersion(name, "1"))
    assert unquote(str(folder)) == str(folder)


@pytest.mark.parametrize("name", ["価" * 29, "a" * 256, "/" * 256])
def test_long_names_with_equal_beginnings_get_their_own_folders(tmp_path: Path, name: str) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    one, other = (ModelVersion(name + end, "1") for end in ("", "b"))
    folders = {folder_of(cache, version) for version in (one, other, one)}
    assert len(folders) == store.downloads == 2
    assert {(folder / "MLmodel").read_text() for folder in folders} == {f"{one} 1", f"{other} 2"}


def test_the_least_recently_used_versions_are_evicted(tmp_path: Path) -> None:
    store = Store(100_000)
    cache = ArtifactCache(tmp_path, store.download, max_bytes=350_000)
    for n in (1, 2, 3):
        folder_of(cache, number(n))
        os.utime(tmp_path / "m" / str(n) / "used", (n, n))
    folder_of(cache, number(1))
    assert present(tmp_path) == {"1", "2", "3"}
    folder_of(cache, number(4))
    assert present(tmp_path) == {"1", "3", "4"}
    assert cache.counts.evictions == 1
    folder_of(cache, number(2))
    assert store.downloads == 5


def test_a_version_in_use_is_not_evicted(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, Store(100_000).download, max_bytes=150_000)
    held = cache.get(number(1), "a")
    other = ArtifactCache(tmp_path, Store(100_000).download, max_bytes=150_000)
    folder_of(other, number(2))  # itself in use during the eviction
    assert present(tmp_path) == {"1", "2"}
    folder_of(other, number(3))
    assert present(tmp_path) == {"1", "3"}
    held.release()
    folder_of(other, number(4))
    assert present(tmp_path) == {"4"}


def test_a_failed_eviction_does_not_fail_the_download(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(100_000)
    cache = ArtifactCache(tmp_path, store.download, max_bytes=150_000, wait_s=0.2)
    folder_of(cache, number(1))
    with lock(tmp_path / "eviction.lock"):  # its holder hangs
        assert folder_of(cache, number(2)).exists()
        assert present(tmp_path) == {"1", "2"}
    (tmp_path / "eviction.lock").unlink()
    (tmp_path / "eviction.lock").mkdir()  # as unusable as a file of another user
    assert folder_of(cache, number(3)).exists()
    assert present(tmp_path) == {"1", "2", "3"}
    (tmp_path / "eviction.lock").rmdir()
    assert [record.levelname for record in caplog.records if record.levelno > logging.INFO] == ["WARNING", "ERROR"]
    folder_of(cache, number(4))
    assert present(tmp_path) == {"4"}


def test_evicted_versions_do_not_accumulate_in_memory(tmp_path: Path) -> None:
    store = Store(100_000)
    one, other = (ArtifactCache(tmp_path, store.download, max_bytes=150_000) for _ in range(2))
    for n in range(1, 7):
        folder_of(one if n % 2 else other, number(n))
    folder_of(one, number(7))
    assert [len(cache._verified) for cache in (one, other)] == [1, 1]


def test_without_a_limit_nothing_is_evicted(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, Store(100_000).download)
    for n in range(10):
        folder_of(cache, number(n))
    assert len(present(tmp_path)) == 10


def test_foreign_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    mine = [tmp_path / "releases.json", tmp_path / "hub" / "x.partial" / "y", tmp_path / "hub" / "5" / "weights"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 1000)
    cache = ArtifactCache(tmp_path, Store().download, max_bytes=1)
    for n in (1, 2):
        folder_of(cache, number(n))
    assert present(tmp_path) == {"2"}
    assert all(path.exists() for path in mine)


# Other processes.

PROCESS = """
import signal, sys, time
from pathlib import Path
from app.adapters.artifacts.cache import ArtifactCache
from app.serving.references import ModelVersion

cache_folder, log, size, pause, max_bytes, then = sys.argv[1:7]

def download(version, folder):
    with open(log, "a") as lines:
        lines.write(f"{version.version}\\n")
    (folder / "MLmodel").write_text(str(version))
    print("downloading", flush=True)
    time.sleep(float(pause))
    (folder / "model.bin").write_bytes(bytes([int(version.version)]) * int(size))

cache = ArtifactCache(Path(cache_folder), download, int(max_bytes))
for number in sys.argv[7:]:
    cached = cache.get(ModelVersion("m", number), "a")
    data = (cached.folder / "model.bin").read_bytes()
    assert data == bytes([int(number)]) * int(size), number
    if then == "go":
        cached.release()
print("done", flush=True)
if then == "stay":
    signal.pause()
"""


class Processes:
    """Runs `PROCESS` with real caches on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        self.log = folder / "downloads"
        self.log.touch()
        self._started: list[subprocess.Popen[str]] = []

    def start(
        self, *numbers: int, size: int = 100_000, pause: float = 0, max_bytes: int = 0, then: str = "go"
    ) -> subprocess.Popen[str]:
        given = [self.folder, self.log, size, pause, max_bytes, then, *numbers]
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, *map(str, given)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._started.append(process)
        return process

    @property
    def downloads(self) -> list[str]:
        return self.log.read_text().split()

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.end()


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    got = process.stdout.readline().strip()
    assert got == line, process.communicate()[1]


def ended_well(process: subprocess.Popen[str]) -> bool:
    assert process.wait(60) == 0, process.communicate()[1]
    return True


def test_the_wait_for_a_hanging_process_has_a_limit(processes: Processes) -> None:
    hanging = processes.start(1, pause=60)
    wait_for(hanging, "downloading")
    cache = ArtifactCache(processes.folder, Store().download, wait_s=0.3)
    with pytest.raises(TimeoutError, match="another process still downloads or checks m/versions/1"):
        cache.get(number(1), "a")
    folder_of(cache, number(2))


def test_concurrent_processes_share_one_download(processes: Processes) -> None:
    both = [processes.start(1, 2, pause=0.3) for _ in range(3)]
    assert all(ended_well(process) for process in both)
    assert sorted(processes.downloads) == ["1", "2"]


def test_a_process_killed_during_a_download_leaves_no_version(processes: Processes) -> None:
    dying = processes.start(1, pause=60)
    wait_for(dying, "downloading")
    waiting = processes.start(1)
    dying.send_signal(signal.SIGKILL)
    assert ended_well(waiting)
    assert processes.downloads == ["1", "1"]
    assert present(processes.folder) == {"1"}


def test_the_next_download_removes_leftovers_of_a_killed_process(processes: Processes) -> None:
    dying = processes.start(1, pause=60)
    wait_for(dying, "downloading")
    living = processes.start(2, pause=60)
    wait_for(living, "downloading")
    dying.send_signal(signal.SIGKILL)
    dying.wait()
    assert present(processes.folder) == {"1.partial", "2.partial"}
    assert ended_well(processes.start(3))
    assert present(processes.folder) == {"2.partial", "3"}
    assert not (processes.folder / "m" / "1.lock").exists()


def test_a_version_is_not_evicted_until_its_process_ends(processes: Processes) -> None:
    holding = processes.start(1, then="stay")
    wait_for(holding, "downloading")
    wait_for(holding, "done")
    assert ended_well(processes.start(2, 3, 4, max_bytes=250_000))
    assert present(processes.folder) == {"1", "4"}
    holding.send_signal(signal.SIGKILL)
    holding.wait()
    assert ended_well(processes.start(5, max_bytes=150_000))
    assert present(processes.folder) == {"5"}


def test_concurrent_downloads_and_evictions_read_whole_files(processes: Processes) -> None:
    orders = [[n % 7 + 1 for n in range(start, start + 40)] for start in (0, 3, 5)]
    all_of_them = [processes.start(*order, max_bytes=320_000) for order in orders]
    assert all(ended_well(process) for process in all_of_them)
    assert len(processes.downloads) > 7
    assert ended_well(processes.start(9, max_bytes=320_000))
    assert len(present(processes.folder)) <= 3


# A full disk.


def test_a_version_larger_than_the_disk_leaves_nothing(small_disk: Path) -> None:
    cache = ArtifactCache(small_disk, Store(3_000_000).download)
    with pytest.raises(OSError, match="no room for m/versions/1") as caught:
        cache.get(number(1), "a")
    assert caught.value.errno == errno.ENOSPC
    assert not present(small_disk)
    assert shutil.disk_usage(small_disk).used < 100_000


def test_a_full_disk_evicts_unused_versions_within_the_limit(small_disk: Path) -> None:
    cache = ArtifactCache(small_disk, Store(300_000).download)
    held = cache.get(number(1), "a")
    for n in (2, 3, 4):
        folder_of(cache, number(n))
    assert present(small_disk) == {"1", "3", "4"}
    assert cache.counts.evictions == 1
    held.release()


def test_is_full_recognizes_wrapped_errors(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.bin")
    wrapped = RuntimeError("the artifacts cannot be downloaded")
    wrapped.__cause__ = full
    assert is_full(wrapped)
    assert is_full(shutil.Error([("a", "b", str(full))]))
    assert not is_full(OSError(errno.EACCES, os.strerror(errno.EACCES)))
