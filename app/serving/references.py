"""Model references as callers write them, and the immutable versions that they resolve to."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from app.errors import InvalidReference

_FORM = "a model reference is 'name', 'name@alias' or 'name/versions/N'"
# As in MLflow, without the control characters that it allows in names.
_NAME = re.compile(r"[^/:\x00-\x1f\x7f]{1,256}")
_ALIAS = re.compile(r"[\w\-]{1,255}")
_VERSION = re.compile(r"[0-9]{1,18}")


class ModelVersion(NamedTuple):
    """One immutable version of a registered model: the key of every cache and batch."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}/versions/{self.version}"


class ModelRef(NamedTuple):
    """Reference of a caller: an alias, a version, or with neither the bare name."""

    name: str
    alias: str | None = None
    version: str | None = None

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}/versions/{self.version}"
        return f"{self.name}@{self.alias}" if self.alias is not None else self.name

    @property
    def pinned(self) -> ModelVersion | None:
        """The version that the reference names, if it names one."""
        return ModelVersion(self.name, self.version) if self.version is not None else None


def make_ref(name: str, alias: str | None = None, version: str | None = None) -> ModelRef:
    """Make a reference from its parts.

    Raises:
        InvalidReference: a part is malformed, or both an alias and a version are given.
    """
    if not _NAME.fullmatch(name):
        raise InvalidReference(f"'{name[:80]}' is not a model name: {_FORM}", {"reference": name[:80]})
    if alias is not None and version is not None:
        raise InvalidReference(f"'{name}': give a version or an alias, not both", {"reference": name})
    if alias is not None and not _ALIAS.fullmatch(alias):
        raise InvalidReference(f"'{alias[:80]}' is not an alias: letters, digits, '_' and '-'", {"reference": name})
    if version is None:
        return ModelRef(name, alias)
    if not _VERSION.fullmatch(version):
        raise InvalidReference(
            f"'{version[:80]}' is not a model version: versions are whole numbers", {"reference": name}
        )
    return ModelRef(name, None, str(int(version)))


@lru_cache(maxsize=4096)
def parse_ref(text: str) -> ModelRef:
    """Parse ``name``, ``name@alias`` or ``name/versions/N``.

    The last ``@`` comes before the alias. `app.serving.releases.table` also looks for a model whose name has it.

    Raises:
        InvalidReference: the text has none of these forms.
    """
    name, slash, rest = text.partition("/")
    if slash:
        keyword, _, version = rest.partition("/")
        if keyword != "versions" or not version:
            raise InvalidReference(f"'{text[:80]}' is not understood: {_FORM}", {"reference": text[:80]})
        return make_ref(name, version=version)
    name, at, alias = text.rpartition("@")
    return make_ref(name, alias=alias) if at else make_ref(text)
