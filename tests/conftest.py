"""The platform for tests marked `ray`: started once a session, with models of every kind in its registry."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.platform import Platform, leftovers


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """What `make serve` starts, on its default ports, with the models of `tests.registered` beside the demo's."""
    from tests.registered import register

    assert leftovers() == [], "another Ray runs on this machine: stop it first"
    folder = tmp_path_factory.mktemp("platform")
    platform = Platform(folder / "home", folder / "log")
    register(platform.home)
    platform.start()
    yield platform
    if platform.running:
        platform.stop()
