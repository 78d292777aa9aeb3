"""The only reader of the environment: `Settings`, frozen, built once at start and passed to everything else.

Sources, strongest first: ``ML_SERVE_*`` variables (and names of the ecosystem, such as ``MLFLOW_TRACKING_URI``), the
YAML file of ``--config`` or ``ML_SERVE_CONFIG``, the defaults. Two underscores separate nested fields:
``ML_SERVE_LIMITS__ROWS=5000``. An unknown key or an invalid value stops the start.
"""

from app.settings.groups import (
    AuthSettings,
    BatchSettings,
    EnvironmentSettings,
    PoolSettings,
    RequestScaling,
    Scaling,
    ScopeName,
    ShadowSettings,
)
from app.settings.limits import Limits
from app.settings.loading import environment_names, load
from app.settings.model import Settings
from app.settings.observation import TraceSettings
from app.settings.signatures import SignatureSettings

__all__ = [
    "AuthSettings",
    "BatchSettings",
    "EnvironmentSettings",
    "Limits",
    "PoolSettings",
    "RequestScaling",
    "Scaling",
    "ScopeName",
    "Settings",
    "ShadowSettings",
    "SignatureSettings",
    "TraceSettings",
    "environment_names",
    "load",
]
