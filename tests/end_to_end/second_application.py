"""A program for tests: deploys the platform's application once more, under another name, into the Ray that runs here.

Settings come from the environment, as for `ml-serve up`. It says ``deployed``, and takes the application away when its
input ends.
"""

from __future__ import annotations

import os
import sys

from app.deployments.environment import apply, quiet_environment
from app.settings import load

NAME = "second"


def main() -> None:
    settings = load()
    # What `up` has set for the Ray that runs: handles and deployments must be made for the same mode.
    apply({**quiet_environment(), "RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"})
    import ray
    from ray import serve

    from app.deployments.application import compose

    ray.init("auto", log_to_driver=False)
    serve.run(compose(settings), name=NAME, route_prefix=f"/{NAME}")
    sys.stdout.write("deployed\n")
    sys.stdout.flush()
    sys.stdin.read()
    serve.delete(NAME)
    ray.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()
