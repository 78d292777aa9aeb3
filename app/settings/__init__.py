"""The one place that reads the environment: `Settings`, frozen, built once at start and passed in from there.

Sources, the stronger first: ``ML_SERVE_*`` variables (and the ecosystem's own names, such as ``MLFLOW_TRACKING_URI``),
the YAML file given by ``--config`` or ``ML_SERVE_CONFIG``, the defaults. Nested fields are written with two
underscores: ``ML_SERVE_LIMITS__ROWS=5000``. An unknown key or a bad value stops the start.
"""

from app.settings.groups import BatchSettings, GatewayScaling, Limits, PoolSettings, RequestScaling, Scaling
from app.settings.loading import environment_names, load
from app.settings.model import Settings

__all__ = [
    "BatchSettings",
    "GatewayScaling",
    "Limits",
    "PoolSettings",
    "RequestScaling",
    "Scaling",
    "Settings",
    "environment_names",
    "load",
]
