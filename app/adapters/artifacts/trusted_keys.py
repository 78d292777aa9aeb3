"""Keys and certificates of those who may sign model artifacts."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from app.errors import StartupError
from app.settings import SignatureSettings

_LIBRARIES = ("model_signing", "OpenSSL")
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}
"""Those that model-signing takes."""


def require_trusted_keys(settings: SignatureSettings, *, on_this_machine: bool = True) -> None:
    """Check that signatures can be checked, if they are required.

    Args:
        on_this_machine: whether the library and the files have to be here.

    Raises:
        StartupError: the library, a setting or a file is missing, or a file has no key; the message says which.
    """
    if not settings.require:
        return
    if not settings.public_keys and not settings.certificates:
        raise StartupError("signatures.require needs the setting signatures.public_keys or signatures.certificates")
    if not on_this_machine:
        return
    if not all(map(find_spec, _LIBRARIES)):
        raise StartupError(
            "signatures.require needs the library model-signing: pip install 'ml-serve-gateway[signing]'"
        )
    for path in settings.public_keys:
        _require_key(path)
    _require_certificates(settings.certificates)


def _require_key(path: Path) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only where signatures are required
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    content = _content(path, "public_keys")
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise StartupError(f"{path} of signatures.public_keys is not a public key in PEM") from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise StartupError(f"{path} of signatures.public_keys is not a key on the curve P-256, P-384 or P-521")


def _require_certificates(paths: Iterable[Path]) -> None:
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 - only where signatures are required

    for path in paths:
        content = _content(path, "certificates")
        try:
            load_pem_x509_certificates(content)
        except ValueError:
            raise StartupError(f"{path} of signatures.certificates is not a certificate in PEM") from None
        if not content.endswith(b"\n"):
            raise StartupError(f"{path} of signatures.certificates does not end with a line break")


def _content(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read {path} of signatures.{setting}: {error.strerror}") from None
