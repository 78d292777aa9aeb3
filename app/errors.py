"""Every failure that the product knows, as one tree.

::

    ServingError
    ├── InvalidRequest           the caller's body or parameters are wrong
    │   ├── MalformedBody        not JSON, or not of the documented form
    │   ├── InvalidInput         the rows do not fit the model's signature
    │   └── InvalidReference     not a `name`, `name@alias` or `name/versions/N`
    ├── Unsupported              a feature of a protocol that is not offered here
    ├── TooLarge                 a body, or a number of rows, over its limit
    ├── UnsupportedMediaType     a content type or encoding that is not read here
    ├── NotFound
    │   ├── ModelNotFound        no such registered model, alias or version
    │   ├── FeatureSourceNotFound  no such feature view or feature service
    │   └── EntityNotFound       the feature store has no values for this entity
    ├── Conflict                 what is asked for contradicts the state of things
    │   └── RegistryReadOnly     the model registry cannot be written to
    ├── Overloaded               more is queued than the limits allow
    ├── Unavailable
    │   ├── ModelUnavailable     the version could not be loaded, or is not served
    │   ├── RegistryUnavailable  the model registry does not answer
    │   ├── FeatureStoreUnavailable  the feature store does not answer
    │   └── PoolUnavailable      no replica of the model's pool answers
    │       └── ReplicaDied      the replica died while it computed this batch
    ├── DeadlineExceeded         the caller's time is up
    ├── CallerGone               the connection ended before the answer
    ├── ModelFailed              the model raised while predicting
    │   └── WrongRowCount        the model answered with another number of rows
    └── StartupError             the platform cannot start; the message is for the operator

There is no HTTP here: each dialect maps these classes to its own statuses and bodies in `app.api.http.errors`.
Messages are written for callers: they never hold a path, a secret, SQL or a traceback. The cause, where there is one,
goes to the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ServingError(Exception):
    """Base of the tree. ``args`` is ``(message, details)``, so that every instance survives pickling.

    Args:
        message: one sentence for the caller: what is wrong and what to do about it.
        details: what a program would want to read from the same fact; JSON values only.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, dict(details or {}))

    @property
    def message(self) -> str:
        return str(self.args[0])

    @property
    def details(self) -> dict[str, Any]:
        return dict(self.args[1])

    def __str__(self) -> str:
        return self.message


class InvalidRequest(ServingError):
    """The request cannot be answered as written."""

    code = "invalid_request"


class MalformedBody(InvalidRequest):
    """The body is not JSON, or not of the documented form."""

    code = "malformed_body"


class InvalidInput(InvalidRequest):
    """The rows do not fit the model's signature. ``details`` names ``column``, ``row`` and ``expected`` where known."""

    code = "invalid_input"


class InvalidReference(InvalidRequest):
    """A model reference that is neither ``name``, ``name@alias`` nor ``name/versions/N``."""

    code = "invalid_reference"


class Unsupported(ServingError):
    """The request uses a feature of its protocol that is not offered here."""

    code = "unsupported"


class TooLarge(ServingError):
    """The body, or the number of rows or columns, is over its limit."""

    code = "too_large"


class UnsupportedMediaType(ServingError):
    """The content type or content encoding is not read by this endpoint."""

    code = "unsupported_media_type"


class NotFound(ServingError):
    """Something that the request names does not exist."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No such registered model, alias or version."""

    code = "model_not_found"


class FeatureSourceNotFound(NotFound):
    """No such feature view or feature service."""

    code = "feature_source_not_found"


class EntityNotFound(NotFound):
    """The feature store holds no values for an entity of the request."""

    code = "entity_not_found"


class Conflict(ServingError):
    """What is asked for contradicts the state of things; the message says what would resolve it."""

    code = "conflict"


class RegistryReadOnly(Conflict):
    """The model registry cannot be written to, by its own doing or by setting."""

    code = "registry_read_only"


class Overloaded(ServingError):
    """More is queued than the limits allow; ``details["retry_after_s"]`` says when to try again."""

    code = "overloaded"


class Unavailable(ServingError):
    """A part that this request needs does not answer now."""

    code = "unavailable"


class ModelUnavailable(Unavailable):
    """The version could not be loaded, or its pool is not configured."""

    code = "model_unavailable"


class RegistryUnavailable(Unavailable):
    """The model registry does not answer."""

    code = "registry_unavailable"


class FeatureStoreUnavailable(Unavailable):
    """The feature store does not answer, or is not configured."""

    code = "feature_store_unavailable"


class PoolUnavailable(Unavailable):
    """No replica of the model's pool answers."""

    code = "pool_unavailable"


class ReplicaDied(PoolUnavailable):
    """The pool's replica died with this batch, twice. One of its requests may be what kills it."""

    code = "replica_died"


class DeadlineExceeded(ServingError):
    """The time that the caller allowed is over."""

    code = "deadline_exceeded"


class CallerGone(ServingError):
    """The caller has left; nobody reads this."""

    code = "caller_gone"


class ModelFailed(ServingError):
    """The model raised while predicting. The message is safe to show; the cause is in the log."""

    code = "model_failed"


class WrongRowCount(ModelFailed):
    """The model answered with a number of rows other than it was given."""

    code = "wrong_row_count"


class StartupError(ServingError):
    """The platform cannot start as configured. The message is for the operator."""

    code = "startup"
