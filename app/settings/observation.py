"""Settings of traces."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import InitSettingsSource, PydanticBaseSettingsSource

from app.settings.groups import Group

ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""OpenTelemetry's own variable of the collector; `TraceSettings.endpoint` overrides it."""


class TraceSettings(Group):
    """Traces of predictions, over OpenTelemetry. See `docs/operate/monitor.md`."""

    endpoint: str | None = None
    """OTLP/HTTP endpoint of the collector, such as `http://collector:4318`. Unset: no traces."""

    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the requests that are traced. A request with a `traceparent` is traced if its caller's trace is."""

    @field_validator("endpoint")
    @classmethod
    def _web_address(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("it must begin with http:// or https://")
        return value or None


def standard_variables(settings: type[Any]) -> Iterator[PydanticBaseSettingsSource]:
    """Yield the weakest source of settings: what OpenTelemetry's own variable says."""
    endpoint = os.environ.get(ENDPOINT_VARIABLE)
    if endpoint:
        yield InitSettingsSource(settings, {"traces": {"endpoint": endpoint}})
