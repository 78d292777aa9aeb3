"""Environment of a model version: what it needs that a process shared with other models cannot give it.

One process has one set of installed libraries, one ``sys.modules`` and one ``os.environ``. So a version gets a process
of its own kind, a *worker*, if its requirements contradict the installed libraries, or if it ships code, whose module
names another version may use for other code. Versions with equal environments share a worker.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import yaml
from mlflow.models.model import MLMODEL_FILE_NAME
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from app.adapters.artifacts.digests import file_digests
from app.serving.references import ModelVersion

Isolation = Literal["needed", "python", "all"]

CONSTRAINT = "constraint: "
"""Begin of a line that bounds a version without requiring the library."""

_MLFLOW = {"mlflow", "mlflow-skinny", "mlflow-tracing"}
"""Libraries of which ours is used whatever a model pins: MLflow reads the models of its older versions."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What a version needs beside the process that the replica's models share.

    Attributes:
        requirements: the lines of the version's requirements, if they contradict what is installed; else empty.
        contradictions: each requirement that is not met, with what is installed instead.
        code: digest of the code that the version ships; empty if it ships none.
        alone: why the version shares a process with no other, as a clause; empty if it may.
        version: the version that shares with no other, None if it may.
    """

    requirements: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    code: str = ""
    alone: str = ""
    version: ModelVersion | None = None

    @property
    def key(self) -> str:
        """Equal for versions that may share a process; empty for the process of the replica itself."""
        if not self.reason:
            return ""
        return _digest(*self.requirements, self.code, str(self.version or ""))

    @property
    def reason(self) -> str:
        """Why the version needs a worker, as a clause; empty if it needs none."""
        required = f"it requires {', '.join(self.contradictions)}" if self.contradictions else ""
        shipped = "it ships code of its own" if self.code else ""
        return " and ".join(filter(None, (required, shipped, self.alone)))

    def only_for(self, version: ModelVersion, reason: str) -> Environment:
        """Return the environment of a version that shares its process with no other."""
        return replace(self, alone=reason, version=version)

    def with_installed(self) -> Environment:
        """Return the environment with the installed libraries, whatever the version requires."""
        return replace(self, requirements=(), contradictions=())


def environment_of(folder: Path, installed: Callable[[str], str | None] | None = None) -> Environment:
    """Return the environment of the version whose artifacts lie in `folder`.

    Args:
        installed: returns the installed version of a library, None if it is missing. None asks this process.
    """
    lines = tuple(sorted({*_requirements(folder / "requirements.txt")}))
    found = (_contradiction(line, installed or installed_version) for line in lines)
    contradictions = tuple(text for text in found if text is not None)
    return Environment(lines if contradictions else (), contradictions, _code(folder))


def is_python(folder: Path) -> bool:
    """Return whether the version is Python code of its author, which a library does not bound."""
    loader = _python_function(folder).get("loader_module", "")
    return not loader.startswith("mlflow.") or loader.startswith("mlflow.pyfunc")


def _python_function(folder: Path) -> Mapping[str, Any]:
    """Return how MLflow loads the version."""
    return _python_function_in((folder / MLMODEL_FILE_NAME).read_text())


@lru_cache(maxsize=1024)  # an evicted version is read again and again
def _python_function_in(text: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (yaml.safe_load(text).get("flavors") or {}).get("python_function") or {}
    return found


def _requirements(file: Path) -> Iterator[str]:
    """Yield the lines of a requirements file but MLflow's, with those of the files that it names.

    A line of a constraints file begins with `CONSTRAINT`, one that names a file in the model ends with its digest.
    """
    if not file.is_file():
        return
    for raw in file.read_text().replace("\\\n", " ").splitlines():
        line = raw.partition(" #")[0].partition(" --hash")[0].strip()
        option, _, named = line.partition(" ")
        if not line or line.startswith("#") or _name(line) in _MLFLOW:
            continue
        if option in ("-r", "--requirement"):
            yield from _requirements(file.parent / named.strip())
        elif option in ("-c", "--constraint"):
            found = _requirements(file.parent / named.strip())
            yield from (one if one.startswith((CONSTRAINT, "-")) else f"{CONSTRAINT}{one}" for one in found)
        elif (wheel := file.parent / line).is_file():
            yield f"{wheel} #{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
        else:
            yield line


def _name(line: str) -> str:
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return ""


def _contradiction(line: str, installed: Callable[[str], str | None]) -> str | None:
    """Return what is not met, with what is installed; None if the requirement is met or no requirement."""
    is_constraint = line.startswith(CONSTRAINT)
    try:
        requirement = Requirement(line.removeprefix(CONSTRAINT))
    except InvalidRequirement:  # an option, a file or an address
        return None if line.startswith("-") else f"{line.partition(' #')[0].rpartition('/')[2]} (a file or an address)"
    if requirement.marker is not None and not requirement.marker.evaluate():
        return None
    if requirement.url is not None:
        return f"{requirement.name} (a file or an address)"
    found = installed(requirement.name)
    is_met = is_constraint if found is None else requirement.specifier.contains(found, prereleases=True)
    if is_met:
        return None
    return f"{requirement.name}{requirement.specifier} ({f'{found} is' if found else 'not'} installed)"


@lru_cache(maxsize=4096)
def installed_version(name: str) -> str | None:
    """Return the version of a library in this process, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _code(folder: Path) -> str:
    """Return a digest of the code that the version ships; empty if it ships none."""
    code = _python_function(folder).get("code")
    if not code or not (folder / code).is_dir():
        return ""
    files = {path: found for path, found in file_digests(folder / code).items() if "__pycache__" not in path}
    return _digest(*(f"{path} {found}" for path, found in sorted(files.items()))) if files else ""


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
