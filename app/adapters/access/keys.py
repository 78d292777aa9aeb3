"""API keys: a JSON file of their hashes, which `ml-serve keys` writes and every gateway replica reads.

A key is ``mls_ID_SECRET``. The file has the SHA-256 of the whole key; its secret has 256 random bits, so a slow hash
would add nothing. The id is public: it finds the entry, and tells keys apart in lists and logs.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from app.adapters.artifacts.locks import lock
from app.errors import InvalidRequest, NotFound, StartupError, Unauthenticated
from app.serving.callers import Caller
from app.settings import ScopeName

log = logging.getLogger(__name__)

PREFIX = "mls_"
FOLLOW_S = 2.0
"""Seconds between two looks at the file."""

_ID_BYTES = 6
_SECRET_BYTES = 32
_MAX_KEY = 200
_REFUSED = "the API key is not valid; ask the operator of this gateway for a new one"


class ApiKey(BaseModel):
    """One key, without its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{4,32}$")]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[ScopeName, ...], Field(min_length=1)]
    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    created: AwareDatetime
    expires: AwareDatetime | None = None


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: tuple[ApiKey, ...]


class _Entry(NamedTuple):
    digest: str
    caller: Caller
    expires: float


class KeyFile:
    """`Authenticator` of the keys in a file, which may change at any time.

    Raises:
        StartupError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._entries: Mapping[str, _Entry] = MappingProxyType({})
        self.reload()

    async def caller(self, credential: str) -> Caller:
        """Return the caller of a key. Raises `Unauthenticated`."""
        if len(credential) > _MAX_KEY:
            raise Unauthenticated(_REFUSED)
        entry = self._entries.get(credential.removeprefix(PREFIX).partition("_")[0])
        digest = hashlib.sha256(credential.encode()).hexdigest()
        if entry is None or not hmac.compare_digest(digest, entry.digest):
            raise Unauthenticated(_REFUSED)
        if entry.expires <= time.time():
            raise Unauthenticated("the API key has expired; ask the operator of this gateway for a new one")
        return entry.caller

    async def follow(self) -> None:
        """Take over changes of the file until cancelled. While it cannot be read, the last keys stay valid."""
        failed = False
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                changed = await asyncio.to_thread(self.reload)
            except StartupError as error:
                if not failed:
                    log.error("cannot read the API keys, keeping the last ones: %s", error.message)  # noqa: TRY400
                failed = True
            else:
                failed = False
                if changed:
                    log.info("read the API keys: keys=%d", len(self._entries))

    def reload(self) -> bool:
        """Read the file if it has changed, and return whether it has. Raises `StartupError`."""
        try:
            found = self._path.stat()  # of the target: Kubernetes switches a link to the new version of a secret
        except OSError as error:
            raise _unreadable(self._path, error.strerror) from None
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen == self._seen:
            return False
        self._entries = {key.id: _entry(key) for key in read_keys(self._path)}
        self._seen = seen
        return True


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read a key file. Raises `StartupError`; its message holds nothing of the file."""
    try:
        keys = _Keys.model_validate_json(path.read_bytes()).keys
    except OSError as error:
        raise _unreadable(path, error.strerror) from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise StartupError(f"the key file {path} is not valid: {where}: {fault['msg']}") from None
    if len({key.id for key in keys}) < len(keys):
        raise StartupError(f"the key file {path} has two keys with one id")
    return keys


def create_key(
    path: Path,
    name: str,
    scopes: Iterable[ScopeName],
    models: Iterable[str] = ("*",),
    expires: datetime | None = None,
) -> tuple[ApiKey, str]:
    """Add a key to the file, which is created if needed.

    Returns:
        The entry, and the key itself, which is stored nowhere.

    Raises:
        InvalidRequest: a name, scope or pattern is not valid.
    """
    key_id = secrets.token_hex(_ID_BYTES)
    key = f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        entry = ApiKey(
            id=key_id,
            name=name,
            sha256=digest,
            scopes=tuple(scopes),
            models=tuple(models),
            created=_now().replace(microsecond=0),
            expires=expires,
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        raise InvalidRequest(f"'{fault['loc'][0]}': {fault['msg']}") from None
    with _changing(path) as keys:
        keys.append(entry)
    return entry, key


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Remove a key from the file. Raises `NotFound`."""
    with _changing(path) as keys:
        found = next((key for key in keys if key.id == key_id), None)
        if found is None:
            raise NotFound(f"no key has the id '{key_id[:80]}'; 'ml-serve keys list' shows them")
        keys.remove(found)
    return found


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """Read the keys, and write them back, as one step among processes. A reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path.with_name(f"{path.name}.lock")):
        keys = list(read_keys(path)) if path.exists() else []
        yield keys
        text = json.dumps({"keys": [key.model_dump(mode="json") for key in keys]}, indent=2)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 600
        with os.fdopen(handle, "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)


def _entry(key: ApiKey) -> _Entry:
    expires = float("inf") if key.expires is None else key.expires.timestamp()
    return _Entry(key.sha256, Caller(f"{key.name}/{key.id}", frozenset(key.scopes), key.models), expires)


def _unreadable(path: Path, reason: str | None) -> StartupError:
    return StartupError(f"cannot read the key file {path}: {reason}; 'ml-serve keys create' makes it")


def _now() -> datetime:
    return datetime.now(UTC)
