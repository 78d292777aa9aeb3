"""Models that cannot share a process: code of the same name, libraries of other versions, changes of the process.

Their classes are local, so that they are pickled with their code.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

PACKAGE = "clashing_factors"
PATIENCE = {"x-request-timeout-seconds": "300"}
"""Headers of calls that may be the first of such a version: it installs libraries and starts a process."""


def ship(folder: Path, factor: int) -> Path:
    """Write the package whose ``factor()`` returns a number; every caller's package has the same name."""
    package = folder / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(f"def factor():\n    return {factor}\n")
    return package


def factor_model() -> Any:
    """Return a model that answers `x` times the factor of the package that is shipped with it."""
    import mlflow

    class Factor(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input["x"] * importlib.import_module("clashing_factors").factor()

    return Factor()


def environmental_model(number: int) -> Any:
    """Return a model that writes `number` into the environment when it is loaded, and answers `x` times it."""
    import mlflow

    class Environmental(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def load_context(self, context):  # type: ignore[no-untyped-def]
            os.environ["CLASHING_NUMBER"] = str(number)

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input["x"] * int(os.environ.get("CLASHING_NUMBER", "0"))

    return Environmental()


def telling_model() -> Any:
    """Return a model that answers scikit-learn's version, the working directory and the process id, for each row."""
    import mlflow

    class Telling(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            sklearn = importlib.import_module("sklearn")
            return [f"{sklearn.__version__} {os.getcwd()} {os.getpid()}"] * len(model_input)

    return Telling()


def spying_model() -> Any:
    """Return a model that answers, as JSON for each row, the names of the variables that its process has a value of.

    `environ` are those of Python, `proc` those that the process was started with.
    """
    import mlflow

    class Spying(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            started = Path("/proc/self/environ").read_text().split("\0")
            found = {
                "environ": sorted(name for name, value in os.environ.items() if value),
                "proc": sorted(name for name, _, value in (one.partition("=") for one in started) if value),
            }
            return [json.dumps(found)] * len(model_input)

    return Spying()
