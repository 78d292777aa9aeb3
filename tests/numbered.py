"""Models whose answers contain the version, and whether it was warm."""

from __future__ import annotations

import math
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

STEP = 1000
"""The first version answers its input plus so much, the second plus twice as much."""

HOLD_S = 10.0
"""Seconds after which a held load ends by itself."""

_UNWARMED = 0.5
_AWAITED = 0.25


class Said(NamedTuple):
    """Content of an answer.

    Attributes:
        version: the version that answered.
        unwarmed: it was the first prediction since the version was loaded, so nothing had warmed it.
        awaited: the request was sent before the load of the version began, so its caller waited for it.
    """

    version: str
    unwarmed: bool
    awaited: bool


def decode(answer: float, x: float) -> Said:
    """Decode the answer to an `x` below `STEP`."""
    number, rest = divmod(answer - x, STEP)
    return Said(str(math.floor(number)), rest % 1 >= _UNWARMED, rest % _UNWARMED >= _AWAITED)


def log(
    number: int,
    *,
    load_s: float = 0.0,
    held_in: Path | None = None,
    predict_s: float = 0.0,
    further: str | None = None,
    row_wise: bool = True,
) -> str:
    """Log the model of one version, in the active run if there is one; return its model id.

    Its inputs are `x`, a whole number below `STEP`, and `sent`, when the request was sent in seconds since 1970.

    Args:
        load_s: least seconds that a load takes.
        held_in: while this folder exists, each load writes a file there and waits until somebody removes the file.
        predict_s: seconds that a prediction takes, of any number of rows.
        further: name of one more required input.
        row_wise: whether to log the input example that proves that rows can share a batch.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    class Model(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # MLflow is untyped here
        def load_context(self, context):  # type: ignore[no-untyped-def]
            self.began = time.time()
            self.is_fresh = True
            time.sleep(load_s)
            if held_in is not None and held_in.is_dir():
                mark = held_in / uuid.uuid4().hex
                with suppress(FileNotFoundError):  # nobody holds loads any more
                    mark.touch()
                while mark.exists() and time.time() < self.began + load_s + HOLD_S:
                    time.sleep(0.01)

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            unwarmed, self.is_fresh = self.is_fresh, False
            time.sleep(predict_s)
            awaited = (model_input["sent"] < self.began).to_numpy()
            return model_input["x"].to_numpy() + STEP * number + _UNWARMED * unwarmed + _AWAITED * awaited

    columns = ["x", "sent", *([further] if further else [])]
    info = mlflow.pyfunc.log_model(
        name="python",
        python_model=Model(),
        signature=ModelSignature(Schema([ColSpec(DataType.double, column) for column in columns])),
        input_example=pd.DataFrame({column: [1.0] for column in columns}) if row_wise else None,
        pip_requirements=[],
    )
    return str(info.model_id)
