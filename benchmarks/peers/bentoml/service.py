"""A pyfunc model as a BentoML service with adaptive batching."""

import os

import bentoml
import mlflow
import numpy as np
import pandas as pd


@bentoml.service(
    workers=1, threads=2, traffic={"timeout": 60, "max_concurrency": 1024}, logging={"access": {"enabled": False}}
)
class Model:
    def __init__(self) -> None:
        self.model = mlflow.pyfunc.load_model(os.environ["BENCH_MODEL"])
        self.columns = self.model.metadata.get_input_schema().input_names()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model.predict(pd.DataFrame(rows, columns=self.columns))
