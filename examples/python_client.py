"""The demo model by this project's own client: rows, arrays, entities, errors."""

import os

import numpy as np

from ml_serve_client import ApiError, Client

row = {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}

with Client(os.environ.get("ML_SERVE_URL", "http://127.0.0.1:8000")) as client:
    print(client.predict("commodity_price_predictor", row).predictions)

    table = np.array([list(row.values())] * 1000)
    print(client.infer("commodity_price_predictor", table).array.shape)

    entities = [{"commodity_id": "crude_oil_wti"}]
    answer = client.predict_entities("commodity_price_predictor", entities, feature_view="commodity_features")
    print(answer.predictions, answer.features)

    try:
        client.predict("commodity_price_predictor", {**row, "exchange_rate": "high"})
    except ApiError as error:
        print(error.code, error.details)
