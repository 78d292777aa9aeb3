from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.adapters.artifacts.locks import lock, try_lock


def test_an_exclusive_lock_excludes_others_in_the_process(tmp_path: Path) -> None:
    with lock(tmp_path / "folder" / "lock"):
        assert try_lock(tmp_path / "folder" / "lock") is None
    again = try_lock(tmp_path / "folder" / "lock")
    assert again is not None
    again.close()


def test_shared_locks_exclude_only_an_exclusive_one(tmp_path: Path) -> None:
    with lock(tmp_path / "lock", shared=True):
        with lock(tmp_path / "lock", shared=True):
            assert try_lock(tmp_path / "lock") is None
        assert try_lock(tmp_path / "lock") is None
    with lock(tmp_path / "lock"):
        pass


def test_a_lock_is_awaited_until_its_holder_is_done(tmp_path: Path) -> None:
    held = lock(tmp_path / "lock")
    threading.Timer(0.2, held.close).start()
    later = try_lock(tmp_path / "lock", timeout_s=30)
    assert later is not None
    later.close()


def test_a_waiter_locks_a_new_file_if_the_holder_deletes_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    held = lock(path)
    locked = threading.Event()

    def wait() -> None:
        with lock(path):
            locked.set()
            assert release.wait(30)

    release = threading.Event()
    waiter = threading.Thread(target=wait)
    waiter.start()
    path.unlink()
    with held:
        assert not locked.is_set()
    assert locked.wait(30)
    assert path.exists()
    assert try_lock(path) is None
    release.set()
    waiter.join()


def test_a_lock_file_is_open_for_reading_and_writing_as_on_nfs(tmp_path: Path) -> None:
    with lock(tmp_path / "lock", shared=True) as held:
        assert fcntl.fcntl(held, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


@pytest.mark.parametrize("shared", [True, False])
def test_a_killed_process_loses_its_lock(tmp_path: Path, shared: bool) -> None:
    code = (
        "import sys, signal; from pathlib import Path; from app.adapters.artifacts.locks import lock\n"
        "held = lock(Path(sys.argv[1]), shared=sys.argv[2] == 'True'); print('locked', flush=True); signal.pause()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock"), str(shared)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        assert try_lock(tmp_path / "lock") is None
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    held = try_lock(tmp_path / "lock")
    assert held is not None
    held.close()
