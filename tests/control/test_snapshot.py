"""The snapshot on disk: invalid content, and failing writes."""

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
def test_an_invalid_snapshot_is_logged_and_ignored(
    text: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "releases.json"
    path.write_bytes(text)
    assert Snapshot(path).content == {}
    assert str(path) in caplog.text


def test_a_missing_snapshot_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Snapshot(tmp_path / "releases.json").content == {}
    assert "snapshot" not in caplog.text


async def test_a_failed_write_is_tried_again_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "cache"
    snapshot = Snapshot(folder / "releases.json")
    folder.write_text("a file is in the way")
    for _ in range(3):
        await snapshot.write({"live": {}})
    assert caplog.text.count("failed to write the snapshot") == 1
    folder.unlink()
    await snapshot.write({"live": {}})
    assert json.loads((folder / "releases.json").read_text()) == {"live": {}}
