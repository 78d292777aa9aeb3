"""Overlays: the libraries of an environment that differ from the installed ones, in a folder of their own.

A worker has the folder before the installed libraries in its ``PYTHONPATH``. uv resolves what a version requires under
the constraints of MLflow and Ray, which every worker imports, and prefers the installed versions; only what still
differs is installed. The folder lies beside the artifact cache, so that a restart needs no package index.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import cached_property
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.adapters.artifacts.digests import sync_tree
from app.adapters.artifacts.locks import try_lock
from app.adapters.mlflow.environments import CONSTRAINT, Environment
from app.errors import ModelUnavailable

log = logging.getLogger(__name__)

_IMPORTED = ("mlflow", "ray", "pydantic-settings", "orjson", "psutil")
"""What every worker imports; it needs all that they require at versions that they allow."""
_OWN = ("ml-serve-gateway", "ml-serve-client")
_SHOWN = 300
"""Most characters of uv's message in an error."""


class Overlays:
    """The overlays of one node, shared by its processes. Every method blocks. Thread-safe.

    Args:
        folder: created when first needed.
        may_build: whether missing overlays may be built.
        index_url: package index; None means uv's default.
        timeout_s: most seconds that a build may take.
    """

    def __init__(self, folder: Path, *, may_build: bool, index_url: str | None, timeout_s: float) -> None:
        self._folder = folder
        self._may_build = may_build
        self._index_url = index_url
        self._timeout_s = timeout_s

    def find(self, environment: Environment) -> Path | None:
        """Return the folder of an environment's overlay, None if it has yet to be built."""
        folder = self._place(environment)
        return folder if folder.is_dir() else None

    def build(self, environment: Environment) -> Path:
        """Build the overlay of an environment, if it is missing, and return its folder.

        Raises:
            ModelUnavailable: it may not be built here, its requirements contradict each other or those of MLflow or
                Ray, or the index lacks a library; the message says which.
        """
        folder = self._place(environment)
        needed = ", ".join(environment.contradictions)
        if folder.is_dir():
            return folder
        if not self._may_build:
            raise ModelUnavailable(
                f"it requires {needed}, and the setting environments.build forbids to build an environment for it"
            )
        held = try_lock(folder.with_name(f"{folder.name}.lock"), self._timeout_s)
        if held is None:
            raise ModelUnavailable(f"another process still builds its environment after {self._timeout_s:g} s")
        with held:
            if not folder.is_dir():
                for left in folder.parent.glob(f"{folder.name}.*/"):  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                started = time.perf_counter()
                log.info("building an environment: folder=%s requires=%s", folder, needed)
                self._build(environment, folder)
                log.info("built an environment: folder=%s seconds=%.1f", folder, time.perf_counter() - started)
        return folder

    def _build(self, environment: Environment, folder: Path) -> None:
        deadline = time.monotonic() + self._timeout_s
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.") as name:
            place = Path(name)
            given, constraints, pins = place / "given.txt", place / "constraints.txt", place / "pins.txt"
            lines = environment.requirements
            bounds = [line.removeprefix(CONSTRAINT) for line in lines if line.startswith(CONSTRAINT)]
            given.write_text("\n".join(line for line in lines if not line.startswith(CONSTRAINT)))
            constraints.write_text("\n".join([*bounds, *self._constraints]))
            pins.write_text("\n".join(self._installed))  # uv prefers what its output file holds
            resolve = ("compile", "--quiet", "--no-header", "--no-annotate", str(given), "--output-file", str(pins))
            self._uv(deadline, *resolve, "--constraint", str(constraints))
            differing = [line for line in pins.read_text().splitlines() if line and line not in self._installed]
            pins.write_text("\n".join(differing))
            overlay = place / "overlay"
            overlay.mkdir()
            self._uv(
                deadline,
                "install",
                "--quiet",
                "--no-deps",
                "--compile-bytecode",
                "--target",
                str(overlay),
                "--requirement",
                str(pins),
            )
            shutil.move(pins, overlay / "requirements.txt")
            sync_tree(overlay)
            overlay.rename(folder)  # the commit point: a folder under its final name is complete

    def _uv(self, deadline: float, command: str, *arguments: str) -> None:
        index = ("--default-index", self._index_url) if self._index_url else ()
        environment = {"UV_CACHE_DIR": str(self._folder / "uv"), **os.environ}
        try:
            done = subprocess.run(  # noqa: S603 - no shell; the requirements are in files
                (_uv_binary(), "pip", command, "--python", sys.executable, *index, *arguments),
                capture_output=True,
                text=True,
                check=False,
                env=environment,
                timeout=max(1.0, deadline - time.monotonic()),
            )
        except subprocess.TimeoutExpired:
            raise ModelUnavailable(f"its environment was not built within {self._timeout_s:g} s") from None
        if done.returncode:
            log.error("failed to build an environment: %s", done.stderr)
            raise ModelUnavailable(f"its environment cannot be built: {_why(done.stderr)}")

    def _place(self, environment: Environment) -> Path:
        parts = (sys.version, *self._installed, "", *environment.requirements)
        return self._folder / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    @cached_property
    def _installed(self) -> list[str]:
        """The installed libraries as pins, sorted. Where two folders hold a library, the first is imported."""
        found: dict[str, str] = {}
        for one in metadata.distributions():
            found.setdefault(canonicalize_name(one.name), one.version)
        return sorted(f"{name}=={version}" for name, version in found.items() if name not in _OWN)

    @cached_property
    def _constraints(self) -> list[str]:
        """What the installed MLflow and Ray, and all that they require, allow."""
        found = [f"{name}=={metadata.version(name)}" for name in _IMPORTED]
        seen, waiting = set(_IMPORTED), list(_IMPORTED)
        while waiting:
            for requirement in _required(waiting.pop()):
                name = canonicalize_name(requirement.name)
                if requirement.specifier:
                    found.append(f"{name}{requirement.specifier}")
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return found


def _required(name: str) -> Iterable[Requirement]:
    """Return what an installed library requires without its extras."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _why(said: str) -> str:
    """Return uv's reason in one sentence without paths and addresses, which only the log has."""
    found = re.search(r"[Bb]ecause .*?\.(?:\s|$)", " ".join(said.split()))
    if found is None:
        return "the log has the cause"
    return re.sub(r"\S*/\S*", "…", found[0].strip())[:_SHOWN]


def _uv_binary() -> str:
    import uv  # noqa: PLC0415 - only builds need it

    return str(uv.find_uv_bin())
