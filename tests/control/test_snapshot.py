"""The snapshot on disk: whatever lies there, and when it cannot be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.control.snapshot import Snapshot


async def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "releases.json"
    await Snapshot(path).write({"live": {}})
    assert Snapshot(path).content == {"live": {}}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "text", [b"", b"null", b"5", b"[1]", b'"no"', b'{"live": ', b"\xff", b"[" * 100_000], ids=lambda text: text[:9]
)
def test_what_is_no_snapshot_is_told_and_left_aside(
    text: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "releases.json"
    path.write_bytes(text)
    assert Snapshot(path).content == {}
    assert str(path) in caplog.text


def test_where_there_is_none_there_is_nothing_to_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Snapshot(tmp_path / "releases.json").content == {}
    assert not caplog.records


async def test_what_could_not_be_written_is_written_once_it_can_be_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    snapshot = Snapshot(folder / "releases.json")
    folder.write_text("a file is in the way")
    for _ in range(3):
        await snapshot.write({"live": {}})
    assert len(caplog.records) == 1
    folder.unlink()
    await snapshot.write({"live": {}})
    assert json.loads((folder / "releases.json").read_text()) == {"live": {}}
