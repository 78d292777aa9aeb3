"""Install each peer from its locked requirements into an environment of its own."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.paths import ENVIRONMENTS, ROOT
from benchmarks.systems import System


def install(system: System, progress: Callable[[str], None]) -> None:
    """Install the system's environment where it is missing or outdated. Raises `RuntimeError`."""
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
    pip = (str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--compile-bytecode")
    _run(*pip, "--python", str(folder / "bin" / "python"), "--require-hashes", "--requirement", str(requirements))
    mark.write_text(digest)


def version(system: System) -> str:
    """Return the installed version of the system's package, and the commit of a checkout of this project."""
    code = f"from importlib.metadata import version; print(version({system.package!r}))"
    installed = _run(str(system.bin / "python"), "-c", code).strip()
    if not system.is_ours:
        return installed
    try:
        commit = _run("git", "-C", str(system.folder), "describe", "--always", "--dirty").strip()
    except (RuntimeError, FileNotFoundError):  # an unpacked archive, or no git
        return installed
    return f"{installed} ({commit})"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed: {done.stderr.strip()[-800:]}")
    return done.stdout
