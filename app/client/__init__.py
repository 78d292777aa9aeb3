"""A typed client of a gateway: `Client` for plain code, `AsyncClient` for asyncio.

::

    with Client("http://127.0.0.1:8000") as client:
        client.predict("prices", {"oil": 75.5, "gas": 3.2}).predictions
        client.infer("prices", pd.DataFrame({"oil": [75.5], "gas": [3.2]})).array

Every method raises `ApiError` where the answer is an error and `ConnectionFailed` where there is none.
"""

from app.client.answers import (
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
from app.client.clients import DEFAULT_URL, AsyncClient, Client
from app.client.comparisons import ComparedVersion, Comparison, Difference, Estimate, ShadowComparison
from app.client.errors import ApiError, ClientError, ConnectionFailed, NoAnswer
from app.client.predictions import Prediction, TensorPrediction
from app.client.retry import Retry

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
