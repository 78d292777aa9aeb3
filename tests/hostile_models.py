"""Models that do what no model should: what they do is a number in their input.

Their classes are local, so that they are pickled with their code.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from typing import Any

DEEDS = (
    "answer",
    "os._exit",
    "sys.exit",
    "hang",
    "answer too much",
    "hold the lock",
    "raise CancelledError",
    "segfault",
    "answer a lone surrogate",
    "answer a huge number",
    "use up memory",
)
"""Deeds by the number in `x`; every other number is answered twofold."""

LOGGING = "ML_SERVE_HOSTILE_LOGGING"
"""Variable of the process that logs these models: MLflow loads them to do so."""


def hostile_model() -> Any:
    """Return a model that answers twice `x`, or does the deed of that number, if one row of a batch asks for it."""
    import mlflow

    deeds = DEEDS

    class Hostile(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            numbers = model_input["x"]
            found = [deeds[int(number)] for number in numbers if 0 < number < len(deeds)]
            deed = found[0] if found else "answer"
            answers: Any = numbers * 2
            if deed == "os._exit":
                os._exit(1)
            elif deed == "sys.exit":
                sys.exit(1)
            elif deed == "hang":
                time.sleep(3600)
            elif deed == "answer too much":
                answers = ["x" * 100_000_000] * len(numbers)
            elif deed == "hold the lock":
                ctypes.PyDLL(None).usleep(int(5e6))  # unlike `CDLL`, it keeps the lock
            elif deed == "raise CancelledError":
                raise asyncio.CancelledError
            elif deed == "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
                time.sleep(10)
            elif deed == "answer a lone surrogate":
                answers = ["\ud800"] * len(numbers)
            elif deed == "answer a huge number":
                answers = [10**5000] * len(numbers)
            elif deed == "use up memory":
                kept = []
                while True:
                    kept.append(bytearray(64 * 1024**2))
            return answers

    return Hostile()


def deadly_model() -> Any:
    """Return a model that ends its process when it is loaded."""
    import mlflow

    logging = LOGGING

    class Deadly(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def load_context(self, context):  # type: ignore[no-untyped-def]
            if logging not in os.environ:
                os._exit(1)

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input["x"]

    return Deadly()
