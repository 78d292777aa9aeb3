"""TODO app/adapters/mlflow."""
