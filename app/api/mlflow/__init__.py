"""TODO app/api/mlflow/endpoints."""
