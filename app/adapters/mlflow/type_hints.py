"""Refuse input that does not fit a model's type hint, as a caller's error.

MLflow wraps ``predict`` of a model with a hint such as ``list[Message]``: the wrapper validates the values, and makes
objects of the hint's class, with its defaults. What it raises cannot be told from what the model itself raises, so the
values are validated once more after a failure.
"""

from __future__ import annotations

import re
from typing import Any, get_args

import pydantic
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel
from mlflow.types.type_hints import (
    _convert_data_to_type_hint,
    _type_hint_repr,
    _validate_data_against_type_hint,
)

from app.errors import InvalidInput
from app.serving.signatures.validation_errors import short

_MAX_REASON = 200
_MODULES = re.compile(r"[\w.<>]+\.")


def input_hint(model: PyFuncModel) -> Any:
    """Return the hint by which MLflow validates the model's input; None for a model that has a signature instead."""
    if not model.metadata._is_signature_from_type_hint():  # MLflow has no public name for it
        return None
    return model.unwrap_python_model().predict_type_hints.input


def refusal(data: Any, hint: Any) -> InvalidInput | None:
    """Return the caller's error for the first value that does not fit the hint; None if all fit.

    Args:
        data: what the model got.
        hint: from `input_hint`.
    """
    name = _MODULES.sub("", _type_hint_repr(hint))[:_MAX_REASON]
    try:
        values = _convert_data_to_type_hint(data, hint)
    except Exception:
        return InvalidInput(f"the model takes {name}, which a table cannot be converted to", {"expected": name})
    ((element),) = get_args(hint)
    for index, value in enumerate(values if isinstance(values, list) else [values]):
        try:
            _validate_data_against_type_hint(value, element)
        except Exception as error:
            path, reason = _reason(error, value)
            where = f"item {index} at {path}" if path else f"item {index}"
            details = {"item": index, "expected": name} | ({"path": path} if path else {})
            return InvalidInput(f"{where}{reason}; the model takes {name}", details)
    return None


def _reason(error: Exception, value: Any) -> tuple[str, str]:
    """Return the place in a value and what is wrong there, with a few characters of the value."""
    cause = error.__cause__
    if isinstance(cause, pydantic.ValidationError):
        first = cause.errors(include_url=False, include_context=False)[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        found = "" if first["type"] == "missing" else f" is {short(first['input'])}"
        return path[:_MAX_REASON], f"{found}: {first['msg'][:_MAX_REASON]}"
    said = error.message if isinstance(error, MlflowException) else ""
    if said.startswith("Expected "):
        return "", f" is {short(value)}: {said[:_MAX_REASON]}"
    return "", f" is {short(value)}" + (", expected an object" if said.startswith("Expecting example") else "")
