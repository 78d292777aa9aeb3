"""The audit log: one line for each management call, whether it succeeded or was refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from app.serving.callers import Caller, readable

log = logging.getLogger(__name__)


def write_audit(
    facts: Mapping[str, Any],
    caller: Caller,
    headers: Mapping[bytes, bytes],
    *,
    peer: str,
    result: object,
    request_id: str,
) -> None:
    """Write the line of a call.

    Args:
        facts: the action, the model, and what the handler added, such as a version.
        peer: address of the sender, usually the load balancer's. ``x-forwarded-for`` names whom the proxies in front
            saw, if they are to be believed.
        result: HTTP status or gRPC code.
    """
    forwarded = headers.get(b"x-forwarded-for", b"-").decode("latin-1")
    given = {**facts, "caller": caller.name, "peer": peer, "forwarded_for": forwarded, "result": result}
    values = {name: value for name, value in given.items() if value is not None}
    text = " ".join(f"{name}={_value(value)}" for name, value in values.items())
    log.info("management call: %s request_id=%s", text, request_id, extra={"facts": values})


def _value(value: object) -> str:
    text = readable(str(value))
    return f'"{text}"' if not text or not {" ", "=", '"'}.isdisjoint(text) else text
