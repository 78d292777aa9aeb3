"""Joins the Ray that runs, as `ml-serve up` with `RAY_ADDRESS` does, and looks at its variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from app.deployments.environment import MODE, ray_environment
from app.settings import Settings
from tests.platform import ROOT, Platform

pytestmark = pytest.mark.ray

PROGRAM = """
import json
import os
import ray
from app.deployments.runtime import missing_variables
ray.init("auto", log_to_driver=False)
found = [missing_variables()]
os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "other"
found.append(missing_variables())
print(json.dumps(found))
"""


def missing(settings: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_variables_that_a_joined_ray_lacks_are_found(platform: Platform) -> None:
    variables = ray_environment(Settings(), platform.home)
    wanted = {name: variables[name] for name in MODE}
    assert missing(wanted) == [[], ["RAY_SERVE_ENABLE_HA_PROXY=other"]]
