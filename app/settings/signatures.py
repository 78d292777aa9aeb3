"""Settings of signed artifacts: which models need the signature of a known author, and whose."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from app.settings.groups import Group, comma_separated


class SignatureSettings(Group):
    """Signatures of model artifacts, in the format of OpenSSF Model Signing. See `docs/operate/security.md`."""

    require: bool = False
    """Load only versions whose artifacts are signed, and check them before anything of a version runs."""

    public_keys: Annotated[tuple[Path, ...], NoDecode] = ()
    """PEM files of public keys on the curves P-256, P-384 or P-521, any of which may have signed."""

    certificates: Annotated[tuple[Path, ...], NoDecode] = ()
    """PEM files of the certificates of an authority, root included, that certifies those who sign."""

    models: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Patterns of the registered models that need a signature, in any case; `*` stands for any text."""

    file: Annotated[str, Field(pattern=r"^[^/]+\.sig$")] = "model.sig"
    """Name of the signature among the artifacts. It ends with `.sig`."""

    @field_validator("public_keys", "certificates", "models", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return comma_separated(value)

    @field_validator("public_keys", "certificates")
    @classmethod
    def _absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(path.expanduser().absolute() for path in value)

    def needs(self, name: str) -> bool:
        """Return whether the versions of a registered model need a signature.

        Case does not count, because on MySQL one model has its name in any case.
        """
        return self.require and any(fnmatchcase(name.casefold(), pattern.casefold()) for pattern in self.models)
