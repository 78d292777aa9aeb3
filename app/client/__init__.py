"""A typed client of a gateway: `Client` for plain code, `AsyncClient` for asyncio.

::

    with Client("http://127.0.0.1:8000") as client:
        client.predict("prices", {"oil": 75.5, "gas": 3.2}).predictions

Every method raises `ApiError` where the answer is an error and `ConnectionFailed` where there is none.
"""

from app.client.answers import Health, Loaded, Model, Part, Prediction, ReplicaUsage, Version
from app.client.clients import DEFAULT_URL, AsyncClient, Client
from app.client.errors import ApiError, ClientError, ConnectionFailed, NoAnswer

__all__ = [
    "DEFAULT_URL",
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "Health",
    "Loaded",
    "Model",
    "NoAnswer",
    "Part",
    "Prediction",
    "ReplicaUsage",
    "Version",
]
