"""Installs the peers, each from its locked requirements into an environment of its own."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable

from benchmarks.paths import ENVIRONMENTS, ROOT
from benchmarks.systems import System


def install(system: System, progress: Callable[[str], None]) -> None:
    """See to it that the system's environment is that of its requirements. Raises `RuntimeError`."""
    if system.environment is None:
        return
    folder = ENVIRONMENTS / system.environment
    requirements = ROOT / "requirements" / f"peers-{system.environment}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    mark = folder / ".requirements"
    if mark.exists() and mark.read_text().strip() == digest:
        return
    progress(f"installing {system.environment}")
    _run(sys.executable, "-m", "venv", "--clear", str(folder))
    pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes")
    _run(*pip, "--requirement", str(requirements))
    mark.write_text(digest)


def version(system: System) -> str:
    """The installed version of what is measured."""
    code = f"from importlib.metadata import version; print(version({system.package!r}))"
    return _run(str(system.bin / "python"), "-c", code).strip()


def packages(system: System) -> dict[str, str]:
    """Every package of its environment with its version, for the raw results."""
    listed = json.loads(_run(str(system.bin / "python"), "-m", "pip", "list", "--format", "json"))
    return {one["name"]: one["version"] for one in listed}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-800:]}")
    return done.stdout
