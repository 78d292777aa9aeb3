"""What each process of Ray imports before it gets work: Ray Serve, without pandas, which Serve can do without.

Of the 1.7 s of CPU and 184 MB that Serve takes in a process of its own, pandas is 0.4 s and 49 MB, and garbage
collection, which frees nothing during an import, is 0.2 s. Ray imports this module by its name, see `ray_environment`.
"""

import gc
import os

from app.deployments.environment import WITHOUT_SERVE
from app.deployments.process import make_collections_rare
from app.imports import without

make_collections_rare()
if WITHOUT_SERVE not in os.environ:
    with without("pandas"):
        import ray.serve  # noqa: F401
    gc.freeze()
