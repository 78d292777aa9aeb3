"""Call the demo model with MLflow's deployments API, and with a request of its scoring protocol."""

import os

import pandas as pd
import requests
from mlflow.deployments import get_deploy_client

url = os.environ.get("ML_SERVE_URL", "http://127.0.0.1:8000")
model = "commodity_price_predictor"
frame = pd.DataFrame([{"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}])

# The target is part of the gateway's package, which must be installed beside MLflow.
client = get_deploy_client(f"ml-serve:{url}")
print([deployment["name"] for deployment in client.list_deployments()])
print(client.predict(model, frame).to_json())

# The protocol of `mlflow models serve`, with the name of the model in the path.
answer = requests.post(
    f"{url}/invocations/{model}", json={"dataframe_split": frame.to_dict(orient="split")}, timeout=10
)
print(answer.json())
