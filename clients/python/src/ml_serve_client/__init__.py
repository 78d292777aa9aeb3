"""Typed client of an ml-serve gateway: `Client` for blocking code, `AsyncClient` for asyncio.

::

    with Client("http://127.0.0.1:8000") as client:
        client.predict("prices", {"oil": 75.5, "gas": 3.2}).predictions
        client.infer("prices", pd.DataFrame({"oil": [75.5], "gas": [3.2]})).array

Every method raises `ApiError` where the answer is an error and `ConnectionFailed` where there is none.
"""

from ml_serve_client._client import DEFAULT_URL, AsyncClient, Client
from ml_serve_client._comparison import ComparedVersion, Comparison, Difference, Estimate, ShadowComparison
from ml_serve_client._errors import ApiError, ClientError, ConnectionFailed, NoAnswer
from ml_serve_client._predictions import Prediction, TensorPrediction
from ml_serve_client._results import (
    FeatureSource,
    Health,
    Live,
    Loaded,
    Model,
    ModelMetadata,
    Part,
    ReplicaUsage,
    Schema,
    Statistics,
    Switched,
    TensorMetadata,
    Traffic,
    Version,
)
from ml_serve_client._retry import Retry

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "ComparedVersion",
    "Comparison",
    "ConnectionFailed",
    "Difference",
    "Estimate",
    "FeatureSource",
    "Health",
    "Live",
    "Loaded",
    "Model",
    "ModelMetadata",
    "NoAnswer",
    "Part",
    "Prediction",
    "ReplicaUsage",
    "Retry",
    "Schema",
    "ShadowComparison",
    "Statistics",
    "Switched",
    "TensorMetadata",
    "TensorPrediction",
    "Traffic",
    "Version",
]
