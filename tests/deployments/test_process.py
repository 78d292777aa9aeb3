"""What a process does before it loads models: in processes of their own, since it is done to the whole process."""

from __future__ import annotations

import subprocess
import sys

_FILTERS = """
import warnings
import numpy, sklearn.ensemble  # which add filters of theirs
from app.deployments.process import prepare_for_models
before = len(warnings.filters)
prepare_for_models()
print(before, [(action, category.__name__) for action, _, category, _, _ in warnings.filters])
"""


def filters(*options: str) -> tuple[int, str]:
    command = [sys.executable, *options, "-c", _FILTERS]
    before, _, after = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition(" ")
    return int(before), after.strip()


def test_warning_filters_of_libraries_are_removed() -> None:
    before, after = filters()
    assert before > 8
    hidden = ["UserWarning", "DeprecationWarning", "PendingDeprecationWarning", "ImportWarning", "ResourceWarning"]
    assert after == str([("ignore", name) for name in hidden])


def test_the_filters_of_the_operator_stay() -> None:
    before, after = filters("-W", "error::BytesWarning")
    assert after.count("(") == before
    assert "('error', 'BytesWarning')" in after
