"""Call the demo model with tritonclient over gRPC; needs ``pip install tritonclient[grpc]``."""

import os

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(os.environ.get("ML_SERVE_GRPC", "127.0.0.1:9000"))
print(client.get_model_metadata("commodity_price_predictor", as_json=True)["inputs"])

row = {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}
inputs = []
for name, value in row.items():
    column = triton.InferInput(name, [1], "FP64")
    column.set_data_from_numpy(np.array([value]))
    inputs.append(column)

answer = client.infer("commodity_price_predictor", inputs, client_timeout=5.0)
print(answer.as_numpy("price"))

try:
    client.infer("commodity_price_predictor", inputs[:2])
except InferenceServerException as error:
    print(error)
