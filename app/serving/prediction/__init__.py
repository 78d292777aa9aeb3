"""TODO app/serving/prediction/requests."""
