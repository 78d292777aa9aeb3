"""Settings of limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.settings.groups import Group, PositiveInt


class Limits(Group):
    """Limits on one request and on waiting requests."""

    body_bytes: PositiveInt = 64 * 1024**2
    """Maximum bytes of a request body, after decompression. The gateway answers larger ones with 413."""

    json_bytes: PositiveInt = 16 * 1024**2
    """Maximum bytes of JSON in a request. JSON is parsed while other requests wait: about 10 ms for each MB. Larger
    tables fit as binary tensors, Parquet or CSV."""

    grpc_message_bytes: Annotated[int, Field(ge=1, lt=2**31)] = 64 * 1024**2
    """Maximum bytes of a gRPC message, received or sent. Larger ones fail with RESOURCE_EXHAUSTED. On a cluster that
    `up` does not start, set Ray's `RAY_SERVE_GRPC_MAX_MESSAGE_SIZE` to the same value."""

    rows: PositiveInt = 100_000
    """Maximum rows in one request."""

    columns: PositiveInt = 10_000
    """Maximum columns in one row."""

    json_depth: PositiveInt = 32
    """Maximum nesting depth of a JSON body."""

    queued_requests: PositiveInt = 4096
    """Maximum requests in progress in one gateway replica, over all models. The gateway answers more with 429."""

    queued_requests_per_model: PositiveInt = 2048
    """Maximum requests in progress for one model version in one gateway replica."""

    queued_rows: PositiveInt = 1_000_000
    """Maximum rows in progress in one gateway replica. Of this limit, and of those on requests and bytes, one model
    version or one known caller may use as much as it leaves free: half if it is alone."""

    queued_bytes: PositiveInt = 512 * 1024**2
    """Maximum input bytes in progress in one gateway replica, and maximum bytes of the bodies of its requests."""

    answer_bytes: PositiveInt = 64 * 1024**2
    """Maximum bytes that a model may answer to one request. A larger answer is that model's error."""
