#!/bin/sh
# The demo model in every HTTP dialect, with nothing but curl.
set -eu
url=${ML_SERVE_URL:-http://127.0.0.1:8000}
model=commodity_price_predictor
json='content-type: application/json'
post() { path=$1; shift; curl --silent --show-error --fail-with-body "$url$path" "$@"; echo; }

# Rows by column name.
post /serve -H "$json" -d '{"model_name": "'$model'",
  "data": {"crude_oil_price": 75.5, "natural_gas_price": 3.2, "exchange_rate": 1.18}}'

# The same columns from the feature store.
post /serve -H "$json" -d '{"model_name": "'$model'", "use_feature_store": true,
  "entity_id": "crude_oil_wti", "feature_view": "commodity_features"}'

# KServe v1.
post "/v1/models/$model:predict" -H "$json" -d '{"instances": [[75.5, 3.2, 1.18]]}'

# Open Inference Protocol: a tensor per column, here of version 2.
post "/v2/models/$model/versions/2/infer" -H "$json" -d '{"inputs": [
  {"name": "crude_oil_price", "shape": [1], "datatype": "FP64", "data": [75.5]},
  {"name": "natural_gas_price", "shape": [1], "datatype": "FP64", "data": [3.2]},
  {"name": "exchange_rate", "shape": [1], "datatype": "FP64", "data": [1.18]}]}'

# MLflow scoring, as JSON and as CSV.
post "/invocations/$model" -H "$json" -d '{"dataframe_split": {
  "columns": ["crude_oil_price", "natural_gas_price", "exchange_rate"], "data": [[75.5, 3.2, 1.18]]}}'
printf 'crude_oil_price,natural_gas_price,exchange_rate\n75.5,3.2,1.18\n' |
    post "/invocations/$model" -H 'content-type: text/csv' --data-binary @-
