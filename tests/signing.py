"""Keys, certificates and signatures of artifacts, as the author of a model makes them."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pyOpenSSL warns about its own functions
    import model_signing

SIGNATURE = "model.sig"

_OTHER_USAGES = (
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


class Key(NamedTuple):
    """PEM files of a private and a public key."""

    private: Path
    public: Path


class Certified(NamedTuple):
    """PEM files of a private key, its certificate, and the certificate of the authority."""

    private: Path
    certificate: Path
    authority: Path


def make_key(folder: Path, name: str = "key", curve: ec.EllipticCurve | None = None) -> Key:
    private = ec.generate_private_key(curve or ec.SECP256R1())
    key = Key(folder / f"{name}.pem", folder / f"{name}.pub")
    key.private.write_bytes(_private(private))
    key.public.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return key


def make_certified(folder: Path, name: str) -> Certified:
    """Make an authority and a key that it has certified."""
    authority, private = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    made = Certified(folder / f"{name}.pem", folder / f"{name}.crt", folder / f"{name}-ca.crt")
    made.private.write_bytes(_private(private))
    of_authority = _certificate(f"{name} authority", f"{name} authority", authority, authority, is_authority=True)
    of_key = _certificate(name, f"{name} authority", private, authority, is_authority=False)
    made.authority.write_bytes(of_authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(of_key.public_bytes(serialization.Encoding.PEM))
    return made


def sign(folder: Path, key: Key | Certified, hashing: model_signing.hashing.Config | None = None) -> None:
    """Sign a folder and put the signature into it."""
    config = model_signing.signing.Config()  # type: ignore[no-untyped-call]
    if isinstance(key, Key):
        config.use_elliptic_key_signer(private_key=key.private)
    else:
        config.use_certificate_signer(
            private_key=key.private, signing_certificate=key.certificate, certificate_chain=[key.authority]
        )
    if hashing is not None:
        config.set_hashing_config(hashing)
    config.sign(folder, folder / SIGNATURE)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    authority: ec.EllipticCurvePrivateKey,
    *,
    is_authority: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    usages = dict.fromkeys(_OTHER_USAGES, False)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not is_authority, key_cert_sign=is_authority, **usages), critical=True
        )
        .sign(authority, hashes.SHA256())
    )
