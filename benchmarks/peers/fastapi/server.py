"""A pyfunc model behind a FastAPI endpoint, as a first version would do it."""

import os

import mlflow
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel

model = mlflow.pyfunc.load_model(os.environ["BENCH_MODEL"])
app = FastAPI()


class Row(BaseModel):
    crude_oil_price: float
    natural_gas_price: float
    exchange_rate: float


class Prediction(BaseModel):
    prediction: float


@app.post("/predict")
def predict(row: Row) -> Prediction:
    return Prediction(prediction=model.predict(pd.DataFrame([row.model_dump()]))[0])
