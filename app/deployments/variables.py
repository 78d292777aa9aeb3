"""Environment variables that a worker process does not get, because its models have no use for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_SECRET = re.compile(
    r"^ML_SERVE_|^AWS_|^MLFLOW_TRACKING_|^MLFLOW_REGISTRY_URI$|SECRET|TOKEN|PASSW|CREDENTIAL|_KEY$|^PG"
)
"""Names of variables that models need no knowledge of: settings of the gateway, and what looks like a credential."""


def without_secrets(kept: Iterable[str]) -> dict[str, str]:
    """Return empty values for the variables of this process whose names look like secrets, except `kept`.

    Ray's own stay: a process cannot join without them.
    """
    return dict.fromkeys({*_secrets()} - {*kept}, "")


def drop_emptied() -> None:
    """Remove from this process the variables that `without_secrets` has emptied. Others may be empty on purpose."""
    for name in _secrets():
        if not os.environ[name]:
            del os.environ[name]


def _secrets() -> list[str]:
    return [name for name in os.environ if not name.startswith("RAY_") and _SECRET.search(name.upper())]
