"""Typed client of an ml-serve gateway: `Client` for blocking code, `AsyncClient` for asyncio.

::

    with Client("http://127.0.0.1:8000") as client:
        client.predict("prices", {"oil": 75.5, "gas": 3.2}).predictions
        client.infer("prices", pd.DataFrame({"oil": [75.5], "gas": [3.2]})).array

Every method raises `ApiError` for an error response and `ConnectionFailed` where no response arrives.
"""

from ml_serve_client._client import DEFAULT_URL, AsyncClient, Client
from ml_serve_client._comparison import ComparedVersion, Comparison, Difference, Estimate, ShadowComparison
from ml_serve_client._errors import ApiError, ClientError, ConnectionFailed, NoResponse
from ml_serve_client._predictions import Prediction, TensorPrediction
from ml_serve_client._results import (
    AliasChange,
    Batching,
    FeatureSource,
    Health,
    LiveVersion,
    Model,
    ModelMetadata,
    ModelVersion,
    Part,
    ReplicaUsage,
    Schema,
    Statistics,
    TensorMetadata,
    Traffic,
    VersionState,
)
from ml_serve_client._retry import Retry
from ml_serve_client._version import __version__

__all__ = [
    "DEFAULT_URL",
    "AliasChange",
    "ApiError",
    "AsyncClient",
    "Batching",
    "Client",
    "ClientError",
    "ComparedVersion",
    "Comparison",
    "ConnectionFailed",
    "Difference",
    "Estimate",
    "FeatureSource",
    "Health",
    "LiveVersion",
    "Model",
    "ModelMetadata",
    "ModelVersion",
    "NoResponse",
    "Part",
    "Prediction",
    "ReplicaUsage",
    "Retry",
    "Schema",
    "ShadowComparison",
    "Statistics",
    "TensorMetadata",
    "TensorPrediction",
    "Traffic",
    "VersionState",
    "__version__",
]
