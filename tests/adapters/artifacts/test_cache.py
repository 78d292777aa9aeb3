"""The cache by itself, from many threads, and from real processes, some of which are killed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.adapters.artifacts.cache import ArtifactCache, CacheCounts, is_full
from app.adapters.artifacts.locks import lock
from app.serving.references import ModelVersion

V = ModelVersion("prices of oil", "3")


class Store:
    """Writes two files, counts downloads, and fails when told."""

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
    """The version's artifacts, of which this process lets go at once."""
    cached = cache.use(version, identity)
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


def test_many_at_once_share_one_download(tmp_path: Path) -> None:
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
    broken.symlink_to("/proc/self/mem")  # who reads it gets what a broken disk gives
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


def test_a_model_registered_anew_under_the_same_number_is_not_served_from_the_old_copy(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    assert (folder_of(cache, identity="a") / "MLmodel").read_text().endswith(" 1")
    assert cache.find(V, "b") is None
    assert (folder_of(cache, identity="b") / "MLmodel").read_text().endswith(" 2")
    assert cache.counts.damaged == 0


def test_a_model_registered_anew_leaves_no_old_copy_when_the_new_one_cannot_be_had(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    folder_of(cache, identity="a")
    store.broken = True
    with pytest.raises(OSError, match="cut"):
        cache.use(V, "b")
    assert cache.find(V, None) is None


def test_without_a_registry_an_intact_copy_is_found_and_nothing_is_downloaded(tmp_path: Path) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    assert cache.find(V, None) is None
    folder_of(cache)
    found = cache.find(V, None)
    assert found is not None
    assert (found.folder / "MLmodel").exists()
    assert store.downloads == 1


def test_an_interrupted_download_leaves_nothing(tmp_path: Path) -> None:
    store = Store()
    store.broken = True
    cache = ArtifactCache(tmp_path, store.download)
    with pytest.raises(OSError, match="cut"):
        cache.use(V, "a")
    assert [path.name for path in tmp_path.glob("*/*")] == ["3.lock"]
    store.broken = False
    folder = folder_of(cache)
    assert (folder / "data" / "model.bin").exists()
    assert json.loads((folder.parent / "manifest.json").read_text())["identity"] == "a"


@pytest.mark.parametrize("version", [ModelVersion("..", "1"), ModelVersion("m", "..")])
def test_a_name_never_leaves_the_cache_folder(tmp_path: Path, version: ModelVersion) -> None:
    folder = folder_of(ArtifactCache(tmp_path / "cache", Store().download), version)
    assert len(folder.resolve().relative_to(tmp_path / "cache").parts) == 3


@pytest.mark.parametrize("name", ["価" * 29, "a" * 256, "/" * 256])
def test_a_name_that_is_too_long_for_a_folder_is_cached_apart_from_others_that_begin_alike(
    tmp_path: Path, name: str
) -> None:
    store = Store()
    cache = ArtifactCache(tmp_path, store.download)
    one, other = (ModelVersion(name + end, "1") for end in ("", "b"))
    folders = {folder_of(cache, version) for version in (one, other, one)}
    assert len(folders) == store.downloads == 2
    assert {(folder / "MLmodel").read_text() for folder in folders} == {f"{one} 1", f"{other} 2"}


def test_what_was_used_longest_ago_leaves_when_a_download_goes_over_the_bound(tmp_path: Path) -> None:
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


def test_what_is_in_use_stays_even_over_the_bound(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, Store(100_000).download, max_bytes=150_000)
    held = cache.use(number(1), "a")
    other = ArtifactCache(tmp_path, Store(100_000).download, max_bytes=150_000)
    folder_of(other, number(2))  # itself in use when the bound is looked at
    assert present(tmp_path) == {"1", "2"}
    folder_of(other, number(3))
    assert present(tmp_path) == {"1", "3"}
    held.release()
    folder_of(other, number(4))
    assert present(tmp_path) == {"4"}


def test_a_version_is_had_though_no_room_can_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(100_000)
    cache = ArtifactCache(tmp_path, store.download, max_bytes=150_000, wait_s=0.2)
    folder_of(cache, number(1))
    with lock(tmp_path / "eviction.lock"):  # whoever is at it hangs
        assert folder_of(cache, number(2)).exists()
        assert present(tmp_path) == {"1", "2"}
    (tmp_path / "eviction.lock").unlink()
    (tmp_path / "eviction.lock").mkdir()  # as good as a file of another user's
    assert folder_of(cache, number(3)).exists()
    assert present(tmp_path) == {"1", "2", "3"}
    (tmp_path / "eviction.lock").rmdir()
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    folder_of(cache, number(4))
    assert present(tmp_path) == {"4"}


def test_what_has_left_the_cache_leaves_the_memory_of_the_process_too(tmp_path: Path) -> None:
    store = Store(100_000)
    one, other = (ArtifactCache(tmp_path, store.download, max_bytes=150_000) for _ in range(2))
    for n in range(1, 7):
        folder_of(one if n % 2 else other, number(n))
    folder_of(one, number(7))
    assert [len(cache._checked) for cache in (one, other)] == [1, 1]


def test_without_a_bound_nothing_leaves(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, Store(100_000).download)
    for n in range(10):
        folder_of(cache, number(n))
    assert len(present(tmp_path)) == 10


def test_what_others_keep_in_the_folder_is_left_alone(tmp_path: Path) -> None:
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
    cached = cache.use(ModelVersion("m", number), "a")
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


def test_a_process_that_hangs_is_not_waited_for_for_ever(processes: Processes) -> None:
    hanging = processes.start(1, pause=60)
    wait_for(hanging, "downloading")
    cache = ArtifactCache(processes.folder, Store().download, wait_s=0.3)
    with pytest.raises(TimeoutError, match="m/versions/1 was being downloaded by another process"):
        cache.use(number(1), "a")
    folder_of(cache, number(2))


def test_two_processes_that_want_one_version_download_it_once(processes: Processes) -> None:
    both = [processes.start(1, 2, pause=0.3) for _ in range(3)]
    assert all(ended_well(process) for process in both)
    assert sorted(processes.downloads) == ["1", "2"]


def test_a_process_killed_while_it_downloads_leaves_nothing_that_counts(processes: Processes) -> None:
    dying = processes.start(1, pause=60)
    wait_for(dying, "downloading")
    waiting = processes.start(1)
    dying.send_signal(signal.SIGKILL)
    assert ended_well(waiting)
    assert processes.downloads == ["1", "1"]
    assert present(processes.folder) == {"1"}


def test_what_a_killed_process_left_is_removed_by_the_next_download_of_anything(processes: Processes) -> None:
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


def test_what_another_process_has_is_not_evicted_until_it_ends_however_it_ends(processes: Processes) -> None:
    holding = processes.start(1, then="stay")
    wait_for(holding, "downloading")
    wait_for(holding, "done")
    assert ended_well(processes.start(2, 3, 4, max_bytes=250_000))
    assert present(processes.folder) == {"1", "4"}
    holding.send_signal(signal.SIGKILL)
    holding.wait()
    assert ended_well(processes.start(5, max_bytes=150_000))
    assert present(processes.folder) == {"5"}


def test_processes_that_download_and_evict_at_random_never_read_what_is_not_whole(processes: Processes) -> None:
    orders = [[n % 7 + 1 for n in range(start, start + 40)] for start in (0, 3, 5)]
    all_of_them = [processes.start(*order, max_bytes=320_000) for order in orders]
    assert all(ended_well(process) for process in all_of_them)
    assert len(processes.downloads) > 7
    assert ended_well(processes.start(9, max_bytes=320_000))
    assert len(present(processes.folder)) <= 3


# A full disk.


def test_a_version_that_is_larger_than_the_disk_is_told_and_leaves_nothing(small_disk: Path) -> None:
    cache = ArtifactCache(small_disk, Store(3_000_000).download)
    with pytest.raises(OSError, match="no room for m/versions/1") as caught:
        cache.use(number(1), "a")
    assert caught.value.errno == errno.ENOSPC
    assert not present(small_disk)
    assert shutil.disk_usage(small_disk).used < 100_000


def test_on_a_full_disk_what_nobody_has_makes_room_though_it_is_within_the_bound(small_disk: Path) -> None:
    cache = ArtifactCache(small_disk, Store(300_000).download)
    held = cache.use(number(1), "a")
    for n in (2, 3, 4):
        folder_of(cache, number(n))
    assert present(small_disk) == {"1", "3", "4"}
    assert cache.counts.evictions == 1
    held.release()


def test_a_full_disk_is_known_by_what_stores_make_of_it(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.bin")
    wrapped = RuntimeError("the artifacts cannot be downloaded")
    wrapped.__cause__ = full
    assert is_full(wrapped)
    assert is_full(shutil.Error([("a", "b", str(full))]))
    assert not is_full(OSError(errno.EACCES, os.strerror(errno.EACCES)))
