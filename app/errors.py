"""Every failure that the product knows, as one tree.

::

    ServingError                     a failure that the product knows
    ├── InvalidRequest               the body or the parameters are wrong
    │   ├── MalformedBody            the body is not JSON or not of the documented form
    │   ├── InvalidInput             the rows do not fit the model's signature
    │   └── InvalidReference         the text is not a model reference
    ├── Unsupported                  the gateway does not offer this feature of the protocol
    ├── TooLarge                     the body, the rows or the columns exceed a limit
    ├── UnsupportedMediaType         the endpoint does not read this content type or encoding
    ├── Unauthenticated              the request has no valid credentials
    ├── Forbidden                    the caller may not do this
    ├── NotFound                     a resource that the request names does not exist
    │   ├── ModelNotFound            the registered model, alias or version does not exist
    │   ├── FeatureSourceNotFound    the feature view or feature service does not exist
    │   └── EntityNotFound           the feature store has no values for an entity
    ├── Conflict                     the current state does not allow the operation
    │   └── RegistryReadOnly         the gateway cannot write to the model registry
    ├── Overloaded                   the queue is full
    ├── Unavailable                  a component that the request needs does not answer
    │   ├── ModelUnavailable         the version cannot be loaded
    │   ├── RegistryUnavailable      the model registry does not answer
    │   ├── FeatureStoreUnavailable  the feature store does not answer
    │   └── PoolUnavailable          no replica of the model's pool answers
    │       └── ReplicaDied          the replica died while it predicted the batch
    ├── DeadlineExceeded             the deadline has passed
    │   └── BodyTimeout              the request's body did not arrive in time
    ├── CallerGone                   the caller disconnected before the answer
    ├── ModelFailed                  the model raised an exception
    └── StartupError                 the platform cannot start

There is no HTTP here: `app.api.http.errors` maps these classes to the statuses and bodies of each dialect. A message is
written for the caller and never holds a path, a secret, SQL or a traceback. The log has the cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ServingError(Exception):
    """A failure that the product knows. ``args`` is ``(message, details)``, so every instance survives pickling.

    Args:
        message: what is wrong, where, and what to do about it, in one sentence for the caller.
        details: the same facts for programs; JSON values only.
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
    """The body or the parameters of the request are wrong."""

    code = "invalid_request"


class MalformedBody(InvalidRequest):
    """The body is not JSON or not of the documented form."""

    code = "malformed_body"


class InvalidInput(InvalidRequest):
    """The rows do not fit the model's signature; ``details`` has ``column``, ``row`` and ``expected`` if known."""

    code = "invalid_input"


class InvalidReference(InvalidRequest):
    """The text is not a model reference: ``name``, ``name@alias`` or ``name/versions/N``."""

    code = "invalid_reference"


class Unsupported(ServingError):
    """The gateway does not offer this feature of the protocol."""

    code = "unsupported"


class TooLarge(ServingError):
    """The body, the number of rows or the number of columns exceeds its limit."""

    code = "too_large"


class UnsupportedMediaType(ServingError):
    """The endpoint does not read this content type or content encoding."""

    code = "unsupported_media_type"


class Unauthenticated(ServingError):
    """The request has no credentials, or credentials that are wrong, expired or revoked."""

    code = "unauthenticated"


class Forbidden(ServingError):
    """The caller is known, but may not do this; or a browser sent the request for a page of another origin."""

    code = "forbidden"


class NotFound(ServingError):
    """A resource that the request names does not exist."""

    code = "not_found"


class ModelNotFound(NotFound):
    """The registered model, alias or version does not exist."""

    code = "model_not_found"


class FeatureSourceNotFound(NotFound):
    """The feature view or feature service does not exist."""

    code = "feature_source_not_found"


class EntityNotFound(NotFound):
    """The feature store has no values for an entity of the request."""

    code = "entity_not_found"


class Conflict(ServingError):
    """The current state does not allow the operation; the message says what resolves the conflict."""

    code = "conflict"


class RegistryReadOnly(Conflict):
    """The gateway cannot write to the model registry, because of a setting or because the registry refuses."""

    code = "registry_read_only"


class Overloaded(ServingError):
    """The queue is full; ``details["retry_after_s"]`` is the number of seconds to wait before a retry."""

    code = "overloaded"


def overloaded(why: str) -> Overloaded:
    """Return the error for a caller who should try again soon."""
    seconds = 1
    return Overloaded(f"too much is queued: {why}; try again in {seconds} s", {"retry_after_s": seconds})


class Unavailable(ServingError):
    """A component that the request needs does not answer now."""

    code = "unavailable"


class ModelUnavailable(Unavailable):
    """The version cannot be loaded, or its pool is not configured."""

    code = "model_unavailable"


class EnvironmentMissing(Exception):
    """A version can be loaded once its environment is built. No `ServingError`, because it never reaches a caller."""


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
    """The pool's replica died twice while it predicted this batch, perhaps because of one of its requests.

    `began` says that the replica's own process was running the batch when it died. It does not survive pickling.
    """

    code = "replica_died"
    began = False


class DeadlineExceeded(ServingError):
    """The deadline of the request has passed."""

    code = "deadline_exceeded"


class BodyTimeout(DeadlineExceeded):
    """The body of the request did not arrive in time."""

    code = "body_timeout"


class CallerGone(ServingError):
    """The caller disconnected, so nobody reads the answer."""

    code = "caller_gone"


class ModelFailed(ServingError):
    """The model raised an exception; the message is safe to show, and the log has the cause."""

    code = "model_failed"


class StartupError(ServingError):
    """The platform cannot start as configured; the message is for the operator."""

    code = "startup"
