"""Signatures of folders, made with the real library, and what happens to a folder after it was signed."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from app.adapters.artifacts import trusted_keys, verification
from app.adapters.artifacts.trusted_keys import require_trusted_keys
from app.adapters.artifacts.verification import SignatureVerifier
from app.errors import StartupError
from app.settings import SignatureSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from model_signing.hashing import Config

    from tests.signing import SIGNATURE, Certified, Key, make_certified, make_key, sign

pytestmark = pytest.mark.filterwarnings("ignore")

OURS, THEIRS = "ours", "theirs"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: make_key(folder, name) for name in (OURS, THEIRS)}


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certified]:
    folder = tmp_path_factory.mktemp("certificates")
    return {name: make_certified(folder, name) for name in (OURS, THEIRS)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The artifacts of a model, not signed."""
    folder = tmp_path / "artifacts"
    (folder / "code").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "code" / "prices.py").write_text("FACTOR = 2\n")
    return folder


@pytest.fixture
def signed(folder: Path, keys: dict[str, Key]) -> Path:
    sign(folder, keys[OURS])
    return folder


def verifier(key: Key, **given: Any) -> SignatureVerifier:
    return SignatureVerifier(SignatureSettings(require=True, public_keys=(key.public,), **given))


def fault(folder: Path, key: Key, **given: Any) -> str:
    return verifier(key, **given).fault_in("prices", folder) or ""


def test_a_folder_signed_with_a_trusted_key_passes(signed: Path, keys: dict[str, Key]) -> None:
    assert fault(signed, keys[OURS]) == ""


def test_any_of_several_keys_may_have_signed(
    signed: Path, keys: dict[str, Key], certified: dict[str, Certified]
) -> None:
    public = [keys[name].public for name in (THEIRS, OURS)]
    authorities = [certified[THEIRS].authority]
    settings = SignatureSettings(require=True, public_keys=public, certificates=authorities)
    assert SignatureVerifier(settings).fault_in("prices", signed) is None


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_other_curves_pass(folder: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = make_key(tmp_path, curve=curve)
    sign(folder, key)
    assert fault(folder, key) == ""


def test_a_certified_signer_passes(folder: Path, certified: dict[str, Certified], keys: dict[str, Key]) -> None:
    sign(folder, certified[OURS])
    for trusted, expected in ((OURS, None), (THEIRS, "was not made with a key of signatures.public_keys or a cert")):
        settings = SignatureSettings(require=True, certificates=(certified[trusted].authority,))
        found = SignatureVerifier(settings).fault_in("prices", folder)
        assert found == expected or (expected is not None and found is not None and expected in found)
    assert "was not made with a key" in fault(folder, keys[OURS])


def test_a_folder_without_a_signature_is_refused(folder: Path, keys: dict[str, Key]) -> None:
    assert fault(folder, keys[OURS]) == (
        "it is not signed: its artifacts have no 'model.sig'; sign them with 'model_signing sign'"
    )


def test_an_unknown_key_is_refused(signed: Path, keys: dict[str, Key]) -> None:
    assert fault(signed, keys[THEIRS]) == (
        "its signature 'model.sig' was not made with a key of signatures.public_keys or a certificate of "
        "signatures.certificates"
    )


def alter(folder: Path) -> None:
    (folder / "MLmodel").write_text("flavors: [ ]\n")


def add(folder: Path, name: str = "code/other.py") -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")


def remove(folder: Path) -> None:
    (folder / "code" / "prices.py").unlink()


def exchange(folder: Path) -> None:
    (folder / "code" / "prices.py").rename(folder / "code" / "costs.py")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (alter, "'MLmodel' was changed"),
        (add, "'code/other.py' is not signed"),
        (remove, "'code/prices.py' is missing"),
        (exchange, "'code/costs.py' is not signed, 'code/prices.py' is missing"),
        (partial(add, name="code/__pycache__/prices.cpython-311.pyc"), "'code/__pycache__/prices.cpython-311.pyc' is"),
        (partial(add, name=".gitattributes"), "'.gitattributes' is not signed"),
        (partial(add, name=".git/hook.py"), "'.git/hook.py' is not signed"),
        (partial(add, name="code/model.sig"), "'code/model.sig' is not signed"),
        (partial(add, name="registered_model_meta/a.py"), "'registered_model_meta/a.py' is not signed"),
    ],
    ids=["altered", "extra", "missing", "renamed", "compiled", "git file", "git folder", "other folder", "note"],
)
def test_a_change_after_the_signature_is_refused(
    signed: Path, keys: dict[str, Key], change: Callable[[Path], None], expected: str
) -> None:
    change(signed)
    assert fault(signed, keys[OURS]).startswith(f"its signature 'model.sig' does not fit its files: {expected}")


def test_a_message_names_three_files(signed: Path, keys: dict[str, Key]) -> None:
    for number in range(5):
        (signed / f"{number}{'x' * 90}").touch()
    found = fault(signed, keys[OURS])
    assert found.count(" is not signed") == 3
    assert found.endswith(" and 2 more")
    assert len(found) < 400


def test_a_link_is_refused(signed: Path, keys: dict[str, Key], tmp_path: Path) -> None:
    (signed / "code" / "more").symlink_to(tmp_path)
    assert fault(signed, keys[OURS]) == (
        "its files cannot be compared with its signature 'model.sig'; the log has the cause"
    )


def test_the_note_of_mlflow_does_not_count(signed: Path, keys: dict[str, Key]) -> None:
    (signed / "registered_model_meta").write_text("model_name: prices\n")
    assert fault(signed, keys[OURS]) == ""
    (signed / SIGNATURE).unlink()
    sign(signed, keys[OURS])
    (signed / "registered_model_meta").unlink()
    assert fault(signed, keys[OURS]) == ""


def test_what_the_signer_ignored_is_refused(folder: Path, keys: dict[str, Key]) -> None:
    sign(folder, keys[OURS], Config().set_ignored_paths(paths=["code"]))  # type: ignore[no-untyped-call]
    assert "'code/prices.py' is not signed" in fault(folder, keys[OURS])


def test_a_signed_file_of_git_passes(folder: Path, keys: dict[str, Key]) -> None:
    add(folder, ".gitignore")
    hashing = Config().set_ignored_paths(paths=(), ignore_git_paths=False)  # type: ignore[no-untyped-call]
    sign(folder, keys[OURS], hashing)
    assert fault(folder, keys[OURS]) == ""


@pytest.mark.parametrize("kind", ["shards", "blake3"])
def test_other_ways_to_hash_pass(folder: Path, keys: dict[str, Key], kind: str) -> None:
    hashing = Config()  # type: ignore[no-untyped-call]
    if kind == "shards":
        hashing.use_shard_serialization(shard_size=4)
    else:
        hashing.use_file_serialization(hashing_algorithm="blake3")
    sign(folder, keys[OURS], hashing)
    assert fault(folder, keys[OURS]) == ""
    add(folder)
    remove(folder)
    assert "'code/other.py' is not signed, 'code/prices.py' is missing" in fault(folder, keys[OURS])


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", b'{"verificationMaterial": {}}', b"[" * 100_000], ids=lambda it: it[:9]
)
def test_what_is_no_signature_is_refused(folder: Path, keys: dict[str, Key], content: bytes) -> None:
    (folder / SIGNATURE).write_bytes(content)
    assert fault(folder, keys[OURS]) == "its 'model.sig' is not a signature of model-signing"


def test_a_forged_list_of_files_is_refused(signed: Path, keys: dict[str, Key]) -> None:
    text = (signed / SIGNATURE).read_text()
    (signed / SIGNATURE).write_text(text.replace('"payload"', '"payload": "e30=", "was"'))
    assert "model.sig" in fault(signed, keys[OURS])
    (signed / SIGNATURE).write_text(text)
    assert fault(signed, keys[OURS]) == ""


def test_a_huge_signature_is_not_parsed(signed: Path, keys: dict[str, Key], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_MOST_BYTES", 1 << 20)
    (signed / SIGNATURE).write_bytes(b" " * ((1 << 20) + 1))
    assert fault(signed, keys[OURS]) == "its signature 'model.sig' has more than 1 MiB"


def test_only_models_that_match_need_a_signature(folder: Path, keys: dict[str, Key]) -> None:
    prices = verifier(keys[OURS], models=["price*"])
    assert prices.fault_in("Costs", folder) is None
    assert prices.fault_in("prices", folder) is not None
    assert prices.fault_in("PRICES", folder) is not None, "on MySQL, this is the same model"
    assert SignatureVerifier(SignatureSettings()).fault_in("prices", folder) is None


def test_a_folder_is_compared_once(signed: Path, keys: dict[str, Key], monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    hash_all = verification._hashed

    def counted(folder: Path, how: dict[str, Any]) -> Any:
        hashed.append(folder)
        return hash_all(folder, how)

    monkeypatch.setattr(verification, "_hashed", counted)
    once = verifier(keys[OURS])
    for _ in range(3):
        assert once.fault_in("prices", signed) is None
    assert len(hashed) == 1
    alter(signed)
    for _ in range(3):
        assert once.fault_in("prices", signed) is not None
    assert len(hashed) == 2


def alter_unseen(folder: Path) -> None:
    """Change a file, but neither its size nor its mtime."""
    file = folder / "MLmodel"
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:  # the clock of a file system has ticks
        file.write_text("flavors: []\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def link(folder: Path) -> None:
    (folder / "code" / "more").symlink_to("/")


@pytest.mark.parametrize("change", [alter_unseen, add, remove, link])
def test_a_change_after_the_check_is_noticed(
    signed: Path, keys: dict[str, Key], change: Callable[[Path], None]
) -> None:
    once = verifier(keys[OURS])
    assert once.fault_in("prices", signed) is None
    change(signed)
    assert once.fault_in("prices", signed) is not None


def test_a_changed_key_file_counts_at_once(signed: Path, keys: dict[str, Key], tmp_path: Path) -> None:
    trusted = Key(tmp_path / "unused", tmp_path / "trusted.pub")
    shutil.copy(keys[OURS].public, trusted.public)
    once = verifier(trusted)
    assert once.fault_in("prices", signed) is None
    shutil.copy(keys[THEIRS].public, trusted.public)
    assert once.fault_in("prices", signed) is not None
    trusted.public.unlink()
    with pytest.raises(FileNotFoundError):
        once.fault_in("prices", signed)


# What a start needs


def complaint(**given: Any) -> str:
    with pytest.raises(StartupError) as caught:
        SignatureVerifier(SignatureSettings(require=True, **given))
    return caught.value.message


def test_a_start_needs_a_key() -> None:
    assert complaint() == "signatures.require needs the setting signatures.public_keys or signatures.certificates"
    require_trusted_keys(SignatureSettings(public_keys=["/nowhere.pub"]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for setting in ("public_keys", "certificates"):
        assert complaint(**{setting: [nowhere]}) == (
            f"cannot read {nowhere} of signatures.{setting}: No such file or directory"
        )
    settings = SignatureSettings(require=True, public_keys=[nowhere])
    require_trusted_keys(settings, on_this_machine=False)


def test_a_file_of_another_kind_is_named(tmp_path: Path, keys: dict[str, Key], certified: dict[str, Certified]) -> None:
    other = make_key(tmp_path, "other", ec.SECP256K1())
    for path, words in (
        (keys[OURS].private, "is not a public key in PEM"),
        (certified[OURS].certificate, "is not a public key in PEM"),
        (other.public, "is not a key on the curve P-256, P-384 or P-521"),
    ):
        assert complaint(public_keys=[path]) == f"{path} of signatures.public_keys {words}"
    path = keys[OURS].public
    assert complaint(certificates=[path]) == f"{path} of signatures.certificates is not a certificate in PEM"
    cut = tmp_path / "cut.crt"
    cut.write_bytes(certified[OURS].authority.read_bytes().strip())
    assert complaint(certificates=[cut]) == f"{cut} of signatures.certificates does not end with a line break"


def test_a_missing_library_is_named(keys: dict[str, Key], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trusted_keys, "find_spec", lambda name: None if name == "model_signing" else object())
    assert complaint(public_keys=[keys[OURS].public]) == (
        "signatures.require needs the library model-signing: pip install 'ml-serve-gateway[signing]'"
    )
