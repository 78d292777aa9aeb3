"""MLflow's scoring protocol: ``/invocations`` with JSON, CSV or Parquet."""
