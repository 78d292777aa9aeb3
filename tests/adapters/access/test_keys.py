from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.adapters.access import keys
from app.adapters.access.keys import KeyFile, create_key, read_keys, revoke_key
from app.errors import InvalidRequest, NotFound, StartupError, Unauthenticated


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "keys.json"


async def test_a_new_key_names_its_caller(path: Path) -> None:
    entry, key = create_key(path, "desk", ["predict", "observe"], ["prices", "risk_*"])
    assert key.startswith(f"mls_{entry.id}_")
    caller = await KeyFile(path).caller(key)
    assert (caller.name, caller.scopes) == (f"desk/{entry.id}", {"predict", "observe"})
    assert [caller.may_use(name) for name in ("prices", "risk_1", "prices2", "Prices")] == [True, True, False, False]


def test_the_file_has_no_secret_and_is_private(path: Path) -> None:
    _, key = create_key(path, "desk", ["predict"])
    assert key.split("_", 2)[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir() if one.name != "keys.json.lock"] == ["keys.json"]


async def test_other_keys_are_refused(path: Path) -> None:
    entry, key = create_key(path, "desk", ["predict"])
    file = KeyFile(path)
    for wrong in ("", "mls_", f"mls_{entry.id}_", key[:-1], f"{key}x", key.swapcase(), "x" * 100_000, "é", f"{key}\n"):
        with pytest.raises(Unauthenticated, match="not valid"):
            await file.caller(wrong)


async def test_a_key_expires(path: Path) -> None:
    now = datetime.now(UTC)
    _, old = create_key(path, "old", ["predict"], expires=now - timedelta(seconds=1))
    _, fresh = create_key(path, "fresh", ["predict"], expires=now + timedelta(hours=1))
    file = KeyFile(path)
    with pytest.raises(Unauthenticated, match="expired"):
        await file.caller(old)
    assert (await file.caller(fresh)).name.startswith("fresh/")


async def test_a_revoked_key_is_gone(path: Path) -> None:
    entry, key = create_key(path, "desk", ["predict"])
    assert revoke_key(path, entry.id) == entry
    with pytest.raises(Unauthenticated):
        await KeyFile(path).caller(key)
    with pytest.raises(NotFound, match="keys list"):
        revoke_key(path, entry.id)


async def test_changes_are_followed_and_a_damaged_file_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keys, "FOLLOW_S", 0.01)
    _, first = create_key(path, "first", ["predict"])
    file = KeyFile(path)
    following = asyncio.create_task(file.follow())
    _, second = create_key(path, "second", ["manage"])
    await _until(lambda: len(file._entries) == 2)
    assert (await file.caller(second)).scopes == {"manage"}
    for damage in ("", "{", '{"keys": [{"id": "x"}]}', None):
        caplog.clear()
        _write(path, damage)
        await _until(lambda: "keeping the last ones" in caplog.text)
        assert (await file.caller(first)).scopes == {"predict"}
        _write(path, '{"keys": []}')
        await _until(lambda: not file._entries)
        _, first = create_key(path, "first", ["predict"])
        await _until(lambda: any(entry.caller.name.startswith("first/") for entry in file._entries.values()))
    following.cancel()


def _write(path: Path, text: str | None) -> None:
    """Write a file, or remove it."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.01)


def test_concurrent_changes_lose_nothing(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: create_key(path, f"caller-{n}", ["predict"])[0].id, range(40)))
    assert {key.id for key in read_keys(path)} == {*made}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "the file: Invalid JSON"),
        ("[]", "the file"),
        ('{"keys": [{"id": "a"}]}', "keys.0"),
        ('{"keys": [{"id": "abcd", "name": "hunter2", "sha256": "hunter2"}]}', "keys.0.sha256"),
        ("twice", "two keys with one id"),
    ],
)
def test_a_wrong_file_stops_the_start(path: Path, content: str | None, message: str) -> None:
    entry, _ = create_key(path, "desk", ["predict"])
    if content is None:
        path.unlink()
    elif content == "twice":
        path.write_text(json.dumps({"keys": [entry.model_dump(mode="json")] * 2}))
    else:
        path.write_text(content)
    with pytest.raises(StartupError, match=message) as caught:
        KeyFile(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "scopes"), [("", ["predict"]), ("x" * 101, ["predict"]), ("desk", ["admin"]), ("desk", [])]
)
def test_a_wrong_key_is_not_made(path: Path, name: str, scopes: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        create_key(path, name, scopes)  # type: ignore[arg-type]
    assert not path.exists()
