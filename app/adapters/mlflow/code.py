"""Find out whether loading a version runs code that its author wrote: pickles and Python files do."""

from __future__ import annotations

import zipfile
from pathlib import Path

from app.adapters.mlflow.environments import is_python

_SUFFIXES = frozenset(
    {".py", ".pyc", ".so", ".pkl", ".pickle", ".joblib", ".cloudpickle", ".dill", ".pt", ".pth", ".h5", ".keras"}
)
"""Files of these kinds are code or pickles, or may hold them."""
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of a binary pickle: the opcode PROTO and the protocol."""
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x78\x9c", b"\x78\x01", b"\x78\xda")
"""First bytes of what joblib writes compressed."""


def code_in(folder: Path) -> str | None:
    """Return what in the artifacts of a version would run code, None where all are data."""
    if is_python(folder):
        return "Python code"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _runs(path):
            return f"the file {path.relative_to(folder)}"
    return None


def _runs(path: Path) -> bool:
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_PICKLE + _COMPRESSED):
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:  # PyTorch's form
        return any(name.endswith((".pkl", ".py")) for name in archive.namelist())
