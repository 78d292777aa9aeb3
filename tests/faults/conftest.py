"""The platform for faults, started once for all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import RUNNING
from tests.faults.faulty import Faulty
from tests.platform import leftovers


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    """Instead of the session's platform: these tests come last, and it is not started again."""
    for platform in RUNNING:
        if platform.running:
            platform.stop()
    assert leftovers() == [], "another Ray runs on this machine: stop it first"
    faulty = Faulty(tmp_path_factory.mktemp("faults"))
    try:
        faulty.start()
        yield faulty
    finally:
        faulty.stop()
