"""Signatures of model artifacts, in the format of OpenSSF Model Signing: checked before anything of a version runs.

A signature lists a digest for every file. Each file must be in the list and each entry of the list must be a file,
apart from the signature itself and the note that MLflow writes. What the signer chose to ignore is not ignored here:
somebody else could put files there. The result is remembered until a file, a folder or a trusted key changes.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache

from app.adapters.artifacts.digests import tree_stats
from app.adapters.artifacts.trusted_keys import require_trusted_keys
from app.settings import SignatureSettings

if TYPE_CHECKING:
    from model_signing._signing.signing import Verifier
    from model_signing.manifest import Manifest

log = logging.getLogger(__name__)

MLFLOW_NOTE = "registered_model_meta"
"""MLflow writes it on each download, with a local artifact store also into the store. Nothing reads it."""

_MOST_BYTES = 64 * 1024**2
"""Size of a signature that is read: it is parsed before it is known who wrote it. A file takes about 200 bytes."""
_MOST_KNOWN = 1024
_SHOWN = 3
"""Files that a message names, each with at most as many characters as follow."""
_SHOWN_CHARACTERS = 80


class _Fault(Exception):
    """Why artifacts must not be used, as a clause."""


class SignatureVerifier:
    """Checks the signatures of artifacts as the settings ask for it. Blocks. Thread-safe.

    Raises:
        StartupError: signatures are required, and the library or a key is missing.
    """

    def __init__(self, settings: SignatureSettings) -> None:
        require_trusted_keys(settings)
        self._settings = settings
        self._known: LRUCache[Path, tuple[Any, str | None]] = LRUCache(_MOST_KNOWN)

    def fault_in(self, name: str, folder: Path) -> str | None:
        """Return why the artifacts of a model must not be used, as a clause; None if they may.

        Raises:
            OSError, ValueError: a trusted key or a file cannot be read.
        """
        if not self._settings.needs(name):
            return None
        # Before the check: a change during the check then counts as a change after it.
        state = (tree_stats(folder), *map(_state, (*self._settings.public_keys, *self._settings.certificates)))
        before, fault = self._known.get(folder, (None, None))
        if before != state:
            fault = None
            try:
                self._check(folder)
            except _Fault as found:
                fault = str(found)
            self._known[folder] = state, fault
        return fault

    def _check(self, folder: Path) -> None:
        name = self._settings.file
        file = folder / name
        if not file.is_file():
            raise _Fault(f"it is not signed: its artifacts have no '{name}'; sign them with 'model_signing sign'")
        if file.stat().st_size > _MOST_BYTES:
            raise _Fault(f"its signature '{name}' has more than {_MOST_BYTES >> 20} MiB")
        signed = self._signed(file)
        try:
            differences = [*self._differences(signed, folder)]
        except ValueError:
            log.warning("failed to compare files with their signature %s", file, exc_info=True)
            raise _Fault(f"its files cannot be compared with its signature '{name}'; the log has the cause") from None
        if differences:
            more = f" and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
            shown = ", ".join(differences[:_SHOWN])
            raise _Fault(f"its signature '{name}' does not fit its files: {shown}{more}")

    def _signed(self, file: Path) -> Manifest:
        """Return what a trusted key has signed."""
        from model_signing._signing.sign_sigstore_pb import Signature  # noqa: PLC0415 - takes a second

        try:
            signature = Signature.read(file)
        except Exception:  # whatever the parsers raise for what an attacker may have written
            log.warning("failed to parse the signature %s", file, exc_info=True)
            raise _Fault(f"its '{file.name}' is not a signature of model-signing") from None
        for verifier in self._verifiers():
            try:
                return verifier.verify(signature)
            except Exception as error:  # as above
                log.info("signature not made with this key: file=%s error=%s", file, error)
        raise _Fault(
            f"its signature '{file.name}' was not made with a key of signatures.public_keys or a certificate of "
            "signatures.certificates"
        )

    def _verifiers(self) -> Iterator[Verifier]:
        """Read the trusted keys. Beside its `Config`, model-signing has no way to read a list that was signed."""
        from model_signing._signing import sign_certificate, sign_ec_key  # noqa: PLC0415 - takes a second

        for path in self._settings.public_keys:
            yield sign_ec_key.Verifier(path)
        if self._settings.certificates:  # without any, it would trust those of the operating system
            yield sign_certificate.Verifier(self._settings.certificates)

    def _differences(self, signed: Manifest, folder: Path) -> Iterator[str]:
        wanted, there = self._files(signed), self._files(_hashed(folder, signed.serialization_type))
        for path in (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()):
            if self._counts(path):
                there.setdefault(path, set())  # an empty file has no shards
        for path in sorted(wanted.keys() | there.keys()):
            if wanted.get(path) != there.get(path):
                what = "is missing" if path not in there else "was changed" if path in wanted else "is not signed"
                yield f"'{path[:_SHOWN_CHARACTERS]}' {what}"

    def _files(self, manifest: Manifest) -> dict[str, set[tuple[str, str, str]]]:
        """Return the digests of each file: one, or one for each shard."""
        has_shards = manifest.serialization_type["method"] == "shards"
        files = defaultdict(set)
        for one in manifest.resource_descriptors():
            path = one.identifier.rsplit(":", 2)[0] if has_shards else one.identifier
            if self._counts(path):
                files[path].add((one.identifier, one.digest.algorithm, one.digest.digest_hex))
        return files

    def _counts(self, path: str) -> bool:
        return path not in (self._settings.file, MLFLOW_NOTE)


def _hashed(folder: Path, how: dict[str, Any]) -> Manifest:
    """Return the digests of all files in a folder. Raises `ValueError` if it has links or special files."""
    from model_signing.hashing import Config  # noqa: PLC0415 - takes a second

    config = Config()  # type: ignore[no-untyped-call]
    if how["method"] == "shards":
        config.use_shard_serialization(hashing_algorithm=how["hash_type"], shard_size=int(how["shard_size"]))
    else:
        config.use_file_serialization(hashing_algorithm=how["hash_type"])
    return config.set_ignored_paths(paths=(), ignore_git_paths=False).hash(folder)


def _state(path: Path) -> tuple[int, ...]:
    found = path.stat()  # of the file behind a link: Kubernetes changes a Secret by changing a link
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
