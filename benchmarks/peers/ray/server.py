"""A pyfunc model on Ray Serve as its documentation composes it: a FastAPI ingress, a handle, `@serve.batch`."""

import os
import signal
import threading

import mlflow
import pandas as pd
import ray
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

app = FastAPI()


class Row(BaseModel):
    crude_oil_price: float
    natural_gas_price: float
    exchange_rate: float


@serve.deployment(max_ongoing_requests=256)
class Model:
    def __init__(self, path: str) -> None:
        self.model = mlflow.pyfunc.load_model(path)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.0)
    async def predict(self, rows: list[dict[str, float]]) -> list[float]:
        return self.model.predict(pd.DataFrame(rows)).tolist()


@serve.deployment(max_ongoing_requests=256)
@serve.ingress(app)
class Gateway:
    def __init__(self, model) -> None:
        self.model = model

    @app.post("/predict")
    async def predict(self, row: Row) -> dict[str, float]:
        return {"prediction": await self.model.predict.remote(row.model_dump())}


if __name__ == "__main__":
    ray.init(include_dashboard=False, object_store_memory=2**30)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])},
        logging_config={"enable_access_log": False},
    )
    serve.run(Gateway.bind(Model.bind(os.environ["BENCH_MODEL"])))
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait()
    serve.shutdown()
    ray.shutdown()
