"""Validation of a request's inference parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from app.errors import InvalidInput
from app.serving.signatures.columns import ColumnType
from app.serving.signatures.nested import ObjectType, column_type
from app.serving.signatures.validation_errors import Misfit, listed, resembling, short


class Parameters:
    """The parameters of one signature, compiled. Raises `KeyError` if one has an unknown type."""

    def __init__(self, specs: Sequence[Mapping[str, Any]]) -> None:
        self._types = {spec["name"]: column_type(spec, required=True) for spec in specs}
        self._lists = {spec["name"] for spec in specs if spec.get("shape") is not None}
        self.names = tuple(self._types)

    def canonical(self, params: Mapping[str, Any] | None) -> str:
        """Return equal text for equal parameters: JSON with sorted keys, empty for none.

        Parameters that are not given stay out: MLflow gives the model their defaults.

        Raises:
            InvalidInput: an unknown parameter, or a value that does not fit.
        """
        if params is None:
            return ""
        if not isinstance(params, Mapping):
            raise InvalidInput(f"the parameters are {short(params)}, expected an object of names and values")
        for name in params:
            if name not in self._types:
                # MLflow drops unknown parameters with a warning in the server's log, which the caller never sees.
                allowed = f"it takes {listed(self.names)}" if self.names else "it takes no parameters"
                raise InvalidInput(
                    f"the model has no parameter {short(name)}{resembling(name, self.names)}; {allowed}",
                    {"parameter": name, "expected": list(self.names)},
                )
        if not params:
            return ""
        values = {name: self._value(name, value) for name, value in params.items()}
        return json.dumps(values, sort_keys=True, separators=(",", ":"))

    def _value(self, name: str, value: Any) -> Any:
        kind = self._types[name]
        try:
            if name in self._lists:
                return _list(kind, value)
            # MLflow passes a null on; it does not replace it by the default.
            return None if value is None and not isinstance(kind, ObjectType) else _plain(kind, value)
        except Misfit as misfit:
            raise InvalidInput(
                f"parameter {short(name)} is {short(misfit.value)}, expected {misfit.expected}",
                {"parameter": name, "expected": misfit.expected},
            ) from None


def _list(kind: ColumnType, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Misfit(value, f"a list, each item {kind.expected}")
    return [None if item is None else _plain(kind, item) for item in value]


def _plain(kind: ColumnType, value: Any) -> Any:
    """Convert a value to one that JSON holds, so that 1 and 1.0 are the same double."""
    cell = kind.cell(value)
    if kind.dtype == "object":
        return value
    if kind.dtype != "datetime64[ns]":
        return cell
    # MLflow reads a date as a date, and neither time zones nor more than microseconds.
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)).isoformat()
