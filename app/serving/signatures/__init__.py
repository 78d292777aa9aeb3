"""MLflow signatures: check inputs and convert them to columns."""
