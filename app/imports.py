"""Imports of libraries without the optional libraries that they import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast


@contextmanager
def without(library: str) -> Iterator[None]:
    """Make imports of `library` fail with `ImportError`, in every thread, unless it is imported already.

    For the import of libraries that can do without it.
    """
    if library in sys.modules:
        yield
        return
    modules = cast(dict[str, object], sys.modules)
    modules[library] = None
    try:
        yield
    finally:
        del modules[library]
