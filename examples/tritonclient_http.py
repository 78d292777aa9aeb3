"""Call the demo model with tritonclient over HTTP; needs ``pip install tritonclient[http]``."""

import os

import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(os.environ.get("ML_SERVE_URL", "http://127.0.0.1:8000").split("://")[1])

row = {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}
inputs = []
for name, value in row.items():
    column = triton.InferInput(name, [1], "FP64")
    column.set_data_from_numpy(np.array([value]))
    inputs.append(column)

answer = client.infer("commodity_price_predictor", inputs)
print(answer.as_numpy("price"))

# All columns in one tensor, in the order of the signature. The alias stands in place of a version.
table = np.array([list(row.values())] * 1000)
columns = triton.InferInput("table", table.shape, "FP64")
columns.set_data_from_numpy(table)
print(client.infer("commodity_price_predictor", [columns], model_version="challenger").as_numpy("price").shape)
